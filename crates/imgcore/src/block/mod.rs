//! Block devices: what every layer above reads from and writes to.
//!
//! [`BlockRead`] and [`BlockWrite`] are synchronous, positional and exact. Reads take `&self` and writes take `&mut self`, so
//! that "one writer or many readers" is checked by the compiler. All offsets and lengths are bytes.

mod change;
mod copy;
mod cursor;
mod error;
mod extent;
mod forward;
mod joined;
mod memory;
mod ordered;
mod range;
mod slice;
mod staged;
#[cfg(test)]
mod tests_staged;
mod undo;
mod zeros;

use copy::copy_range;

pub use change::Change;
pub use copy::copy;
pub use cursor::Cursor;
pub use error::{Error, ErrorKind};
pub use extent::{Extent, ExtentKind, Extents, extents};
pub use joined::Joined;
pub use memory::MemoryDisk;
pub use ordered::{in_order, map_in_order};
pub use range::ByteRange;
pub use slice::Slice;
pub use staged::{Changes, Staged};
pub use undo::UndoLog;
pub use zeros::is_zero;

use std::fmt::Debug;
use std::sync::Arc;

/// A block device that can be read.
pub trait BlockRead: Debug + Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] when the range does not lie inside the device, otherwise the failure of the device. The
    /// contents of `buf` are unspecified then.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error>;

    /// Returns the run of one allocation state that begins at `offset`.
    ///
    /// The run is never empty and never crosses the end of the device; the next run may have the same state. The default says
    /// that everything is data, which is always correct and never fast.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] when `offset` is at or beyond the end, otherwise the failure of the device.
    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let end = self.size();
        let range = ByteRange::new(offset, end).filter(|range| !range.is_empty());
        let range = range.ok_or_else(|| Error::out_of_bounds(offset, 1, end))?;
        Ok(Extent::new(range, ExtentKind::Data))
    }
}

/// A block device that can be read and written.
pub trait BlockWrite: BlockRead {
    /// Writes the whole of `buf` at `offset`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] when the range does not lie inside the device: nothing is written then. Otherwise the failure
    /// of the device, after which any part of the range may have been written.
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error>;

    /// Makes `range` read as zeros.
    ///
    /// # Errors
    ///
    /// As [`BlockWrite::write_all_at`].
    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error>;

    /// Makes `range` read as the bytes of `source` from `from` on.
    ///
    /// A device in memory only remembers where they are, so `source` stays as it is for as long as this device is used.
    ///
    /// # Errors
    ///
    /// As [`BlockWrite::write_all_at`], and the failure of `source`.
    fn write_from_at(&mut self, source: &Arc<dyn BlockRead>, from: u64, range: ByteRange) -> Result<(), Error> {
        copy_range(source, from, self, range)
    }

    /// Makes every completed write durable.
    ///
    /// # Errors
    ///
    /// The failure of the device. Writes since the last successful flush may be lost, and a later flush that succeeds says
    /// nothing about them.
    fn flush(&mut self) -> Result<(), Error>;
}

/// A block device whose size can change.
pub trait Resize: BlockWrite {
    /// Sets the size in bytes. New space reads as zeros; space beyond a smaller size is gone.
    ///
    /// # Errors
    ///
    /// The failure of the device; the size is the old one then.
    fn resize(&mut self, size: u64) -> Result<(), Error>;
}

/// What becomes of the space under bytes that are zeroed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hole {
    /// The space may be given back.
    Allow,
    /// The space stays allocated, so that a later write cannot run out of it.
    Keep,
}
