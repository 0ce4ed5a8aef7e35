use super::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Hole, Resize};

/// A block device in memory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MemoryDisk {
    bytes: Vec<u8>,
}

impl MemoryDisk {
    /// Returns a disk of the given bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Returns the bytes of the disk.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns the bytes of the disk.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn span(&self, offset: u64, len: u64) -> Result<std::ops::Range<usize>, Error> {
        let outside = || Error::out_of_bounds(offset, len, self.size());
        let start = usize::try_from(offset).map_err(|_| outside())?;
        let len = usize::try_from(len).map_err(|_| outside())?;
        let end = start.checked_add(len).filter(|end| *end <= self.bytes.len()).ok_or_else(outside)?;
        Ok(start..end)
    }
}

impl BlockRead for MemoryDisk {
    fn size(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let span = self.span(offset, len)?;
        let bytes = self.bytes.get(span).ok_or_else(|| Error::out_of_bounds(offset, len, self.size()))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

impl BlockWrite for MemoryDisk {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let span = self.span(offset, len)?;
        if let Some(bytes) = self.bytes.get_mut(span) {
            bytes.copy_from_slice(buf);
        }
        Ok(())
    }

    fn write_zeroes_at(&mut self, range: ByteRange, _: Hole) -> Result<(), Error> {
        let span = self.span(range.start(), range.len())?;
        if let Some(bytes) = self.bytes.get_mut(span) {
            bytes.fill(0);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Resize for MemoryDisk {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        let size = usize::try_from(size).map_err(|_| Error::new(ErrorKind::NoSpace, format!("no memory for {size} bytes")))?;
        let more = size.saturating_sub(self.bytes.len());
        self.bytes
            .try_reserve(more)
            .map_err(|error| Error::with_source(ErrorKind::NoSpace, format!("no memory for {size} bytes"), error))?;
        self.bytes.resize(size, 0);
        Ok(())
    }
}
