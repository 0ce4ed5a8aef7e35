use zerocopy::byteorder::{BigEndian, LittleEndian, U32};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::hierarchy::Hierarchy;
use super::raw::{Both16, Both32, FIRST_DESCRIPTOR, JOLIET_LEVEL_3, MAGIC, PRIMARY, RawDescriptor, SUPPLEMENTARY, TERMINATOR};
use super::record::{self, Place};
use super::space::{Places, Space};
use super::time::Time;
use super::{Error, SECTOR, VolumeLabel};
use crate::document::Tree;

/// Returns the image of `tree`, named `label`; every file and folder carries `time`, in seconds since 1970.
///
/// Files are readable by all and belong to root, as on Nova's config drives. Paths deeper than the eight levels of ECMA-119 are
/// written as they are, which all current readers accept and xorriso does too.
///
/// # Errors
///
/// [`Error::Time`] for a time that a directory record cannot state, [`Error::TooLarge`] when there are more folders or bytes than
/// the format can number.
pub fn create(tree: &Tree, label: &VolumeLabel, time: i64) -> Result<Vec<u8>, Error> {
    let time = Time::new(time)?;
    let hierarchy = Hierarchy::new(tree);
    let mut image = Image { bytes: Vec::new(), hierarchy: &hierarchy, time };
    let primary = Space::primary(&hierarchy)?;
    let joliet = Space::joliet(&hierarchy)?;
    let layout = Layout::new(&image, &primary, &joliet)?;
    image.bytes.resize(usize::try_from(FIRST_DESCRIPTOR).unwrap_or(0).saturating_mul(SECTOR), 0);
    image.bytes.extend_from_slice(image.descriptor(label, &layout.primary, layout.size, false).as_bytes());
    image.bytes.extend_from_slice(image.descriptor(label, &layout.joliet, layout.size, true).as_bytes());
    image.push(&[&[TERMINATOR][..], &MAGIC, &[1]].concat());
    for (space, part) in [(&primary, &layout.primary), (&joliet, &layout.joliet)] {
        image.push(&space.path_table(&part.places, false));
        image.push(&space.path_table(&part.places, true));
    }
    for (space, part) in [(&primary, &layout.primary), (&joliet, &layout.joliet)] {
        let (folders, continuation) = space.folders(&hierarchy, &part.places, time.record);
        for folder in folders {
            image.push(&folder);
        }
        image.push(&continuation);
    }
    for content in &hierarchy.contents {
        image.push(content);
    }
    Ok(image.bytes)
}

/// An image as far as it is written.
struct Image<'a> {
    bytes: Vec<u8>,
    hierarchy: &'a Hierarchy<'a>,
    time: Time,
}

impl Image<'_> {
    /// Appends `bytes` and fills up the sector.
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        record::pad_to_sector(&mut self.bytes);
    }

    /// Spec: ECMA-119, 8.4; Joliet's is a supplementary one (8.5) with an escape sequence for UCS-2.
    fn descriptor(&self, label: &VolumeLabel, part: &Part, size: u32, joliet: bool) -> RawDescriptor {
        let mut raw = RawDescriptor::new_zeroed();
        raw.kind = if joliet { SUPPLEMENTARY } else { PRIMARY };
        raw.magic = MAGIC;
        raw.version = 1;
        text(&mut raw.system_id, "LINUX", joliet);
        text(&mut raw.volume_id, label.as_str(), joliet);
        raw.space_size = Both32::new(size);
        if joliet {
            raw.escapes.iter_mut().zip(JOLIET_LEVEL_3).for_each(|(byte, escape)| *byte = escape);
        }
        raw.set_size = Both16::new(1);
        raw.sequence = Both16::new(1);
        raw.block_size = Both16::new(2048);
        raw.path_table_size = Both32::new(part.table_len);
        raw.little_table = U32::<LittleEndian>::new(part.little_table);
        raw.big_table = U32::<BigEndian>::new(part.big_table);
        let root = part.places.folders.first().copied().unwrap_or_default();
        let record = record::encode(&[0], root, true, self.time.record, &[]);
        raw.root.iter_mut().zip(record).for_each(|(byte, value)| *byte = value);
        raw.texts.iter_mut().for_each(|field| text(field, "", joliet));
        let [_, _, _, application] = &mut raw.texts;
        text(application, "VMIMG", joliet);
        raw.file_names.iter_mut().for_each(|field| text(field, "", joliet));
        raw.created = self.time.descriptor;
        raw.modified = self.time.descriptor;
        raw.effective = self.time.descriptor;
        // Spec: ECMA-119, 8.4.26.1: a moment of sixteen digits `0` is none at all.
        raw.expires = *b"0000000000000000\0";
        raw.structure_version = 1;
        raw
    }
}

/// Where all parts of an image go.
struct Layout {
    primary: Part,
    joliet: Part,
    /// Sectors of the whole image.
    size: u32,
}

/// One of the two trees.
#[derive(Default)]
struct Part {
    table_len: u32,
    little_table: u32,
    big_table: u32,
    places: Places,
}

impl Layout {
    fn new(image: &Image<'_>, primary: &Space, joliet: &Space) -> Result<Self, Error> {
        // Three descriptors come first.
        let mut next = Cursor { sector: FIRST_DESCRIPTOR.saturating_add(3) };
        let mut parts = [Part::default(), Part::default()];
        for (part, space) in parts.iter_mut().zip([primary, joliet]) {
            let len = space.path_table(&part.places, false).len();
            let little = next.take(len)?;
            part.table_len = little.len;
            part.little_table = little.sector;
            part.big_table = next.take(len)?.sector;
        }
        for (part, space) in parts.iter_mut().zip([primary, joliet]) {
            let (folders, continuation) = space.folders(image.hierarchy, &part.places, image.time.record);
            part.places.folders = folders.iter().map(|folder| next.take(folder.len())).collect::<Result<_, _>>()?;
            part.places.continuation = next.take(continuation.len())?.sector;
        }
        let contents = image.hierarchy.contents.iter().map(|content| next.take(content.len()));
        let contents: Vec<Place> = contents.collect::<Result<_, _>>()?;
        let [mut primary, mut joliet] = parts;
        primary.places.contents.clone_from(&contents);
        joliet.places.contents = contents;
        Ok(Self { primary, joliet, size: next.sector })
    }
}

/// The next free sector.
struct Cursor {
    sector: u32,
}

impl Cursor {
    /// Sets whole sectors aside for `len` bytes.
    fn take(&mut self, len: usize) -> Result<Place, Error> {
        let sectors = u32::try_from(len.div_ceil(SECTOR)).map_err(|_| Error::TooLarge)?;
        let place = Place { sector: self.sector, len: u32::try_from(len).map_err(|_| Error::TooLarge)? };
        self.sector = self.sector.checked_add(sectors).ok_or(Error::TooLarge)?;
        Ok(place)
    }
}

/// Fills a field with `text` and spaces, in UCS-2 for Joliet.
fn text(field: &mut [u8], text: &str, joliet: bool) {
    let mut units = text.encode_utf16().chain(std::iter::repeat(u16::from(b' ')));
    if joliet {
        for (pair, unit) in field.chunks_exact_mut(2).zip(units) {
            pair.copy_from_slice(&unit.to_be_bytes());
        }
    } else {
        field.fill_with(|| units.next().and_then(|unit| u8::try_from(unit).ok()).unwrap_or(b' '));
    }
}
