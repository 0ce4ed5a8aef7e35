use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{BlockRead, BlockWrite};

/// A position on a device, for crates that want `Read`, `Write` and `Seek`.
///
/// Reading stops at the end of the device; writing never moves that end.
#[derive(Debug)]
pub struct Cursor<D> {
    disk: D,
    position: u64,
}

impl<D> Cursor<D> {
    /// Returns a cursor at the first byte of `disk`.
    #[must_use]
    pub fn new(disk: D) -> Self {
        Self { disk, position: 0 }
    }

    /// Returns the device.
    #[must_use]
    pub fn into_inner(self) -> D {
        self.disk
    }
}

impl<D: BlockRead> Cursor<D> {
    /// Returns how many of `wanted` bytes are left before the end of the device.
    fn available(&self, wanted: usize) -> usize {
        let left = self.disk.size().saturating_sub(self.position);
        usize::try_from(left).unwrap_or(usize::MAX).min(wanted)
    }

    fn advance(&mut self, len: usize) -> io::Result<()> {
        let moved = u64::try_from(len).ok().and_then(|len| self.position.checked_add(len));
        self.position = moved.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(())
    }
}

impl<D: BlockRead> Read for Cursor<D> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.available(buf.len());
        let Some(buf) = buf.get_mut(..len).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        self.disk.read_exact_at(buf, self.position)?;
        self.advance(len)?;
        Ok(len)
    }
}

impl<D: BlockWrite> Write for Cursor<D> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = self.available(buf.len());
        let Some(buf) = buf.get(..len).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        self.disk.write_all_at(buf, self.position)?;
        self.advance(len)?;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.disk.flush()?)
    }
}

impl<D: BlockRead> Seek for Cursor<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.disk.size().checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
