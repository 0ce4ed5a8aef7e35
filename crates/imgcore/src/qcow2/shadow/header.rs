//! Replacing the header: one write of the first sector decides.
//!
//! ```text
//! sector 0   | fields | extensions … | feature names …        all that says where things are
//! behind     … feature names | end | backing file's name      never changed where the header in force refers to it
//! ```

use crate::block::{BlockRead, BlockWrite, ByteRange};
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::extension::Extension;
use crate::qcow2::header::Header;
use crate::qcow2::offset::{to_u64, to_usize};

/// Puts `new` in the place of the stored header, durably.
///
/// After a cut the header is the old one, the new one, or the new one without the names of features, which mean nothing.
///
/// # Errors
///
/// [`Error::Unsupported`] when the two have no room beside each other; nothing has changed then. [`Error::Storage`].
pub(super) fn replace<S: BlockWrite>(storage: &mut S, new: &Header) -> Result<(), Error> {
    let mut new = new.clone();
    // The names of features come last, as they may be missing for a while.
    new.extensions.sort_by_key(|extension| extension.kind == Extension::FEATURE_NAMES);
    let compact = new.encode()?;
    if compact.len() <= SECTOR {
        return flip(storage, &compact);
    }
    let mut unnamed = new.clone();
    unnamed.extensions.retain(|extension| extension.kind != Extension::FEATURE_NAMES);
    if extensions_end(&unnamed)? > SECTOR {
        return Err(Unsupported::Writing("whose header extensions are too long for a safe change").into());
    }
    let old = Stored::read(storage, new.geometry.cluster_len())?;
    let end = extensions_end(&new)?;
    let name_at = place_name(&new, &old, end)?;
    let whole = new.encode_with_name_at(name_at)?;
    let tail = ByteRange::new(to_u64(SECTOR), to_u64(end)).unwrap_or_default();
    let name = ByteRange::new(to_u64(name_at.max(SECTOR)), to_u64(whole.len())).unwrap_or_default();
    write_changed(storage, &old, &whole, name)?;
    if old.differs(&whole, tail) && old.refers_to(tail) {
        storage.flush()?;
        flip(storage, &unnamed.encode_with_name_at(name_at)?)?;
    }
    write_changed(storage, &old, &whole, tail)?;
    storage.flush()?;
    flip(storage, &whole)
}

/// The first cluster as it is stored.
struct Stored {
    cluster: Vec<u8>,
    extensions_end: u64,
    name: Option<(ByteRange, Vec<u8>)>,
}

impl Stored {
    fn read(storage: &dyn BlockRead, cluster_len: usize) -> Result<Self, Error> {
        let mut cluster = vec![0; to_usize(storage.size()).min(cluster_len)];
        storage.read_exact_at(&mut cluster, 0)?;
        let header = Header::decode(&cluster)?;
        let field = |at: usize| cluster.get(at..).and_then(|rest| rest.first_chunk::<8>()).copied().unwrap_or_default();
        let name = header
            .backing_name
            .clone()
            .and_then(|name| Some((ByteRange::at(u64::from_be_bytes(field(BACKING_OFFSET)), to_u64(name.len()))?, name)));
        // A header that is written anew can only be longer than it was.
        let extensions_end = to_u64(extensions_end(&header)?);
        Ok(Self { cluster, extensions_end, name })
    }

    /// Returns whether the header in force may read bytes of `range`.
    fn refers_to(&self, range: ByteRange) -> bool {
        let extensions = ByteRange::new(0, self.extensions_end).unwrap_or_default();
        let name = self.name.as_ref().and_then(|(name, _)| name.intersection(range));
        extensions.intersection(range).is_some() || name.is_some()
    }

    /// Returns whether `bytes`, a new first cluster, differ in `range` from what is stored.
    fn differs(&self, bytes: &[u8], range: ByteRange) -> bool {
        part(&self.cluster, range) != part(bytes, range)
    }
}

/// Returns where the backing file's name goes: where the old header refers to nothing, or to the same name.
fn place_name(new: &Header, old: &Stored, end: usize) -> Result<usize, Error> {
    let Some(name) = &new.backing_name else { return Ok(end) };
    let fits = |at: u64| {
        let range = ByteRange::at(at, to_u64(name.len())).filter(|range| range.end() <= new.geometry.cluster_size())?;
        (!old.refers_to(range)).then_some(to_usize(at))
    };
    let behind = to_u64(end);
    let old_end = old.name.as_ref().map_or(0, |(range, _)| range.end()).max(old.extensions_end).max(behind);
    let same = old.name.as_ref().filter(|(range, old)| old == name && range.start() >= behind);
    let place = same.map(|(range, _)| to_usize(range.start())).or_else(|| fits(behind)).or_else(|| fits(old_end));
    place.ok_or_else(|| Unsupported::Writing("whose first cluster has no room for two names of backing files").into())
}

/// Returns the bytes of the header up to the end of its extensions.
fn extensions_end(header: &Header) -> Result<usize, Error> {
    let bare = Header { backing_name: None, ..header.clone() };
    Ok(bare.encode()?.len())
}

fn part(bytes: &[u8], range: ByteRange) -> &[u8] {
    bytes.get(to_usize(range.start())..to_usize(range.end())).unwrap_or_default()
}

/// Writes the bytes of `range` that are not stored like this already.
fn write_changed<S: BlockWrite>(storage: &mut S, old: &Stored, whole: &[u8], range: ByteRange) -> Result<(), Error> {
    if old.differs(whole, range) {
        storage.write_all_at(part(whole, range), range.start())?;
    }
    Ok(())
}

/// Writes the first sector, durably.
fn flip<S: BlockWrite>(storage: &mut S, bytes: &[u8]) -> Result<(), Error> {
    let mut sector = bytes.get(..SECTOR).unwrap_or(bytes).to_vec();
    sector.resize(SECTOR, 0);
    storage.write_all_at(&sector, 0)?;
    Ok(storage.flush()?)
}

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Where the header names the offset of the backing file's name.
const BACKING_OFFSET: usize = 8;
