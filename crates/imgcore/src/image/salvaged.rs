//! A disk of which as much as possible is read.

use std::fmt;

use crate::block::{BlockRead, ByteRange, Error, Extent, ExtentKind};

/// A disk whose unreadable parts read as zeros.
pub struct Salvaged<'a> {
    disk: &'a dyn BlockRead,
    report: &'a (dyn Fn(ByteRange, &Error) + Sync),
}

impl<'a> Salvaged<'a> {
    /// Returns `disk` so; `report` is told every part that is lost, with the reason.
    #[must_use]
    pub fn new(disk: &'a dyn BlockRead, report: &'a (dyn Fn(ByteRange, &Error) + Sync)) -> Self {
        Self { disk, report }
    }
}

impl fmt::Debug for Salvaged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Salvaged").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl BlockRead for Salvaged<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        if self.disk.read_exact_at(buf, offset).is_ok() {
            return Ok(());
        }
        // Once more in small parts, so that only those are lost that cannot be read.
        let mut at = offset;
        for part in buf.chunks_mut(PART) {
            let range = ByteRange::at(at, u64::try_from(part.len()).unwrap_or(u64::MAX)).unwrap_or_default();
            if let Err(error) = self.disk.read_exact_at(part, at) {
                part.fill(0);
                (self.report)(range, &error);
            }
            at = range.end();
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let size = self.size();
        match self.disk.extent_at(offset) {
            Err(_) if offset < size => {
                // What cannot be looked up may still be read behind this.
                let end = offset.saturating_add(UNKNOWN).min(size);
                Ok(Extent::new(ByteRange::new(offset, end).unwrap_or_default(), ExtentKind::Data))
            }
            other => other,
        }
    }
}

/// Bytes that are lost together: the smallest that disks fail by.
const PART: usize = 512;
/// Bytes that are tried when nothing is known about them.
const UNKNOWN: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::Salvaged;
    use crate::block::{BlockRead, ByteRange, Error, ErrorKind, Extent};

    /// Bytes of ones, of which the second sector cannot be read.
    #[derive(Debug)]
    struct Scratched;

    impl BlockRead for Scratched {
        fn size(&self) -> u64 {
            4096
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
            let bad = ByteRange::new(512, 1024).unwrap();
            if ByteRange::at(offset, buf.len() as u64).unwrap().intersection(bad).is_some() {
                return Err(Error::new(ErrorKind::Io, "scratched"));
            }
            buf.fill(1);
            Ok(())
        }
        fn extent_at(&self, _: u64) -> Result<Extent, Error> {
            Err(Error::new(ErrorKind::Io, "scratched"))
        }
    }

    #[test]
    fn only_what_cannot_be_read_becomes_zeros_and_is_reported() {
        let lost = Mutex::new(Vec::new());
        let report = |range: ByteRange, _: &Error| lost.lock().unwrap().push((range.start(), range.end()));
        let disk = Salvaged::new(&Scratched, &report);
        let mut bytes = vec![9; 2048];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [vec![1; 512], vec![0; 512], vec![1; 1024]].concat());
        assert_eq!(*lost.lock().unwrap(), [(512, 1024)]);
        let extent = disk.extent_at(100).unwrap();
        assert_eq!((extent.range.start(), extent.range.end(), extent.reads_as_zeros()), (100, 4096, false));
        disk.extent_at(4096).unwrap_err();
    }
}
