//! QEMU's image locks: a program that uses an image says what it does and what it bears, on single bytes of the file.
//!
//! ```text
//! byte 100 + n   held: "I use permission n"             n = 0 consistent read, 1 write, 2 write unchanged, 3 resize
//! byte 200 + n   held: "nobody else may use it"
//! ```
//!
//! All are shared open-file-description locks, so holding one never fails; after taking its own, a program looks whether
//! another holds a byte that contradicts them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use crate::block::{Error, ErrorKind};

use super::FileDisk;

/// A lock on an image, released when it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    taken: &'static [i64],
}

/// What a lock is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LockKind {
    /// Reading, while nobody writes.
    Read,
    /// Writing, while nobody else reads or writes.
    Write,
}

impl Lock {
    /// Locks the image in `disk` against QEMU and other users of its locks; nobody waits.
    ///
    /// On a file system without locks this does nothing, as in QEMU. Take one lock at a time through one `disk`: they share its
    /// open file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InUse`] when another program's use does not go together with it.
    pub fn acquire(disk: &FileDisk, kind: LockKind) -> Result<Self, Error> {
        // A duplicate shares the open file description, which is what holds the lock.
        let file = disk.file().try_clone();
        let file = file.map_err(|error| Error::from_io(format!("cannot lock `{}`", disk.path().display()), error))?;
        let mut lock = Self { file, taken: &[] };
        lock.take(disk, kind)?;
        Ok(lock)
    }

    /// Makes this lock, of whatever kind, one for writing: nobody has written in between. `disk` is the file that it locks, opened
    /// again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InUse`] when another program uses the image, and when `disk` is another file than the one that is locked: it has
    /// been replaced.
    pub fn write(&mut self, disk: &FileDisk) -> Result<(), Error> {
        let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let cannot = |error| Error::from_io(format!("cannot look at `{}`", disk.path().display()), error);
        if identity(&self.file).map_err(cannot)? != identity(disk.file()).map_err(cannot)? {
            let message = format!("`{}` has been replaced by another program", disk.path().display());
            return Err(Error::new(ErrorKind::InUse, message));
        }
        self.take(disk, LockKind::Write)
    }

    fn take(&mut self, disk: &FileDisk, kind: LockKind) -> Result<(), Error> {
        let cannot = |error| Error::from_io(format!("cannot lock `{}`", disk.path().display()), error);
        let (taken, contrary) = match kind {
            LockKind::Read => (READ, CONTRARY_TO_READ),
            LockKind::Write => (WRITE, CONTRARY_TO_WRITE),
        };
        self.taken = taken;
        for byte in taken {
            match ofd::lock_shared(&self.file, *byte) {
                Ok(()) => {}
                Err(error) if without_locks(&error) => return Ok(()),
                Err(error) => return Err(cannot(error)),
            }
        }
        for byte in contrary {
            if ofd::is_locked_elsewhere(&self.file, *byte).map_err(cannot)? {
                let what = if *byte == HELD + WRITING || *byte == HELD + RESIZING { "writes to" } else { "uses" };
                let message = format!("another program {what} `{}`", disk.path().display());
                return Err(Error::new(ErrorKind::InUse, message));
            }
        }
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        for byte in self.taken {
            // Closing the file, which follows, releases what is left.
            let _left = ofd::unlock(&self.file, *byte);
        }
    }
}

fn without_locks(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOLCK | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS))
}

const HELD: i64 = 100;
const DENIED: i64 = 200;
const READING: i64 = 0;
const WRITING: i64 = 1;
const RESIZING: i64 = 3;

const READ: &[i64] = &[HELD + READING, DENIED + WRITING, DENIED + RESIZING];
const CONTRARY_TO_READ: &[i64] = &[DENIED + READING, HELD + WRITING, HELD + RESIZING];
const WRITE: &[i64] = &[HELD + READING, HELD + WRITING, HELD + RESIZING, DENIED + WRITING, DENIED + RESIZING];
const CONTRARY_TO_WRITE: &[i64] = &[DENIED + READING, DENIED + WRITING, DENIED + RESIZING, HELD + WRITING, HELD + RESIZING];

/// Open-file-description locks on single bytes, which only the C library offers.
#[expect(unsafe_code, reason = "fcntl(2) with a pointer to struct flock")]
mod ofd {
    use super::{AsRawFd, File, io};

    pub(super) fn lock_shared(file: &File, byte: i64) -> io::Result<()> {
        call(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte).map(|_| ())
    }

    pub(super) fn unlock(file: &File, byte: i64) -> io::Result<()> {
        call(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte).map(|_| ())
    }

    /// Returns whether another open file holds any lock on `byte`.
    pub(super) fn is_locked_elsewhere(file: &File, byte: i64) -> io::Result<bool> {
        let answer = call(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte)?;
        Ok(i32::from(answer.l_type) != libc::F_UNLCK)
    }

    fn call(file: &File, command: i32, kind: i32, byte: i64) -> io::Result<libc::flock> {
        let kind = i16::try_from(kind).map_err(io::Error::other)?;
        let whence = i16::try_from(libc::SEEK_SET).map_err(io::Error::other)?;
        let mut lock = libc::flock { l_type: kind, l_whence: whence, l_start: byte, l_len: 1, l_pid: 0 };
        // SAFETY: the descriptor is open as long as `file` lives, and the kernel reads and writes one `struct flock`, which
        // `lock` is and which nothing else refers to during the call.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(lock) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lock, LockKind};
    use crate::block::ErrorKind;
    use crate::storage::{Access, FileDisk};

    #[test]
    fn a_reader_becomes_a_writer_with_nobody_in_between() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        drop(FileDisk::create_new(&path).unwrap());
        let open = |access| FileDisk::open(&path, access).unwrap();
        let (reader, other) = (open(Access::Read), open(Access::ReadWrite));
        let mut lock = Lock::acquire(&reader, LockKind::Read).unwrap();
        // The lock is that of the open file, not of who opened it.
        drop(reader);
        let second = Lock::acquire(&other, LockKind::Read).unwrap();
        assert_eq!(lock.write(&open(Access::ReadWrite)).unwrap_err().kind(), ErrorKind::InUse);
        drop((lock, second, other));
        let mut lock = Lock::acquire(&open(Access::Read), LockKind::Read).unwrap();
        lock.write(&open(Access::ReadWrite)).unwrap();
        assert_eq!(Lock::acquire(&open(Access::Read), LockKind::Read).unwrap_err().kind(), ErrorKind::InUse);
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        drop(FileDisk::create_new(&path).unwrap());
        assert_eq!(lock.write(&open(Access::ReadWrite)).unwrap_err().kind(), ErrorKind::InUse);
    }

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let made = FileDisk::create_new(&path).unwrap();
        drop(made);
        let open = || FileDisk::open(&path, Access::ReadWrite).unwrap();
        let (a, b, c) = (open(), open(), open());
        let first = Lock::acquire(&a, LockKind::Read).unwrap();
        let second = Lock::acquire(&b, LockKind::Read).unwrap();
        assert_eq!(Lock::acquire(&c, LockKind::Write).unwrap_err().kind(), ErrorKind::InUse);
        drop((first, second, a, b));
        let writer = Lock::acquire(&c, LockKind::Write).unwrap();
        let d = open();
        assert_eq!(Lock::acquire(&d, LockKind::Write).unwrap_err().kind(), ErrorKind::InUse);
        assert_eq!(Lock::acquire(&d, LockKind::Read).unwrap_err().kind(), ErrorKind::InUse);
        drop((writer, c));
        Lock::acquire(&d, LockKind::Write).unwrap();
    }
}
