//! A metadata area: its header says where in the ring behind it the text of the volume group is.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::Error;
use super::crc::crc;
use super::label::{Label, SECTOR, SECTOR_BYTES};
use crate::block::{BlockRead, ByteRange, Joined};

/// Format, "Metadata area header".
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    /// Of everything behind this field in the sector.
    checksum: U32,
    signature: [u8; 16],
    version: U32,
    offset: U64,
    size: U64,
    committed: RawLocation,
}

/// Format, "Raw location descriptor": offsets from the start of the area.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLocation {
    offset: U64,
    size: U64,
    checksum: U32,
    flags: U32,
}

const _: () = {
    assert!(size_of::<RawHeader>() == 64);
    assert!(size_of::<RawLocation>() == 24);
};

/// Returns the text that the metadata areas of `part` hold; `None` for a physical volume without one, or without a group. What is read
/// is taken off `left`, in bytes.
///
/// # Errors
///
/// [`Error::Unsupported`] for more areas than LVM makes and for more than is `left`; [`Error::Corrupt`] also when two areas differ: which of them LVM would take cannot be said without repairing.
pub(super) fn text(part: &dyn BlockRead, label: &Label, left: &mut usize) -> Result<Option<Vec<u8>>, Error> {
    if label.areas.len() > AREAS_MAX {
        return Err(Error::Unsupported(format!("a physical volume with {} metadata areas", label.areas.len())));
    }
    let mut found: Option<Option<Vec<u8>>> = None;
    for area in &label.areas {
        let Some(text) = read(part, *area, left)? else { continue };
        match &found {
            Some(before) if *before != text => {
                return Err(Error::corrupt("metadata areas of the physical volume", "must hold the same text"));
            }
            _ => found = Some(text),
        }
    }
    Ok(found.flatten())
}

/// Returns the text of one area, `Some(None)` when it has none, `None` when the area is to be ignored.
fn read(part: &dyn BlockRead, area: ByteRange, left: &mut usize) -> Result<Option<Option<Vec<u8>>>, Error> {
    let place = format!("metadata area at {}", area.start());
    let corrupt = |rule: &str| Error::corrupt(&place, rule);
    if area.len() < SECTOR.saturating_mul(2) {
        return Err(corrupt("must have room for its header and a text"));
    }
    let mut sector = [0; SECTOR_BYTES];
    part.read_exact_at(&mut sector, area.start())?;
    let (header, _) = RawHeader::ref_from_prefix(&sector).map_err(|_| corrupt("must have a header"))?;
    // Spec: format, "CRC-32 for offset 4 to end of the metadata area header".
    if header.checksum.get() != crc(sector.get(4..).unwrap_or_default()) {
        return Err(corrupt("must have the checksum of its header"));
    }
    if header.signature != SIGNATURE {
        return Err(corrupt("must have the signature of LVM2"));
    }
    if header.version.get() != 1 {
        return Err(Error::Unsupported(format!("metadata of version {}", header.version.get())));
    }
    if header.offset.get() != area.start() || header.size.get() != area.len() {
        return Err(corrupt("must be where the header of the physical volume says"));
    }
    let RawLocation { offset, size, checksum, flags } = header.committed;
    if flags.get() & IGNORED != 0 {
        return Ok(None);
    }
    if offset.get() == 0 {
        return Ok(Some(None));
    }
    let ring = area.len().saturating_sub(SECTOR);
    let len = usize::try_from(size.get()).ok().filter(|_| size.get() > 0 && size.get() <= ring);
    let len = len.filter(|len| *len <= TEXT_MAX).ok_or_else(|| corrupt("its text must have room in it"))?;
    *left = left.checked_sub(len).ok_or_else(|| Error::Unsupported("a disk with more of it than is read".to_owned()))?;
    if offset.get() < SECTOR || offset.get() >= area.len() {
        return Err(corrupt("its text must lie behind its header"));
    }
    // What does not fit at the end goes on behind the header.
    let start = area.start().saturating_add(offset.get());
    let runs = [ByteRange::new(start, area.end()), ByteRange::new(area.start().saturating_add(SECTOR), start)];
    let runs: Vec<_> = runs.into_iter().flatten().collect();
    let mut text = vec![0; len];
    Joined::open(part, &runs)?.read_exact_at(&mut text, 0)?;
    if checksum.get() != crc(&text) {
        return Err(corrupt("its text must have the checksum that its header says"));
    }
    Ok(Some(Some(text)))
}

const SIGNATURE: [u8; 16] = *b"\x20LVM2\x20x[5A%r0N*>";
/// Spec: format, "Raw location descriptor flags": "The raw location descriptor should be ignored."
const IGNORED: u32 = 1;
/// Spec: pvcreate(8), `--[pv]metadatacopies`: "The number of metadata areas to set aside on a PV": 0, 1 or 2.
const AREAS_MAX: usize = 2;
/// Bytes of a text that are read: lvm2 makes areas of 1 MiB, and a text of that size describes thousands of volumes.
const TEXT_MAX: usize = 4 << 20;
