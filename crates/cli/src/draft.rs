//! A changed copy of an image file, which takes the place of the original at once or not at all.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use imgcore::storage::{Access, FileDisk, Lock, LockKind, Replacement};
use rustix::fs::access;

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::progress::Progress;

/// A private copy of a file, beside it, to be changed and then published over it.
///
/// It shares the original's blocks where the host's file system can (reflink), and skips holes where it cannot. Dropped, it is
/// removed and the original is as it was.
#[derive(Debug)]
pub struct Draft {
    copy: Replacement,
    /// Keeps other programs from the original until it is replaced.
    _lock: Lock,
}

impl Draft {
    /// Copies the regular file at `path`, with its owner, permissions and attributes, and locks it against other programs. With the
    /// lock `held`, it is the file that was locked, and nobody has changed it since.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when another program uses it, when it is a block device, has other names, may not be written or has
    /// an owner that cannot be kept, [`ErrorKind::Interrupted`], otherwise the failure of the operating system.
    pub fn copy_of(context: &Context, path: &Path, held: Option<Lock>) -> Result<Self, CommandError> {
        let cannot = |error| CommandError::io(format!("cannot copy `{}`", path.display()), error);
        // The file itself is replaced, not a link to it.
        let target = fs::canonicalize(path).map_err(cannot)?;
        refuse_read_only(&target)?;
        // It is not written, but whoever uses it minds the replacement as much.
        let original = FileDisk::open(&target, Access::ReadWrite)?;
        let lock = match held {
            Some(mut held) => held.write(&original).map(|()| held),
            None => Lock::acquire(&original, LockKind::Write),
        }?;
        let metadata = original.file().metadata().map_err(cannot)?;
        refuse_unsuitable(&target, &metadata)?;
        let mut copy = Replacement::create_private(&target, context.entropy(None).next_u64())?;
        let mut progress = Progress::bytes(context, "copying", metadata.len());
        copy.copy_from(&original, |done| {
            progress.set(done);
            context.interrupt().check()
        })?;
        copy.keep_owner().map_err(|error| {
            CommandError::io(format!("cannot keep the owner of `{}`", target.display()), error.into())
                .hint("run this as the owner of the image")
        })?;
        copy.keep_attributes()
            .map_err(|error| CommandError::from(error).hint("`--in-place` or `--undo-log FILE` changes the file itself"))?;
        Ok(Self { copy, _lock: lock })
    }

    /// Returns where the copy is, to be opened and changed.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.copy.path()
    }

    /// Makes the copy durable and puts it into the place of the original.
    ///
    /// # Errors
    ///
    /// The failure of the operating system; the original is as it was then.
    pub fn publish(self) -> Result<(), CommandError> {
        Ok(self.copy.publish()?)
    }
}

/// A file that its permissions protect is not replaced either, although its folder would allow it.
fn refuse_read_only(target: &Path) -> Result<(), CommandError> {
    access(target, rustix::fs::Access::WRITE_OK).map_err(|error| {
        CommandError::new(ErrorKind::Refused, format!("`{}` may not be written", target.display())).with_source(error)
    })
}

fn refuse_unsuitable(target: &Path, metadata: &fs::Metadata) -> Result<(), CommandError> {
    let kind = metadata.file_type();
    let shown = target.display();
    if kind.is_block_device() {
        let message = format!("`{shown}` is a block device, which cannot be changed all at once or not at all");
        return Err(CommandError::new(ErrorKind::Refused, message).hint("change an image file, then copy it to the device"));
    }
    if !kind.is_file() {
        return Err(CommandError::new(ErrorKind::Refused, format!("`{shown}` is not a regular file")));
    }
    if metadata.nlink() > 1 {
        let message = format!("`{shown}` has {} names, and the others would keep the old content", metadata.nlink());
        return Err(CommandError::new(ErrorKind::Refused, message).hint("`--in-place` changes the file that all of them mean"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};

    use super::Draft;
    use crate::context::Context;
    use crate::error::{CommandError, ErrorKind};

    fn context() -> Context {
        Context::detached(PathBuf::from("/"), Box::new(std::io::sink()), Box::new(std::io::sink()))
    }

    fn copy_of(path: &Path) -> Result<Draft, CommandError> {
        Draft::copy_of(&context(), path, None)
    }

    #[test]
    fn a_published_draft_replaces_the_file_and_keeps_holes_and_mode() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        let file = File::create(&target).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        let draft = copy_of(&target).unwrap();
        File::options().write(true).open(draft.path()).unwrap().write_all_at(b"start", 0).unwrap();
        draft.publish().unwrap();
        let bytes = fs::read(&target).unwrap();
        assert_eq!((&bytes[..5], &bytes[32 << 20..][..6], bytes.len()), (&b"start"[..], &b"middle"[..], 64 << 20));
        let metadata = fs::metadata(&target).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert!(metadata.blocks() < 2048, "{} blocks", metadata.blocks());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_dropped_draft_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        fs::write(&target, "old").unwrap();
        let draft = copy_of(&target).unwrap();
        fs::write(draft.path(), "new").unwrap();
        drop(draft);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_followed_and_a_second_name_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link, other) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let draft = copy_of(&link).unwrap();
        fs::write(draft.path(), "new").unwrap();
        draft.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::hard_link(&target, &other).unwrap();
        assert_eq!(copy_of(&target).unwrap_err().kind(), ErrorKind::Refused);
    }

    #[test]
    fn a_signal_stops_the_copy() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        fs::write(&target, "old").unwrap();
        let context = context();
        context.interrupt().set();
        // A file system that shares blocks is done before it looks.
        if let Err(error) = Draft::copy_of(&context, &target, None) {
            assert_eq!(error.kind(), ErrorKind::Interrupted);
        }
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
