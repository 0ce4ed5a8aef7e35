use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use imgcore::block::{self, BlockRead, ByteRange, Extent, ExtentKind, extents};
use imgcore::fs::{Content, Error, FileKind, GuestPath};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::error::failed;
use super::{PIECE, kind_of, piece};

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    size: u64,
}

impl OpenFile {
    /// Takes what was opened, which must be a regular file still.
    pub(super) fn new(file: OwnedFd, path: &GuestPath) -> Result<Self, Error> {
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(path, "be looked at", error))?;
        match kind_of(&stat) {
            FileKind::File => Ok(Self { file: file.into(), size: u64::try_from(stat.st_size).unwrap_or_default() }),
            kind => Err(Error::WrongKind { path: path.clone(), kind }),
        }
    }

    /// Returns all of it.
    pub(super) fn read(&self, path: &GuestPath, limit: u64) -> Result<Vec<u8>, Error> {
        if self.size > limit {
            return Err(Error::TooLarge { path: path.clone(), size: self.size, limit });
        }
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Returns whether the file has the bytes of `content` from `at` on.
    pub(super) fn has_at(&self, content: &Content, at: u64) -> Result<bool, Error> {
        let mut offset = 0;
        let mut bytes = Vec::new();
        while offset < content.len() {
            let len = content.len().saturating_sub(offset).min(PIECE);
            bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
            self.read_exact_at(&mut bytes, at.saturating_add(offset))?;
            if *piece(content, offset, bytes.len())? != *bytes {
                return Ok(false);
            }
            offset = offset.saturating_add(len);
        }
        Ok(true)
    }
}

impl BlockRead for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        self.file.read_exact_at(buf, offset).map_err(|error| block::Error::from_io("cannot read a file of the guest", error))
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        let outside = || block::Error::out_of_bounds(offset, 1, self.size);
        let (data, kind) = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => (data, ExtentKind::Hole),
            Ok(_) => (rustix::fs::seek(&self.file, SeekFrom::Hole(offset)).unwrap_or(self.size), ExtentKind::Data),
            // Spec: lseek(2), "ENXIO whence is SEEK_DATA or SEEK_HOLE, and offset is beyond the end of the file, or whence is
            // SEEK_DATA and offset is within a hole at the end of the file."
            Err(Errno::NXIO) => (self.size, ExtentKind::Hole),
            Err(_) => (self.size, ExtentKind::Data),
        };
        let range = ByteRange::new(offset, data.min(self.size)).filter(|range| !range.is_empty()).ok_or_else(outside)?;
        Ok(Extent { range, kind })
    }
}

/// Writes `content` from `at` on, which is the end of the file; holes stay holes.
pub(super) fn store(file: &File, content: &Content, at: u64, path: &GuestPath) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        let error = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        failed(path, "be written", error)
    };
    let write = |range: ByteRange| -> Result<(), Error> {
        let mut offset = range.start();
        while offset < range.end() {
            let len = range.end().saturating_sub(offset).min(PIECE);
            let bytes = piece(content, offset, usize::try_from(len).unwrap_or(usize::MAX))?;
            file.write_all_at(&bytes, at.saturating_add(offset)).map_err(failed)?;
            offset = offset.saturating_add(len);
        }
        Ok(())
    };
    let all = ByteRange::new(0, content.len()).unwrap_or_default();
    match content {
        Content::Bytes(_) => write(all)?,
        Content::Disk(disk) => {
            for extent in extents(disk, all) {
                let extent = extent?;
                if !extent.reads_as_zeros() {
                    write(extent.range)?;
                }
            }
        }
    }
    file.set_len(at.saturating_add(content.len())).map_err(failed)
}
