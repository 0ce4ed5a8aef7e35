//! New files on the host: written beside, made durable, then renamed into place.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{CommandError, ErrorKind};

/// What happens when a new file's name is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// The new file is refused, and the old one stays.
    Refuse,
    /// The new file takes the place of the old one, at once.
    Replace,
}

impl From<bool> for Existing {
    /// Returns what `--force` means.
    fn from(force: bool) -> Self {
        if force { Self::Replace } else { Self::Refuse }
    }
}

/// Makes the file `target` with `bytes` and the permission bits `mode`: whole and durable, or not at all.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when `target` exists and `existing` says so, otherwise the failure of the operating system. Nothing
/// has changed then.
pub fn publish(target: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), CommandError> {
    let cannot = |error| CommandError::io(format!("cannot write `{}`", target.display()), error);
    refuse_existing(target, existing)?;
    let folder = folder_of(target);
    let name = target.file_name().ok_or_else(|| cannot(io::ErrorKind::IsADirectory.into()))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // Private until it is complete, whatever `mode` says.
    let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(&folder).map_err(cannot)?;
    file.write_all(bytes).map_err(cannot)?;
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    let persisted = match existing {
        Existing::Refuse => file.persist_noclobber(target),
        Existing::Replace => file.persist(target),
    };
    match persisted {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Err(exists(target)),
        Err(error) => return Err(cannot(error.error)),
    }
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(cannot)
}

/// Returns an error when `target` exists and `existing` says that it stays: for a check before long work.
///
/// # Errors
///
/// [`ErrorKind::Refused`].
pub fn refuse_existing(target: &Path, existing: Existing) -> Result<(), CommandError> {
    let taken = existing == Existing::Refuse && target.symlink_metadata().is_ok();
    if taken { Err(exists(target)) } else { Ok(()) }
}

/// Returns the folder that holds `target`.
fn folder_of(target: &Path) -> PathBuf {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

fn exists(target: &Path) -> CommandError {
    CommandError::new(ErrorKind::Refused, format!("`{}` exists already", target.display())).hint("`--force` replaces it")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{Existing, publish};
    use crate::error::ErrorKind;

    #[test]
    fn a_new_file_is_whole_with_its_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("minion.pem");
        publish(&target, b"secret", 0o600, Existing::Refuse).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"secret");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_file_stays_unless_it_is_to_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("seed.iso");
        fs::write(&target, "old").unwrap();
        let error = publish(&target, b"new", 0o644, Existing::Refuse).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        publish(&target, b"new", 0o644, Existing::Replace).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }
}
