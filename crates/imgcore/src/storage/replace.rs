use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, IFlags, RenameFlags, ioctl_getflags, ioctl_setflags, renameat_with};
use rustix::io::Errno;

use super::duplicate::duplicate;
use super::{Access, FileDisk, xattrs};
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Extent, Hole, Resize};

/// A file that is written beside the one it will replace: `.NAME.XXXXXX` in the same folder, then one rename.
///
/// Whatever happens, a reader of the path sees the old file or the new one, whole. Dropped before it is published, it is removed.
#[derive(Debug)]
pub struct Replacement {
    disk: FileDisk,
    /// `None` once it is published.
    temporary: Option<PathBuf>,
    target: PathBuf,
}

impl Replacement {
    /// Makes an empty file beside `target`, 0666 less the umask as any new file is.
    ///
    /// `unique` makes the temporary name; when it is taken, the next free one after it is.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub fn create(target: &Path, unique: u64) -> Result<Self, Error> {
        Self::with_mode(target, unique, 0o666)
    }

    /// As [`Replacement::create`], but for its owner alone to read and write until it is given other permissions.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub fn create_private(target: &Path, unique: u64) -> Result<Self, Error> {
        Self::with_mode(target, unique, 0o600)
    }

    fn with_mode(target: &Path, unique: u64, mode: u32) -> Result<Self, Error> {
        let cannot = |error| Error::from_io(format!("cannot make `{}`", target.display()), error);
        let name = target
            .file_name()
            .ok_or_else(|| Error::new(ErrorKind::Refused, format!("`{}` does not name a file", target.display())))?;
        for attempt in 0..ATTEMPTS {
            let mut hidden = std::ffi::OsString::from(".");
            // A name that is almost too long still fits with the rest.
            let shown = name.to_string_lossy();
            hidden.push(shown.chars().take(NAME_PART).collect::<String>());
            hidden.push(format!(".{:06x}", unique.wrapping_add(attempt) & 0xFF_FFFF));
            let temporary = target.with_file_name(hidden);
            match OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&temporary) {
                Ok(file) => {
                    let disk = FileDisk::over(file, &temporary, Access::ReadWrite, false)?;
                    return Ok(Self { disk, temporary: Some(temporary), target: target.to_owned() });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot(error)),
            }
        }
        Err(Error::new(ErrorKind::AlreadyExists, format!("no free temporary name beside `{}`", target.display())))
    }

    /// Fills the new file with the bytes of the regular file `original`: by sharing its blocks where the host's file system can,
    /// else holes as holes.
    ///
    /// `step` is told the bytes done after every piece, and stops the copy when it fails.
    ///
    /// # Errors
    ///
    /// The failure of the operating system or of `step`; the file is then filled in part.
    pub fn copy_from<E: From<Error>>(&mut self, original: &FileDisk, step: impl FnMut(u64) -> Result<(), E>) -> Result<(), E> {
        duplicate(original, self.disk.file(), step)?;
        self.resize(original.size())?;
        Ok(())
    }

    /// Gives the file the owner of the file that it will replace.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`] when the user may not give files away; otherwise the failure of the operating system.
    pub fn keep_owner(&self) -> Result<(), Error> {
        let cannot = |error| Error::from_io(format!("cannot keep the owner of `{}`", self.target.display()), error);
        let old = fs::metadata(&self.target).map_err(cannot)?;
        let ours = self.disk.file().metadata().map_err(cannot)?;
        if (old.uid(), old.gid()) != (ours.uid(), ours.gid()) {
            fchown(self.disk.file(), Some(old.uid()), Some(old.gid())).map_err(cannot)?;
        }
        Ok(())
    }

    /// Gives the file the mode, the access list, the label and all other extended attributes of the file that it will replace and,
    /// where that is allowed, its owner.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when an attribute cannot be kept; otherwise the failure of the operating system.
    pub fn keep_attributes(&self) -> Result<(), Error> {
        match self.keep_owner() {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
        let cannot = |error| Error::from_io(format!("cannot keep the mode of `{}`", self.target.display()), error);
        let old = File::open(&self.target).map_err(cannot)?;
        // Before the mode: with an access list, the permissions of the group are its mask.
        xattrs::keep(&old, self.disk.file(), &self.target)?;
        self.set_permissions(old.metadata().map_err(cannot)?.permissions())
    }

    /// Sets the permissions of the file.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub fn set_permissions(&self, permissions: Permissions) -> Result<(), Error> {
        let cannot = |error| Error::from_io(format!("cannot set the mode of `{}`", self.disk.path().display()), error);
        self.disk.file().set_permissions(permissions).map_err(cannot)
    }

    /// Makes the file durable and puts it in the place of whatever is at the path.
    ///
    /// # Errors
    ///
    /// The failure of the operating system; the old file is there then, unless only the last sync of the folder failed.
    pub fn publish(self) -> Result<(), Error> {
        self.rename(RenameFlags::empty(), true)
    }

    /// As [`Replacement::publish`], but a power cut soon after may leave anything at the path.
    ///
    /// # Errors
    ///
    /// As [`Replacement::publish`].
    pub fn publish_unsynced(self) -> Result<(), Error> {
        self.rename(RenameFlags::empty(), false)
    }

    /// As [`Replacement::publish`], but never over an existing file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] when something is at the path; otherwise the failure of the operating system.
    pub fn publish_new(self) -> Result<(), Error> {
        self.rename(RenameFlags::NOREPLACE, true)
    }

    fn rename(mut self, flags: RenameFlags, sync: bool) -> Result<(), Error> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        let target = self.target.clone();
        let cannot = |error: io::Error| Error::from_io(format!("cannot publish `{}`", target.display()), error);
        if sync {
            self.disk.file().sync_all().map_err(cannot)?;
        }
        let renamed = match renameat_with(CWD, temporary, CWD, &target, flags) {
            // A file system without the flag: a link never replaces either.
            Err(Errno::INVAL | Errno::NOSYS) if flags == RenameFlags::NOREPLACE => {
                fs::hard_link(temporary, &target).and_then(|()| fs::remove_file(temporary))
            }
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(cannot)?;
        self.temporary = None;
        if !sync {
            return Ok(());
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot)
    }

    /// Has the empty file written in place on a file system that copies on write, where that can be chosen: on btrfs.
    pub fn write_in_place(&self) {
        // QEMU does not mind either when the file system knows nothing of it.
        let _asked = ioctl_getflags(self.disk.file()).and_then(|flags| ioctl_setflags(self.disk.file(), flags | IFlags::NOCOW));
    }

    /// As [`FileDisk::store_late`].
    pub fn store_late(&mut self) {
        self.disk.store_late();
    }

    /// Returns where the file is until it is published.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Opens the temporary file once more, for reading back what was written.
    ///
    /// # Errors
    ///
    /// As [`FileDisk::open`].
    pub fn reopen(&self) -> Result<FileDisk, Error> {
        FileDisk::open(self.disk.path(), Access::Read)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing can be done about a failure here; the name tells people what it is.
            let _left = fs::remove_file(temporary);
        }
    }
}

impl BlockRead for Replacement {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.disk.read_exact_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        self.disk.extent_at(offset)
    }
}

impl BlockWrite for Replacement {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.disk.write_all_at(buf, offset)
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.disk.write_zeroes_at(range, hole)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.disk.flush()
    }
}

impl Resize for Replacement {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        self.disk.resize(size)
    }
}

/// Names that are tried before giving up.
const ATTEMPTS: u64 = 64;
/// Characters of the target's name in the temporary one; with the rest at most 255 bytes.
const NAME_PART: usize = 60;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::Replacement;
    use crate::block::{BlockRead, BlockWrite, Error, ErrorKind, Resize};
    use crate::storage::{Access, FileDisk};

    fn written(target: &std::path::Path, byte: u8) -> Replacement {
        let mut new = Replacement::create(target, 42).unwrap();
        new.resize(10).unwrap();
        new.write_all_at(&[byte; 10], 0).unwrap();
        new
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_takes_its_place_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        fs::write(&target, b"old").unwrap();
        drop(written(&target, b'x'));
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of a dropped one");
        let (first, second) = (written(&target, b'a'), written(&target, b'b'));
        first.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), [b'a'; 10]);
        assert_eq!(second.publish_new().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), [b'a'; 10]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_file_is_private_until_it_is_given_the_mode_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        fs::write(&target, b"old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
        let mut new = Replacement::create_private(&target, 42).unwrap();
        assert_eq!(fs::metadata(new.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        new.copy_from(&FileDisk::open(&target, Access::Read).unwrap(), |_| Ok::<(), Error>(())).unwrap();
        assert_eq!(new.size(), 3);
        new.write_all_at(b"new", 0).unwrap();
        new.keep_attributes().unwrap();
        new.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o644);
    }
}
