use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, fcntl_getfl, fcntl_setfl, seek};

use super::holes;
use super::loops::refuse_loop_user;
use super::writeback::Writeback;
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Extent, ExtentKind, Hole, Resize};

/// A regular file or a block device as a block device.
///
/// Nothing else can be opened: a FIFO, socket, folder or character device is refused at once and never waited for. A flush that
/// has failed fails for ever, as the kernel forgets which writes it lost.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    path: PathBuf,
    size: u64,
    access: Access,
    is_device: bool,
    /// Whether a flush has failed.
    lost: AtomicBool,
    writeback: Writeback,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl FileDisk {
    /// Opens the regular file or block device at `path`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::PermissionDenied`]; [`ErrorKind::Refused`] when it is of another type;
    /// [`ErrorKind::InUse`] for a device that is to be written and is mounted, or a part of another one, and for a file behind
    /// such a device.
    pub fn open(path: &Path, access: Access) -> Result<Self, Error> {
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::ResourceBusy => {
                let message = format!("`{}` is in use: it is mounted, or another device is made of it", path.display());
                Error::with_source(ErrorKind::InUse, message, error)
            }
            _ => Error::from_io(format!("cannot open `{}`", path.display()), error),
        };
        // Without O_NONBLOCK, opening a FIFO would wait for its other end.
        let mut flags = OFlags::NONBLOCK;
        // What open(2) says of O_EXCL: "if the block device is in use by the system (e.g., mounted), open() fails".
        if access == Access::ReadWrite && path.metadata().is_ok_and(|found| found.file_type().is_block_device()) {
            flags |= OFlags::EXCL;
        }
        let mut options = OpenOptions::new();
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        options.read(true).write(access == Access::ReadWrite).custom_flags(flags);
        let file = options.open(path).map_err(cannot)?;
        let file_type = file.metadata().map_err(cannot)?.file_type();
        if !file_type.is_file() && !file_type.is_block_device() {
            let message = format!("`{}` is neither a regular file nor a block device", path.display());
            return Err(Error::new(ErrorKind::Refused, message));
        }
        fcntl_getfl(&file)
            .and_then(|flags| fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK)))
            .map_err(|error| cannot(error.into()))?;
        if access == Access::ReadWrite && file_type.is_file() {
            refuse_loop_user(&file, path)?;
        }
        Self::over(file, path, access, file_type.is_block_device())
    }

    /// Makes an empty file at `path` for reading and writing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] when anything is at `path`, a dangling symbolic link too.
    pub fn create_new(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(|error| Error::from_io(format!("cannot make `{}`", path.display()), error))?;
        Self::over(file, path, Access::ReadWrite, false)
    }

    pub(super) fn over(file: File, path: &Path, access: Access, is_device: bool) -> Result<Self, Error> {
        let size = if is_device {
            seek(&file, SeekFrom::End(0)).map_err(io::Error::from)
        } else {
            file.metadata().map(|metadata| metadata.len())
        };
        let size = size.map_err(|error| Error::from_io(format!("cannot read the size of `{}`", path.display()), error))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size,
            access,
            is_device,
            lost: AtomicBool::new(false),
            writeback: Writeback::default(),
        })
    }

    /// Returns the path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open file, for what only the operating system can do with it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns whether it is a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// Makes `range` read as zeros without writing it; returns whether the file system could.
    ///
    /// # Errors
    ///
    /// As [`BlockWrite::write_zeroes_at`].
    pub fn zero_fast(&mut self, range: ByteRange, hole: Hole) -> Result<bool, Error> {
        self.writable(range.start(), range.len())?;
        Ok(range.is_empty() || holes::zero(&self.file, range, hole).map_err(|error| self.failed("zero", range, error))?)
    }

    /// Has the kernel forget what it knows of `range`, so that reading it asks the storage. What is not durable yet stays known.
    pub fn forget(&self, range: ByteRange) {
        // A file system that cannot forget answers from memory.
        let _known = fadvise(&self.file, range.start(), NonZero::new(range.len()), Advice::DontNeed);
    }

    /// As [`FileDisk::forget`], for all of the file.
    pub fn forget_all(&self) {
        self.forget(ByteRange::new(0, self.size).unwrap_or_default());
    }

    /// Leaves it to the kernel when what is written is stored: nobody will flush.
    pub fn store_late(&mut self) {
        self.writeback = Writeback::off();
    }

    fn inside(&self, offset: u64, len: u64) -> Result<ByteRange, Error> {
        ByteRange::at(offset, len)
            .filter(|range| range.end() <= self.size)
            .ok_or_else(|| Error::out_of_bounds(offset, len, self.size))
    }

    fn writable(&self, offset: u64, len: u64) -> Result<ByteRange, Error> {
        if self.access == Access::Read {
            return Err(Error::new(ErrorKind::ReadOnly, format!("`{}` is open for reading only", self.path.display())));
        }
        self.inside(offset, len)
    }

    fn failed(&self, what: &str, range: ByteRange, error: io::Error) -> Error {
        Error::from_io(
            format!("cannot {what} {} bytes at offset {} of `{}`", range.len(), range.start(), self.path.display()),
            error,
        )
    }
}

impl BlockRead for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let range = self.inside(offset, len(buf))?;
        self.file.read_exact_at(buf, offset).map_err(|error| self.failed("read", range, error))
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let rest = self.inside(offset, self.size.saturating_sub(offset).max(1))?;
        if self.is_device {
            return Ok(Extent::new(rest, ExtentKind::Data));
        }
        holes::extent_at(&self.file, rest).map_err(|error| self.failed("find holes in", rest, error))
    }
}

impl BlockWrite for FileDisk {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let range = self.writable(offset, len(buf))?;
        self.file.write_all_at(buf, offset).map_err(|error| self.failed("write", range, error))?;
        self.writeback.wrote(&self.file, range);
        Ok(())
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        if self.zero_fast(range, hole)? {
            return Ok(());
        }
        let zeros = vec![0; ZEROS];
        let mut offset = range.start();
        while offset < range.end() {
            let left = usize::try_from(range.end().saturating_sub(offset)).unwrap_or(usize::MAX);
            let part = zeros.get(..left.min(ZEROS)).unwrap_or_default();
            self.file.write_all_at(part, offset).map_err(|error| self.failed("zero", range, error))?;
            offset = offset.saturating_add(len(part));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let cannot = |error| Error::from_io(format!("cannot make `{}` durable", self.path.display()), error);
        if self.lost.load(Ordering::SeqCst) {
            return Err(cannot(io::Error::other("an earlier flush failed, and what it lost is not known")));
        }
        self.file.sync_data().map_err(|error| {
            self.lost.store(true, Ordering::SeqCst);
            cannot(error)
        })
    }
}

impl Resize for FileDisk {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        let cannot = |error| Error::from_io(format!("cannot set the size of `{}` to {size} bytes", self.path.display()), error);
        if self.is_device {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("`{}` is a device and keeps its size", self.path.display()),
            ));
        }
        self.writable(0, 0)?;
        if i64::try_from(size).is_err() {
            let message = format!("`{}` cannot have {size} bytes: no file has more than {}", self.path.display(), i64::MAX);
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        self.file.set_len(size).map_err(cannot)?;
        self.size = size;
        Ok(())
    }
}

fn len(buf: &[u8]) -> u64 {
    u64::try_from(buf.len()).unwrap_or(u64::MAX)
}

/// Bytes of zeros written at a time where the file system cannot zero by itself.
const ZEROS: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Access, FileDisk};
    use crate::block::{BlockRead, BlockWrite, ByteRange, ErrorKind, ExtentKind, Hole, Resize, extents};

    #[test]
    fn only_regular_files_and_block_devices_are_opened_and_a_fifo_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [fifo.as_path(), folder.path(), Path::new("/dev/null")] {
            assert_eq!(FileDisk::open(path, Access::Read).unwrap_err().kind(), ErrorKind::Refused, "{}", path.display());
        }
        let missing = FileDisk::open(&folder.path().join("none"), Access::Read);
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_written_is_read_and_holes_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut disk = FileDisk::create_new(&path).unwrap();
        disk.resize(3 << 20).unwrap();
        disk.write_all_at(&[7; 1 << 20], 1 << 20).unwrap();
        disk.flush().unwrap();
        let all = ByteRange::new(0, disk.size()).unwrap();
        let found: Vec<_> = extents(&disk, all).map(|extent| extent.unwrap()).map(|e| (e.range.start(), e.kind)).collect();
        assert_eq!(found, [(0, ExtentKind::Hole), (1 << 20, ExtentKind::Data), (2 << 20, ExtentKind::Hole)]);
        disk.write_zeroes_at(ByteRange::at(1 << 20, 4096).unwrap(), Hole::Allow).unwrap();
        disk.write_zeroes_at(ByteRange::at((1 << 20) + 4096, 100).unwrap(), Hole::Keep).unwrap();
        let mut bytes = vec![1; 8192];
        disk.read_exact_at(&mut bytes, 1 << 20).unwrap();
        assert!(bytes[..4196].iter().all(|byte| *byte == 0) && bytes[4196..].iter().all(|byte| *byte == 7));
        assert_eq!(disk.read_exact_at(&mut bytes, 3 << 20).unwrap_err().kind(), ErrorKind::OutOfBounds);
        let too_long = disk.resize(1 << 63).unwrap_err();
        assert_eq!(too_long.kind(), ErrorKind::NoSpace);
        assert!(too_long.to_string().contains("no file has more than 9223372036854775807"), "{too_long}");
        drop(disk);
        let mut read_only = FileDisk::open(&path, Access::Read).unwrap();
        assert_eq!(read_only.write_all_at(&[1], 0).unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(fs::metadata(&path).unwrap().len(), 3 << 20);
    }
}
