use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use super::{MachineName, Root};
use crate::error::{CommandError, ErrorKind};

/// The hidden folder in which a machine is prepared: `ROOT/.NAME.XXXXXX`.
///
/// It is locked while its process lives. Dropped, it is removed; after a kill it stays behind, unlocked, until
/// [`remove_leftovers`] finds it.
#[derive(Debug)]
pub struct Staging {
    folder: TempDir,
    root: PathBuf,
    target: PathBuf,
    name: MachineName,
    /// Holds the lock; closed with the process, however it ends.
    _lock: File,
}

impl Staging {
    /// Makes the folder for the machine `name`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the machine exists already, otherwise the failure of the operating system.
    pub fn create(root: &Root, name: &MachineName) -> Result<Self, CommandError> {
        root.create()?;
        let target = root.folder(name);
        refuse_existing(&target, name)?;
        let cannot = |error| CommandError::io(format!("cannot make a folder in `{}`", root.path().display()), error);
        // Shared against `remove_leftovers`, which must not see the folder before it is locked.
        let guard = File::open(root.path()).map_err(cannot)?;
        flock(&guard, FlockOperation::LockShared).map_err(|error| cannot(error.into()))?;
        let folder = tempfile::Builder::new().prefix(&format!(".{name}.")).tempdir_in(root.path()).map_err(cannot)?;
        let lock = File::open(folder.path()).map_err(cannot)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| cannot(error.into()))?;
        Ok(Self { folder, root: root.path().to_owned(), target, name: name.clone(), _lock: lock })
    }

    /// Returns the folder as it is now.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns where the folder will be once it is published.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes every file that is in the folder now durable.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub fn sync(&self) -> Result<(), CommandError> {
        let cannot = |error| CommandError::io(format!("cannot make `{}` durable", self.path().display()), error);
        sync_folder(self.path()).map_err(cannot)
    }

    /// Makes the machine exist: syncs every file and the folder, renames it into place and syncs the root.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when a machine of that name has come into being meanwhile, otherwise the failure of the operating
    /// system. Nothing is left then.
    pub fn publish(self) -> Result<PathBuf, CommandError> {
        let cannot = |error| CommandError::io(format!("cannot publish `{}`", self.target.display()), error);
        // Others may pass, as QEMU under libvirt's own user must, and not look around.
        fs::set_permissions(self.path(), Permissions::from_mode(0o711)).map_err(cannot)?;
        sync_folder(self.path()).map_err(cannot)?;
        match renameat_with(CWD, self.path(), CWD, &self.target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(exists(&self.name)),
            Err(error) => return Err(cannot(error.into())),
        }
        let _renamed = self.folder.keep();
        File::open(&self.root).and_then(|folder| folder.sync_all()).map_err(cannot)?;
        Ok(self.target)
    }
}

/// Makes a folder and all files in it durable, at the same time, so that the file system can commit them together.
fn sync_folder(folder: &Path) -> io::Result<()> {
    let mut files = vec![File::open(folder)?];
    for entry in fs::read_dir(folder)? {
        files.push(File::open(entry?.path())?);
    }
    thread::scope(|scope| {
        let syncs: Vec<_> = files.iter().map(|file| scope.spawn(|| file.sync_all())).collect();
        // Every one is awaited; the first failure is the answer.
        syncs.into_iter().map(|sync| sync.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))).fold(Ok(()), Result::and)
    })
}

fn refuse_existing(target: &Path, name: &MachineName) -> Result<(), CommandError> {
    match fs::symlink_metadata(target) {
        Ok(_) => Err(exists(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CommandError::io(format!("cannot look at `{}`", target.display()), error)),
    }
}

fn exists(name: &MachineName) -> CommandError {
    CommandError::new(ErrorKind::Refused, format!("the machine `{name}` exists already"))
        .hint(format!("`vmimg remove {name}` removes it, with its disk"))
}

/// Removes the folders of preparations whose process is gone.
///
/// # Errors
///
/// The failure of the operating system; a root that does not exist has none.
pub fn remove_leftovers(root: &Root) -> Result<(), CommandError> {
    let cannot = |error| CommandError::io(format!("cannot clean up `{}`", root.path().display()), error);
    let guard = match File::open(root.path()) {
        Ok(guard) => guard,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(error)),
    };
    flock(&guard, FlockOperation::LockExclusive).map_err(|error| cannot(error.into()))?;
    for entry in fs::read_dir(root.path()).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let ours = entry.file_name().to_str().is_some_and(is_staging);
        if !ours || !entry.file_type().map_err(cannot)?.is_dir() {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(entry.path()).map_err(cannot)?;
        }
    }
    Ok(())
}

/// Returns whether `file` is `.NAME.XXXXXX` with a machine's name.
fn is_staging(file: &str) -> bool {
    let parts = file.strip_prefix('.').and_then(|rest| rest.rsplit_once('.'));
    parts.is_some_and(|(name, random)| random.len() == RANDOM_LEN && name.parse::<MachineName>().is_ok())
}

/// Random characters at the end of a staging folder's name, as `tempfile` makes them.
const RANDOM_LEN: usize = 6;
