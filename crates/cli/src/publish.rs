//! New files on the host: written beside, made durable, then renamed into place.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use imgcore::block::{self, BlockWrite, Resize};
use imgcore::storage::Replacement;

use crate::context::Context;
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
pub fn publish(context: &Context, target: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), CommandError> {
    refuse_existing(target, existing)?;
    // Private until it is complete, whatever `mode` says.
    let mut file = Replacement::create_private(target, context.entropy(None).next_u64())?;
    file.resize(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    file.write_all_at(bytes, 0)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    match existing {
        Existing::Replace => Ok(file.publish()?),
        Existing::Refuse => file.publish_new().map_err(|error| match error.kind() {
            block::ErrorKind::AlreadyExists => exists(target),
            _ => error.into(),
        }),
    }
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

fn exists(target: &Path) -> CommandError {
    CommandError::new(ErrorKind::Refused, format!("`{}` exists already", target.display())).hint("`--force` replaces it")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::Existing;
    use crate::context::Context;
    use crate::error::{CommandError, ErrorKind};

    fn publish(target: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), CommandError> {
        let context = Context::detached(PathBuf::from("/"), Box::new(std::io::sink()), Box::new(std::io::sink()));
        super::publish(&context, target, bytes, mode, existing)
    }

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
