use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use imgcore::fs::{Error, FileKind, GuestPath};
use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::contents::OpenFile;
use super::error::failed;
use super::{Mounted, kind_of};

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Place {
    /// The folder that holds the last of `names`; the root for the root itself.
    pub(super) folder: OwnedFd,
    /// The names from the root down, without links. Empty for the root.
    pub(super) names: Vec<Vec<u8>>,
    /// What is there, or `None` when the last name does not exist.
    pub(super) found: Option<Stat>,
    /// Names that follow one that does not exist.
    pub(super) missing: Vec<Vec<u8>>,
}

impl Place {
    /// Returns its name in its folder.
    pub(super) fn name(&self) -> &[u8] {
        self.names.last().map_or(b".", Vec::as_slice)
    }

    /// Returns what is there, or that there is nothing.
    pub(super) fn expect(&self, path: &GuestPath) -> Result<&Stat, Error> {
        self.found.as_ref().ok_or_else(|| Error::NotFound(path.clone()))
    }

    /// Opens the regular file that is there.
    pub(super) fn open_file(&self, path: &GuestPath) -> Result<OpenFile, Error> {
        let kind = kind_of(self.expect(path)?);
        if kind != FileKind::File {
            return Err(Error::WrongKind { path: path.clone(), kind });
        }
        let file = open_at(&self.folder, self.name(), OFlags::RDONLY, Mode::empty());
        OpenFile::new(file.map_err(|error| failed(path, "be opened", error))?, path)
    }
}

/// Resolves `path` inside the file system: links lead from its root, and `..` never leaves it.
///
/// A name that does not exist ends the walk; it is the last of `names`, and those after it are in `missing`.
pub(super) fn resolve(mounted: &Mounted, path: &GuestPath, follow_last: bool) -> Result<Place, Error> {
    let cannot = |error| failed(path, "be looked up", error);
    let root = || open_folder(&mounted.root, b".").map_err(cannot);
    let mut rest: Vec<Vec<u8>> = path.components().rev().map(|name| name.as_bytes().to_vec()).collect();
    let mut at = root()?;
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut links = 0_u32;
    while let Some(name) = rest.pop() {
        if name.is_empty() || name == b"." {
            continue;
        }
        if name == b".." {
            if names.pop().is_some() {
                at = above(&at).map_err(cannot)?;
            }
            continue;
        }
        let found = match open_at(&at, &name, OFlags::PATH, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                names.push(name);
                rest.reverse();
                return Ok(Place { folder: at, names, found: None, missing: rest });
            }
            Err(error) => return Err(cannot(error)),
        };
        let stat = rustix::fs::fstat(&found).map_err(cannot)?;
        let last = rest.iter().all(|name| name.is_empty() || name == b".");
        match kind_of(&stat) {
            FileKind::Symlink if !last || follow_last => {
                links = links.saturating_add(1);
                if links > MAX_LINKS {
                    return Err(Error::TooManyLinks(path.clone()));
                }
                let target = read_link(&found).map_err(cannot)?;
                if target.first() == Some(&b'/') {
                    names.clear();
                    at = root()?;
                }
                rest.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
            }
            FileKind::Directory => {
                names.push(name);
                at = found;
            }
            _ if last => {
                names.push(name);
                return Ok(Place { folder: at, names, found: Some(stat), missing: Vec::new() });
            }
            kind => return Err(Error::WrongKind { path: path.clone(), kind }),
        }
    }
    // The path ends at a folder.
    let found = Some(rustix::fs::fstat(&at).map_err(cannot)?);
    let folder = if names.is_empty() { at } else { above(&at).map_err(cannot)? };
    Ok(Place { folder, names, found, missing: Vec::new() })
}

/// Opens one name in a folder, in this file system and without following it. What it is is known before, if it is more than
/// looked at: no device, FIFO or socket is opened.
pub(super) fn open_at(folder: impl AsFd, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    // A name is one name: the root that it is resolved in is the folder itself.
    if name.contains(&b'/') || name == b".." {
        return Err(Errno::INVAL);
    }
    let more = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK | OFlags::NOCTTY };
    let flags = flags | more | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(folder, OsStr::from_bytes(name), flags, mode, inside)
}

/// Opens a folder for reading: what is in `folder` under `name`, or itself for `.`.
pub(super) fn open_folder(folder: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    open_at(folder, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens the folder above one that is not the root: the one that it was reached from, whatever the guest has stored.
pub(super) fn above(folder: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(folder, "..", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV)
}

/// Returns the text of a link that is open.
pub(super) fn read_link(link: impl AsFd) -> Result<Vec<u8>, Errno> {
    Ok(rustix::fs::readlinkat(link, "", Vec::new())?.into_bytes())
}

/// Returns a path to `name` in `folder` for the calls that take no folder; only this process knows it, and its last name is one.
pub(super) fn own_path(folder: &OwnedFd, name: &[u8]) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    path.push(OsStr::from_bytes(name));
    path
}

/// The most links on the way to a file, as Linux has it.
const MAX_LINKS: u32 = 40;
