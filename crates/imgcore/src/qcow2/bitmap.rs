use zerocopy::FromBytes as _;

use super::error::{Corrupt, Error};
use super::extension::Extension;
use super::feature;
use super::header::Header;
use super::offset::{HostOffset, to_usize};
use super::raw::{RawBitmap, RawBitmaps};
use super::table::read_stored;
use crate::block::BlockRead;

/// A persistent bitmap, as the bitmap directory describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk for each bit.
    pub granularity: u64,
    /// Whether it was not saved, so that it may be wrong.
    pub in_use: bool,
    /// Whether it records every write.
    pub auto: bool,
    /// Where its flags are stored.
    pub(super) flags_offset: HostOffset,
    /// Its flags as stored.
    pub(super) flags: u32,
}

/// The bitmap may be inconsistent.
pub(super) const IN_USE: u32 = 1;
const AUTO: u32 = 2;

/// Reads the bitmap directory; there is none where the extension is missing or out of date.
///
/// Spec: "Bitmap directory"
pub(super) fn read_all(storage: &dyn BlockRead, header: &Header) -> Result<Vec<Bitmap>, Error> {
    let Some(extension) = header.extension(Extension::BITMAPS) else { return Ok(Vec::new()) };
    // Spec: "If the bitmaps extension is present but this bit is unset, the bitmaps extension data must be considered
    // inconsistent."
    if header.autoclear & feature::BITMAPS == 0 {
        return Ok(Vec::new());
    }
    let corrupt = |offset, rule| Corrupt::new("bitmap directory", offset, rule);
    let (raw, _) = RawBitmaps::read_from_prefix(extension).map_err(|_| corrupt(0, "the extension is too short"))?;
    let (start, size) = (raw.bitmap_directory_offset.get(), raw.bitmap_directory_size.get());
    if size > MAX_DIRECTORY || raw.nb_bitmaps.get() > MAX_BITMAPS {
        return Err(corrupt(start, "it is too large").into());
    }
    let mut directory = vec![0; to_usize(size)];
    read_stored(storage, "bitmap directory", HostOffset(start), &mut directory)?;
    let mut bitmaps = Vec::new();
    let mut at = 0_usize;
    for _ in 0..raw.nb_bitmaps.get() {
        let offset = HostOffset(start).plus(super::offset::to_u64(at));
        let rest = directory.get(at..).unwrap_or_default();
        let (entry, variable) =
            RawBitmap::read_from_prefix(rest).map_err(|_| corrupt(offset.0, "an entry leaves the directory"))?;
        let extra = to_usize(u64::from(entry.extra_data_size.get()));
        let name_len = usize::from(entry.name_size.get());
        let name = variable.get(extra..).and_then(|behind| behind.get(..name_len));
        let name = name.ok_or_else(|| corrupt(offset.0, "an entry leaves the directory"))?;
        // Spec: "Valid values: 0 - 63."
        let granularity = 1_u64.checked_shl(u32::from(entry.granularity_bits));
        let flags = entry.flags.get();
        bitmaps.push(Bitmap {
            name: String::from_utf8_lossy(name).into_owned(),
            granularity: granularity.ok_or_else(|| corrupt(offset.0, "granularity_bits is more than 63"))?,
            in_use: flags & IN_USE != 0,
            auto: flags & AUTO != 0,
            flags_offset: offset.plus(12),
            flags,
        });
        let len = size_of::<RawBitmap>().saturating_add(extra).saturating_add(name_len).next_multiple_of(8);
        at = at.saturating_add(len);
    }
    Ok(bitmaps)
}

/// The most bitmaps, as QEMU's limit is.
const MAX_BITMAPS: u32 = 65_535;
/// Bytes of the largest directory: that many entries with names of 1023 bytes.
const MAX_DIRECTORY: u64 = 65_535 * 1048;
