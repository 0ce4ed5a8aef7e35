//! The label in one of the first sectors, and the header of the physical volume behind it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::Error;
use super::crc::crc;
use crate::block::{BlockRead, ByteRange};

/// What a physical volume says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Label {
    /// Its UUID, as people write it.
    pub(super) uuid: String,
    /// Where its extents begin, in bytes.
    pub(super) data: u64,
    /// Where its metadata areas are.
    pub(super) areas: Vec<ByteRange>,
}

/// Format, "Physical volume label header".
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLabel {
    signature: [u8; 8],
    sector: U64,
    /// Of everything behind this field in the sector.
    checksum: U32,
    header_offset: U32,
    kind: [u8; 8],
}

/// Format, "Physical volume header"; two lists of [`RawArea`] follow, each with an empty one at its end.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    uuid: [u8; 32],
    device_size: U64,
}

/// Format, "Data area descriptor".
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawArea {
    offset: U64,
    size: U64,
}

const _: () = {
    assert!(size_of::<RawLabel>() == 32);
    assert!(size_of::<RawHeader>() == 40);
    assert!(size_of::<RawArea>() == 16);
};

/// Returns what the physical volume `part` says of itself, or `None` when it is none.
pub(super) fn read(part: &dyn BlockRead) -> Result<Option<Label>, Error> {
    for number in 0..SECTORS {
        let offset = number.saturating_mul(SECTOR);
        if offset.saturating_add(SECTOR) > part.size() {
            break;
        }
        let mut sector = [0; SECTOR_BYTES];
        part.read_exact_at(&mut sector, offset)?;
        if sector.starts_with(SIGNATURE) {
            return decode(&sector, number, part.size()).map(Some);
        }
    }
    Ok(None)
}

fn decode(sector: &[u8], number: u64, size: u64) -> Result<Label, Error> {
    let place = format!("LVM label in sector {number}");
    let corrupt = |rule: &str| Error::corrupt(&place, rule);
    let short = || corrupt("must lie inside its sector");
    let (label, _) = RawLabel::ref_from_prefix(sector).map_err(|_| short())?;
    // Spec: format, "CRC-32 for offset 20 to end of the physical volume label sector".
    if label.checksum.get() != crc(sector.get(20..).unwrap_or_default()) {
        return Err(corrupt("must have the checksum of its bytes"));
    }
    // Spec: format, "The sector number of the physical volume label header".
    if label.sector.get() != number {
        return Err(corrupt("must have the number of its sector"));
    }
    if label.kind != *b"LVM2 001" {
        return Err(Error::Unsupported("a label that is not of LVM2".to_owned()));
    }
    let header = usize::try_from(label.header_offset.get()).unwrap_or(usize::MAX);
    let header = sector.get(header..).filter(|_| header >= size_of::<RawLabel>()).ok_or_else(short)?;
    let (header, rest) = RawHeader::ref_from_prefix(header).map_err(|_| short())?;
    let (data, rest) = areas(rest).ok_or_else(short)?;
    let (metadata, _) = areas(rest).ok_or_else(short)?;
    let [data] = data.as_slice() else {
        return Err(Error::Unsupported(format!("a physical volume with {} data areas", data.len())));
    };
    let areas: Option<Vec<_>> = metadata
        .iter()
        .map(|area| ByteRange::at(area.offset.get(), area.size.get()).filter(|area| area.end() <= size))
        .collect();
    let areas = areas.ok_or_else(|| corrupt("its metadata areas must lie inside the physical volume"))?;
    Ok(Label {
        uuid: uuid(header.uuid).ok_or_else(|| corrupt("its UUID must be of letters and digits"))?,
        data: data.offset.get(),
        areas,
    })
}

/// Takes a list off the front of `bytes`.
///
/// Spec: format, "The last descriptor in the list is terminator and consists of 0-byte values."
fn areas(mut bytes: &[u8]) -> Option<(Vec<RawArea>, &[u8])> {
    let mut all = Vec::new();
    loop {
        let (area, rest) = RawArea::read_from_prefix(bytes).ok()?;
        bytes = rest;
        if area.offset.get() == 0 && area.size.get() == 0 {
            return Some((all, bytes));
        }
        all.push(area);
    }
}

/// Returns a UUID as people write it.
///
/// Spec: format, "9LBcEB7PQTGIlLI0KxrtzrynjuSL983W but is equivalent to its formatted variant: 9LBcEB-7PQT-GIlL-I0Kx-rtzr-ynju-SL983W".
fn uuid(stored: [u8; 32]) -> Option<String> {
    let mut text = String::with_capacity(38);
    for (place, byte) in stored.into_iter().enumerate() {
        if !byte.is_ascii_alphanumeric() && !matches!(byte, b'!' | b'#') {
            return None;
        }
        if matches!(place, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(char::from(byte));
    }
    Some(text)
}

const SIGNATURE: &[u8] = b"LABELONE";
/// Spec: pvck(8), `--labelsector`: "By default the PV is labelled with an LVM2 identifier in its second sector"; format: "can be stored in
/// any of the first four sectors".
const SECTORS: u64 = 4;
/// Bytes of a sector, whatever those of the disk are.
pub(super) const SECTOR: u64 = 512;
pub(super) const SECTOR_BYTES: usize = 512;
