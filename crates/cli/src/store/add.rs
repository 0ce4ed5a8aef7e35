use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, ioctl_ficlone, renameat_with};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::alone::check_alone;
use super::{ImageName, RECORD_FILE, StoredImage};
use crate::context::Context;
use crate::domain::{DiskFormat, probe_format};
use crate::error::{CommandError, ErrorKind};
use crate::files::hex;
use crate::machine::Root;
use crate::progress::Progress;

/// An image to add to the store.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The file, absolute.
    pub source: PathBuf,
    /// The name that it gets.
    pub name: ImageName,
    /// Its format; looked at when not given.
    pub format: Option<DiskFormat>,
    /// The digest that its publisher gives: SHA-256 in hexadecimal.
    pub sha256: Option<String>,
}

/// Copies an image into the store of `root`, by sharing its blocks where the file system can.
///
/// The copy is checked, its digest taken, made read-only, synced, and then renamed into place.
///
/// # Errors
///
/// [`ErrorKind::Refused`] for a name that is taken and for an image that refers to another file, [`ErrorKind::Corrupt`] for
/// another digest than the one given, and the failure of the operating system. Nothing is left then.
pub fn add(context: &Context, root: &Root, addition: &Addition) -> Result<StoredImage, CommandError> {
    let format = match addition.format {
        Some(format) => format,
        None => probe_format(&addition.source)?,
    };
    let source = open_source(&addition.source)?;
    let entry = Entry::create(root, &addition.name)?;
    let file = format!("image.{}", format.name());
    let sha256 = copy(context, &source, &entry.path().join(&file))?;
    if addition.sha256.as_ref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(&sha256)) {
        let message = format!("`{}` is not what its publisher made: its SHA-256 is {sha256}", addition.source.display());
        return Err(CommandError::new(ErrorKind::Corrupt, message).hint("download it again"));
    }
    // The copy is checked, which nobody else can change, and not the source.
    let copy = entry.path().join(&file);
    let cannot_add = |error: CommandError| error.context(format!("`{}` cannot be added", addition.source.display()));
    let virtual_size = check_alone(&copy, format).map_err(cannot_add)?;
    let image = StoredImage {
        version: 1,
        name: addition.name.clone(),
        format,
        size: fs::metadata(&copy).map_err(|error| CommandError::io("cannot look at the copy", error))?.len(),
        file,
        virtual_size,
        sha256,
        origin: addition.source.to_string_lossy().into_owned(),
        added: context.unix_time(),
    };
    entry.publish(&image)?;
    Ok(image)
}

/// Opens a regular file or block device for reading; a FIFO is not waited for.
fn open_source(path: &Path) -> Result<File, CommandError> {
    let cannot = |error| CommandError::io(format!("cannot open `{}`", path.display()), error);
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(cannot)?;
    let kind = file.metadata().map_err(cannot)?.file_type();
    if kind.is_file() || std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
        return Ok(file);
    }
    Err(CommandError::new(ErrorKind::Refused, format!("`{}` is neither a file nor a block device", path.display())))
}

/// Copies `source` to the new file `path`, holes as holes, and returns the SHA-256 of the copy.
fn copy(context: &Context, source: &File, path: &Path) -> Result<String, CommandError> {
    let cannot = |error| CommandError::io(format!("cannot copy the image to `{}`", path.display()), error);
    let mut target = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(cannot)?;
    let cloned = ioctl_ficlone(&target, source).is_ok();
    let mut from = if cloned { target.try_clone().map_err(cannot)? } else { source.try_clone().map_err(cannot)? };
    let len = source.metadata().map_err(cannot)?.len();
    let mut progress = Progress::bytes(context, "copying", len);
    let (mut digest, mut offset, mut buf) = (Sha256::new(), 0_u64, vec![0; COPY_LEN]);
    loop {
        let read = match from.read(&mut buf) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(cannot(error)),
        };
        let bytes = buf.get(..read).unwrap_or_default();
        digest.update(bytes);
        if !cloned && bytes.iter().any(|byte| *byte != 0) {
            target.write_all_at(bytes, offset).map_err(cannot)?;
        }
        offset = offset.saturating_add(u64::try_from(read).unwrap_or_default());
        progress.set(offset);
        context.interrupt().check()?;
    }
    target.set_len(offset).map_err(cannot)?;
    target.set_permissions(Permissions::from_mode(0o444)).map_err(cannot)?;
    target.flush().and_then(|()| target.sync_all()).map_err(cannot)?;
    Ok(hex(&digest.finalize()))
}

/// The hidden folder of an image that is being added. Dropped, it is removed; after a kill the next addition removes it.
#[derive(Debug)]
pub(super) struct Entry {
    folder: TempDir,
    store: PathBuf,
    target: PathBuf,
    /// Holds the lock that says that somebody works in the folder.
    _lock: File,
}

impl Entry {
    /// Makes the folder for the image `name` in the store of `root`.
    pub(super) fn create(root: &Root, name: &ImageName) -> Result<Self, CommandError> {
        root.create()?;
        let store = root.store();
        let cannot = |error: io::Error| CommandError::io(format!("cannot write to `{}`", store.display()), error);
        fs::create_dir_all(&store).map_err(cannot)?;
        let target = store.join(name.as_str());
        if fs::symlink_metadata(&target).is_ok() {
            return Err(taken(&target));
        }
        // While it is held, no folder is made and none is removed by another process.
        let guard = File::open(&store).map_err(cannot)?;
        flock(&guard, FlockOperation::LockExclusive).map_err(|error| cannot(error.into()))?;
        remove_leftovers(&store).map_err(cannot)?;
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&store).map_err(cannot)?;
        let lock = File::open(folder.path()).map_err(cannot)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| cannot(error.into()))?;
        Ok(Self { folder, target, store: store.clone(), _lock: lock })
    }

    /// Returns the folder as it is now.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the record and makes the image exist.
    pub(super) fn publish(self, image: &StoredImage) -> Result<(), CommandError> {
        let cannot = |error: io::Error| CommandError::io(format!("cannot publish `{}`", self.target.display()), error);
        let text = serde_json::to_string_pretty(image).map_err(|error| cannot(error.into()))?;
        let mut record = File::create(self.path().join(RECORD_FILE)).map_err(cannot)?;
        record.write_all(format!("{text}\n").as_bytes()).and_then(|()| record.sync_all()).map_err(cannot)?;
        fs::set_permissions(self.path(), Permissions::from_mode(0o755)).map_err(cannot)?;
        File::open(self.path()).and_then(|folder| folder.sync_all()).map_err(cannot)?;
        match renameat_with(CWD, self.path(), CWD, &self.target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(taken(&self.target)),
            Err(error) => return Err(cannot(error.into())),
        }
        let _renamed = self.folder.keep();
        File::open(&self.store).and_then(|store| store.sync_all()).map_err(cannot)
    }
}

/// Removes the folders of additions whose process is gone.
fn remove_leftovers(store: &Path) -> io::Result<()> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !ours || !entry.file_type()?.is_dir() {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn taken(target: &Path) -> CommandError {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    CommandError::new(ErrorKind::Refused, format!("the store has an image `{name}` already"))
        .hint(format!("`--name` gives it another name; `vmimg store remove {name}` removes the old one"))
}

const PREFIX: &str = ".add.";
const COPY_LEN: usize = 1 << 20;
