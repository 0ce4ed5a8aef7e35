//! Swap space: a first page that says how many follow.
//!
//! ```text
//! 0        1024      1028        1032        1036   1052    1068       4086
//! | unused | version | last page | bad pages | uuid | label | zeros ... | SWAPSPACE2 |
//! ```
//!
//! Spec: the kernel's `include/linux/swap.h`, `union swap_header`; mkswap(8). Numbers are those of the machine that uses it:
//! little-endian here, and pages have 4 KiB.

use std::mem::offset_of;

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Error, Refusal};
use crate::block::{BlockWrite, ByteRange, Hole};

/// The fields of the first page, from byte 1024 on.
#[derive(Clone, Copy, Debug, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    version: U32,
    last_page: U32,
    nr_badpages: U32,
    uuid: [u8; 16],
    volume_name: [u8; 16],
}

// Offsets as the kernel and mkswap have them, from byte 1024 on.
const _: () = {
    assert!(offset_of!(RawHeader, uuid) == 12);
    assert!(offset_of!(RawHeader, volume_name) == 28);
};

/// Makes all of `disk` swap space, as mkswap does, and returns the bytes that can be swapped to.
///
/// The first page is written; the rest stays as it is.
///
/// # Errors
///
/// [`Error::Refused`] when `disk` has fewer than ten pages or the label more than 15 bytes; nothing has been written then.
/// Otherwise the failure of the device.
pub fn create<D: BlockWrite>(mut disk: D, label: &str, uuid: [u8; 16]) -> Result<u64, Error> {
    // A page has a 32-bit number; a kernel uses no more anyway.
    let pages = u32::try_from(disk.size() / PAGE).unwrap_or(u32::MAX);
    if pages < FEWEST_PAGES {
        return Err(refused(format!("cannot be made: {} bytes are fewer than ten pages", disk.size())));
    }
    let mut raw = RawHeader::new_zeroed();
    raw.version.set(1);
    raw.last_page.set(pages.saturating_sub(1));
    raw.uuid = uuid;
    // mkswap keeps a NUL at the end.
    let place = raw.volume_name.get_mut(..label.len()).filter(|place| place.len() < 16 && !label.contains('\0'));
    place.ok_or_else(|| refused("cannot be made: its label has more than 15 bytes"))?.copy_from_slice(label.as_bytes());
    let page = ByteRange::new(0, PAGE).unwrap_or_default();
    disk.write_zeroes_at(page, Hole::Keep)?;
    disk.write_all_at(raw.as_bytes(), HEADER)?;
    disk.write_all_at(MAGIC, PAGE.saturating_sub(10))?;
    Ok(u64::from(pages.saturating_sub(1)).saturating_mul(PAGE))
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Refused(Refusal { format: "swap", reason: reason.into() })
}

const PAGE: u64 = 4096;
const HEADER: u64 = 1024;
const MAGIC: &[u8] = b"SWAPSPACE2";
/// The fewest pages that mkswap takes.
const FEWEST_PAGES: u32 = 10;
