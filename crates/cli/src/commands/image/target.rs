//! The new image that a command makes: written beside its name, published by a rename.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use imgcore::storage::{Access, FileDisk, Lock, LockKind, Replacement};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// A new file that takes the place of what is at its path, as qemu-img's new images do: at once, or not at all.
#[derive(Debug)]
pub(super) struct Target {
    file: Replacement,
    replaces: bool,
    /// Keeps other programs from the file that is replaced.
    _lock: Option<Lock>,
}

impl Target {
    /// Begins the file at `path`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when another program uses the image that is there, or when it is no regular file.
    pub(super) fn create(context: &Context, path: &Path) -> Result<Self, CommandError> {
        let path = resolved(path);
        let lock = match fs::metadata(&path) {
            Err(_) => None,
            Ok(metadata) if metadata.is_file() => {
                Some(Lock::acquire(&FileDisk::open(&path, Access::ReadWrite)?, LockKind::Write)?)
            }
            Ok(metadata) => {
                let what = if metadata.file_type().is_block_device() { "a block device" } else { "no regular file" };
                let message = format!("`{}` is {what}, and cannot be replaced at once", path.display());
                return Err(CommandError::new(ErrorKind::Refused, message));
            }
        };
        let file = Replacement::create(&path, context.entropy(None).next_u64())?;
        Ok(Self { file, replaces: lock.is_some(), _lock: lock })
    }

    /// Returns the file, to be written.
    pub(super) fn file(&mut self) -> &mut Replacement {
        &mut self.file
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub(super) fn publish(self) -> Result<(), CommandError> {
        if self.replaces {
            self.file.keep_attributes()?;
        }
        Ok(self.file.publish()?)
    }
}

/// Returns what a symbolic link at `path` leads to, so that the link stays.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
