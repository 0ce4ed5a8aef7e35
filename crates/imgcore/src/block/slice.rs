use std::sync::Arc;

use super::{BlockRead, BlockWrite, ByteRange, Error, Extent, Hole};

/// A window on a part of another device, as a partition is on its disk.
#[derive(Debug)]
pub struct Slice<D> {
    disk: D,
    window: ByteRange,
}

impl<D: BlockRead> Slice<D> {
    /// Returns the window `range` of `disk`.
    ///
    /// # Errors
    ///
    /// [`super::ErrorKind::OutOfBounds`] when the range does not lie inside `disk`.
    pub fn open(disk: D, range: ByteRange) -> Result<Self, Error> {
        if range.end() > disk.size() {
            return Err(Error::out_of_bounds(range.start(), range.len(), disk.size()));
        }
        Ok(Self { disk, window: range })
    }

    /// Returns the device below.
    #[must_use]
    pub fn into_inner(self) -> D {
        self.disk
    }

    /// Returns where `len` bytes at `offset` of the window lie below.
    fn below(&self, offset: u64, len: u64) -> Result<ByteRange, Error> {
        let outside = || Error::out_of_bounds(offset, len, self.window.len());
        let start = self.window.start().checked_add(offset).ok_or_else(outside)?;
        ByteRange::at(start, len).filter(|range| range.end() <= self.window.end()).ok_or_else(outside)
    }
}

impl<D: BlockRead> BlockRead for Slice<D> {
    fn size(&self) -> u64 {
        self.window.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let below = self.below(offset, u64::try_from(buf.len()).unwrap_or(u64::MAX))?;
        self.disk.read_exact_at(buf, below.start())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let rest = self.below(offset, 1)?;
        let extent = self.disk.extent_at(rest.start())?;
        let outside = || Error::out_of_bounds(offset, 1, self.window.len());
        let end = extent.range.end().min(self.window.end());
        let range = ByteRange::new(offset, end.saturating_sub(self.window.start())).ok_or_else(outside)?;
        Ok(Extent::new(range, extent.kind))
    }
}

impl<D: BlockWrite> BlockWrite for Slice<D> {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let below = self.below(offset, u64::try_from(buf.len()).unwrap_or(u64::MAX))?;
        self.disk.write_all_at(buf, below.start())
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        let below = self.below(range.start(), range.len())?;
        self.disk.write_zeroes_at(below, hole)
    }

    fn write_from_at(&mut self, source: &Arc<dyn BlockRead>, from: u64, range: ByteRange) -> Result<(), Error> {
        let below = self.below(range.start(), range.len())?;
        self.disk.write_from_at(source, from, below)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.disk.flush()
    }
}
