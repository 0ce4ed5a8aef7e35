//! The files of a guest's file system that the kernel has mounted: read, changed by a plan, and verified.
//!
//! ```text
//! resolve    paths, one name after the other; links are followed here, never by the kernel
//! view       reading
//! about      attributes, nodes and room
//! editor     one step of a plan at a time, each as `fs::ext4::Editor` does it
//!   kept     what the kernel takes away from a file that is changed, and that stays
//!   removal  folders with all that is in them
//! verify     what a plan has left
//! ```
//!
//! The guest is hostile, and its file system is now a part of this machine's tree of files. So every call names a file by a folder
//! that is open and one name in it, and no call follows a link: nothing leads out of the mount. Device nodes, FIFOs and sockets
//! are never opened.

mod about;
mod contents;
mod editor;
mod error;
mod kept;
mod removal;
mod resolve;
mod verify;
mod view;

pub use contents::OpenFile;

use std::os::fd::OwnedFd;
use std::path::Path;

use imgcore::block;
use imgcore::fs::{Content, EditPlan, Error, FileKind, GuestPath};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// A file system, from its root folder down.
#[derive(Debug)]
pub struct Mounted {
    root: OwnedFd,
}

impl Mounted {
    /// Opens the folder `root` of this machine, on which a file system is mounted. Its files stay within reach wherever that is
    /// mounted later, and it stays in use until this is dropped.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(root: &Path) -> Result<Self, block::Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty());
        let root = root.map_err(|error| block::Error::from_io("cannot open the root of the file system", error.into()))?;
        Ok(Self { root })
    }

    /// Takes the root folder of a file system that is mounted nowhere else.
    pub(crate) fn of(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Opens the root folder itself, for calls about the whole file system.
    pub(crate) fn open_root(&self) -> Result<OwnedFd, Errno> {
        resolve::open_folder(&self.root, b".")
    }

    /// Runs the steps of `plan`, in order; `before` is asked before each. `now`, in seconds since 1970, becomes the time of what is
    /// made and changed.
    ///
    /// # Errors
    ///
    /// As [`imgcore::fs::ext4::Editor::apply`]. A part of the changes has been made then.
    pub fn apply<E: From<Error>>(&self, plan: &EditPlan, now: i64, mut before: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        for edit in &plan.edits {
            before()?;
            editor::Editor::new(self, now, edit.path()).step(edit)?;
        }
        Ok(())
    }

    /// Makes everything durable that was changed.
    ///
    /// # Errors
    ///
    /// The failure of the device.
    pub fn sync(&self) -> Result<(), Error> {
        let synced = self.open_root().and_then(rustix::fs::syncfs);
        synced.map_err(|error| error::failed(&GuestPath::root(), "be made durable", error))
    }

    /// Checks that the file system holds what `plan` says.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] names the first path that differs; otherwise the failure of the file system.
    pub fn verify(&self, plan: &EditPlan) -> Result<(), Error> {
        verify::verify(self, plan)
    }

    /// Opens a regular file for reading, links followed.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] when it is none, and as [`imgcore::fs::FileSystem::metadata`].
    pub fn open_file(&self, path: &GuestPath) -> Result<OpenFile, Error> {
        let place = resolve::resolve(self, path, true)?;
        place.open_file(path)
    }
}

/// Returns the type of a file.
fn kind_of(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket | FileType::Unknown => FileKind::Socket,
    }
}

/// Returns `len` bytes of contents at `offset`.
fn piece(content: &Content, offset: u64, len: usize) -> Result<std::borrow::Cow<'_, [u8]>, block::Error> {
    match content {
        Content::Disk(disk) => {
            let mut bytes = vec![0; len];
            disk.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.into())
        }
        Content::Bytes(all) => {
            let bytes = usize::try_from(offset).ok().and_then(|at| all.get(at..)).and_then(|rest| rest.get(..len));
            let outside = || block::Error::out_of_bounds(offset, u64::try_from(len).unwrap_or(u64::MAX), content.len());
            Ok(bytes.ok_or_else(outside)?.into())
        }
    }
}

/// Bytes that are read or written at a time.
const PIECE: u64 = 1 << 20;
