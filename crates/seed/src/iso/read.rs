use imgcore::block::BlockRead;
use zerocopy::FromBytes as _;

use super::error::corrupt;
use super::raw::{FIRST_DESCRIPTOR, JOLIET_ESCAPES, MAGIC, PRIMARY, RawDescriptor, RawRecord, SUPPLEMENTARY, TERMINATOR};
use super::record::Place;
use super::walk::Walk;
use super::{Error, SECTOR};
use crate::document::Tree;

/// What an ISO image holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Volume {
    /// The primary descriptor's volume name, without the spaces at its end.
    pub label: String,
    /// All files.
    pub tree: Tree,
    /// The names that the tree has.
    pub names: Names,
}

/// The names of an image's files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Names {
    /// Rock Ridge's, of any length and in any case.
    RockRidge,
    /// Joliet's, of up to 64 characters.
    Joliet,
    /// The primary tree's own, in capitals, with their version numbers removed.
    Primary,
}

/// Reads all files with the best names that the image has: Rock Ridge's, else Joliet's, else its own.
///
/// Images of other programs are read as well, with relocated folders, but not those with symbolic links, compressed files, files
/// in several parts or special files. The size of what is read is bounded as that of a [`Tree`] is.
///
/// # Errors
///
/// [`Error::NotIso`], [`Error::Corrupt`] and [`Error::Unsupported`] say what the bytes are not; [`Error::Storage`] when they
/// cannot be read.
pub fn read(disk: &dyn BlockRead) -> Result<Volume, Error> {
    let image = Image::open(disk)?;
    if image.system_use_skip()?.is_some() {
        image.volume(Names::RockRidge)
    } else if image.joliet.is_some() {
        image.volume(Names::Joliet)
    } else {
        image.volume(Names::Primary)
    }
}

/// Reads all files with the `names` asked for.
///
/// # Errors
///
/// [`Error::NoNames`] when the image has none of this kind, otherwise as [`read`].
pub fn read_names(disk: &dyn BlockRead, names: Names) -> Result<Volume, Error> {
    Image::open(disk)?.volume(names)
}

/// An image whose descriptors have been read.
struct Image<'a> {
    disk: &'a dyn BlockRead,
    label: String,
    primary: Place,
    joliet: Option<Place>,
}

impl<'a> Image<'a> {
    fn open(disk: &'a dyn BlockRead) -> Result<Self, Error> {
        let (mut primary, mut joliet) = (None, None);
        for sector in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR.saturating_add(MAX_DESCRIPTORS) {
            let raw = descriptor(disk, sector)?.ok_or(Error::NotIso)?;
            match raw.kind {
                PRIMARY if primary.is_none() => primary = Some((label(&raw), root(&raw, sector)?)),
                SUPPLEMENTARY if joliet.is_none() && JOLIET_ESCAPES.iter().any(|escape| raw.escapes.starts_with(escape)) => {
                    joliet = Some(root(&raw, sector)?);
                }
                TERMINATOR => break,
                _ => {}
            }
        }
        let (label, primary) = primary.ok_or(Error::NotIso)?;
        Ok(Self { disk, label, primary, joliet })
    }

    fn volume(self, names: Names) -> Result<Volume, Error> {
        let skip = match names {
            Names::RockRidge => self.system_use_skip()?.ok_or(Error::NoNames("Rock Ridge names"))?,
            Names::Joliet | Names::Primary => 0,
        };
        let root = match names {
            Names::Joliet => self.joliet.ok_or(Error::NoNames("Joliet names"))?,
            Names::RockRidge | Names::Primary => self.primary,
        };
        let tree = Walk::new(self.disk, names, skip).tree(root)?;
        Ok(Volume { label: self.label, tree, names })
    }

    /// Returns how many bytes of system use belong to somebody else, or `None` without Rock Ridge.
    ///
    /// Spec: SUSP, 5.3: the root's own record begins with `SP`, the bytes BE and EF, and that number.
    fn system_use_skip(&self) -> Result<Option<usize>, Error> {
        let mut sector = [0; SECTOR];
        self.disk.read_exact_at(&mut sector, byte_offset(self.primary.sector))?;
        let Some(len) = sector.first().copied() else { return Ok(None) };
        let record = sector.get(..len.into()).unwrap_or_default();
        // The identifier of the root's own record is one byte, which makes it 34 long.
        Ok(match record.get(size_of::<RawRecord>().saturating_add(1)..) {
            Some([b'S', b'P', 7, 1, 0xbe, 0xef, skip, ..]) => Some(usize::from(*skip)),
            _ => None,
        })
    }
}

/// Returns the descriptor at `sector`, or `None` when there is none.
fn descriptor(disk: &dyn BlockRead, sector: u32) -> Result<Option<RawDescriptor>, Error> {
    let mut bytes = [0; SECTOR];
    let offset = byte_offset(sector);
    if offset.saturating_add(2048) > disk.size() {
        return Ok(None);
    }
    disk.read_exact_at(&mut bytes, offset)?;
    let raw = RawDescriptor::read_from_bytes(&bytes).ok();
    Ok(raw.filter(|raw| raw.magic == MAGIC))
}

fn label(raw: &RawDescriptor) -> String {
    let text = String::from_utf8_lossy(&raw.volume_id);
    text.trim_end_matches([' ', '\0']).to_owned()
}

fn root(raw: &RawDescriptor, sector: u32) -> Result<Place, Error> {
    let fail = |rule| corrupt("the volume descriptor", sector, rule);
    let block_size = raw.block_size.get().ok_or_else(|| fail("the two halves of a number are equal"))?;
    if block_size != 2048 {
        return Err(Error::Unsupported("logical blocks of another size than 2048"));
    }
    let (record, _) = RawRecord::read_from_prefix(&raw.root).map_err(|_| fail("it has the root's record"))?;
    place(&record).ok_or_else(|| fail("the two halves of a number are equal"))
}

/// Returns where a record's contents are, or `None` when the halves of a number differ.
pub(super) fn place(record: &RawRecord) -> Option<Place> {
    Some(Place { sector: record.location.get()?, len: record.size.get()? })
}

pub(super) fn byte_offset(sector: u32) -> u64 {
    u64::from(sector).saturating_mul(2048)
}

/// Far more than any image has.
const MAX_DESCRIPTORS: u32 = 64;
