//! Persistent bitmaps: which parts of the disk have changed since some moment.
//!
//! ```text
//! bitmaps extension --> bitmap directory --> bitmap table --> clusters of bits, or all zeros, or all ones
//! ```
//!
//! A bitmap is changed as a whole, by [`Image::change_bitmap`] and [`Image::store_bitmaps`]: what is new goes to free clusters,
//! and one write of the header puts it in force. While the disk is written, the bitmaps that record changes are marked as in
//! use and what changes is kept in memory, until [`Image::close`] stores it.
//!
//! # Spec
//!
//! QEMU's docs/interop/qcow2.rst, "Bitmaps".

mod bits;
mod change;
mod directory;
mod error;
mod read;
mod recording;
mod store;
mod table;

pub use self::bits::Bits;
pub use self::change::{BitmapChange, NewBitmap};
pub(super) use self::directory::{Place, read_all};
pub use self::error::BitmapError;
pub(super) use self::recording::Recording;
pub(super) use self::table::{Part, read as read_table};
use super::geometry::Geometry;
use super::offset::{HostOffset, to_u64, to_usize};

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
    /// Its name as stored.
    stored_name: Vec<u8>,
    /// Data of a kind that is not known.
    extra: Vec<u8>,
    /// Whether the bitmap can be used by who does not know the extra data.
    extra_compatible: bool,
    /// Where its table is.
    pub(super) table: HostOffset,
    pub(super) table_entries: u64,
    /// Where its flags are stored.
    pub(super) flags_offset: HostOffset,
}

impl Bitmap {
    /// Returns whether the bitmap may be used: it has no extra data that would have to be understood.
    ///
    /// Spec: "If it is not set, the bitmap must not be used, but both it and its extra data be left as is."
    pub(super) fn is_usable(&self) -> bool {
        self.extra.is_empty() || self.extra_compatible
    }

    /// Returns the bitmap when it may be used and has been saved.
    fn usable(&self) -> Result<&Self, BitmapError> {
        match (self.in_use, self.is_usable()) {
            (true, _) => Err(BitmapError::Inconsistent(self.name.clone())),
            (_, false) => Err(BitmapError::ExtraData(self.name.clone())),
            _ => Ok(self),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        self.stored_name == name.as_bytes()
    }

    /// Returns a bitmap that records every write and is not stored yet.
    fn unstored(name: &str, granularity: u64) -> Self {
        Self {
            name: name.to_owned(),
            granularity,
            in_use: false,
            auto: true,
            stored_name: name.as_bytes().to_vec(),
            extra: Vec::new(),
            extra_compatible: false,
            table: HostOffset(0),
            table_entries: 0,
            flags_offset: HostOffset(0),
        }
    }

    /// Returns its flags as stored.
    pub(super) fn flags(&self) -> u32 {
        let flags = [(self.in_use, IN_USE), (self.auto, AUTO), (self.extra_compatible, EXTRA_COMPATIBLE)];
        flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag)
    }

    /// Returns the entries that its table needs for a disk of `size` bytes, or `None` when it would be too large.
    fn entries_for(&self, size: u64, geometry: Geometry) -> Option<u64> {
        let bytes = size.div_ceil(self.granularity).div_ceil(8);
        (bytes <= MAX_DATA).then(|| geometry.clusters(bytes))
    }
}

fn shift(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The bitmap may be inconsistent.
pub(super) const IN_USE: u32 = 1;
const AUTO: u32 = 2;
const EXTRA_COMPATIBLE: u32 = 4;
/// Bytes of the largest bitmap, as QEMU's limit is.
const MAX_DATA: u64 = 512 << 20;
