//! The master's side of a preseeded minion: its public key among the accepted ones.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use imgcore::block::{BlockWrite, Resize};
use imgcore::storage::Replacement;
use seed::plan::MinionKey;

use crate::error::{CommandError, ErrorKind};

/// A public key that was put among a master's accepted ones. Dropped before [`AcceptedKey::keep`], it is taken away again.
#[derive(Debug)]
pub(super) struct AcceptedKey {
    /// The file that was made; `None` when it was there before, or when it stays.
    made: Option<PathBuf>,
}

impl AcceptedKey {
    /// Writes the minion's key into `folder`, the master's `minions` folder, under its id. `unique` names the temporary file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when another key is accepted for that id; the failure of the operating system.
    pub(super) fn accept(folder: &Path, key: &MinionKey, unique: u64) -> Result<Self, CommandError> {
        let path = folder.join(&key.id);
        let cannot = |error| CommandError::io(format!("cannot write the minion's key `{}`", path.display()), error);
        match fs::read(&path) {
            Ok(known) if known == key.public.as_bytes() => return Ok(Self { made: None }),
            Ok(_) => {
                let message = format!("the master accepts another key for the minion `{}` in `{}`", key.id, folder.display());
                return Err(CommandError::new(ErrorKind::Refused, message)
                    .hint("delete it there, or give the machine that minion's key with `--minion-key`"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(error)),
        }
        let mut file = Replacement::create(&path, unique)?;
        file.resize(u64::try_from(key.public.len()).unwrap_or(u64::MAX))?;
        file.write_all_at(key.public.as_bytes(), 0)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.publish_new()?;
        let accepted = Self { made: Some(path.clone()) };
        // A packaged master runs as its own user, to whom the folder belongs.
        let owner = fs::metadata(folder).map_err(cannot)?;
        match chown(&path, Some(owner.uid()), Some(owner.gid())) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(cannot(error)),
            _ => Ok(accepted),
        }
    }

    /// Leaves the key where it is.
    pub(super) fn keep(mut self) {
        self.made = None;
    }
}

impl Drop for AcceptedKey {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // The machine was not made; a key that nobody has is left over if this fails, and accepted for nothing.
            let _left = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use seed::plan::MinionKey;

    use super::AcceptedKey;
    use crate::error::ErrorKind;

    #[test]
    fn a_key_is_accepted_unless_the_id_has_another_and_taken_back_unless_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let key = |public: &str| MinionKey { id: "web1".to_owned(), public: public.to_owned() };
        let file = folder.path().join("web1");
        drop(AcceptedKey::accept(folder.path(), &key("a"), 1).unwrap());
        assert!(!file.exists());
        AcceptedKey::accept(folder.path(), &key("a"), 1).unwrap().keep();
        assert_eq!(fs::read(&file).unwrap(), b"a");
        drop(AcceptedKey::accept(folder.path(), &key("a"), 1).unwrap());
        let refused = AcceptedKey::accept(folder.path(), &key("b"), 1).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
