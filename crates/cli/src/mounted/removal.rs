use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use imgcore::fs::{Error, FileKind, GuestPath};
use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;

use super::error::failed;
use super::kind_of;
use super::resolve::{above, open_folder};
use super::view::look;

/// Removes `name` from `folder`: a folder with all that is in it.
///
/// However deep it goes, two folders are open: the way back up is the one that the kernel came down. A folder that holds itself
/// is refused by the kernel, which knows one name for each.
pub(super) fn remove(folder: &OwnedFd, name: &[u8], path: &GuestPath) -> Result<(), Error> {
    remove_all(folder, name).map_err(|error| failed(path, "be removed", error))
}

fn remove_all(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    if kind_of(&look(folder, name)?) != FileKind::Directory {
        return unlink(folder, name, AtFlags::empty());
    }
    // The folders on the way down, the last one open, with the names that it still has.
    let mut at = open_folder(folder, name)?;
    let mut way = vec![(name.to_vec(), names(&at)?)];
    while let Some((name, left)) = way.last_mut() {
        let Some(below) = left.pop() else {
            let parent = above(&at)?;
            unlink(&parent, name, AtFlags::REMOVEDIR)?;
            at = parent;
            way.pop();
            continue;
        };
        if kind_of(&look(&at, &below)?) == FileKind::Directory {
            at = open_folder(&at, &below)?;
            let inside = names(&at)?;
            way.push((below, inside));
        } else {
            unlink(&at, &below, AtFlags::empty())?;
        }
        if way.len() > DEEPEST {
            return Err(Errno::LOOP);
        }
    }
    Ok(())
}

/// Returns the names in a folder.
fn names(folder: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

fn unlink(folder: impl AsFd, name: &[u8], flags: AtFlags) -> Result<(), Errno> {
    rustix::fs::unlinkat(folder, OsStr::from_bytes(name), flags)
}

/// Folders within each other: more than a guest has.
const DEEPEST: usize = 1 << 16;
