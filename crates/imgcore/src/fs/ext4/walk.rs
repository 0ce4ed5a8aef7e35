use std::cell::RefCell;
use std::rc::Rc;

use super::error::corrupt;
use super::inode::Inode;
use super::resolve::resolve;
use super::volume::Volume;
use crate::block::BlockRead;
use crate::fs::{Error, FileKind, GuestPath};

/// Looks many paths up in a file system that does not change meanwhile: the way to the folder of the last one is known.
#[derive(Debug)]
pub(super) struct Walk<'v, D> {
    volume: &'v Volume<D>,
    last: RefCell<Option<(GuestPath, Rc<Folder>)>>,
}

/// A folder, where a path leads.
#[derive(Debug)]
struct Folder {
    /// The path without links.
    path: GuestPath,
    /// The folders from the root to it.
    folders: Vec<Inode>,
}

impl<'v, D: BlockRead> Walk<'v, D> {
    pub(super) fn new(volume: &'v Volume<D>) -> Self {
        Self { volume, last: RefCell::default() }
    }

    /// Returns `path` without links, as far as it exists.
    pub(super) fn canonical(&self, path: &GuestPath, follow: bool) -> Result<GuestPath, Error> {
        if !follow
            && let Some((folder, name)) = self.split(path)?
            && let Ok(path) = folder.path.join(name)
        {
            return Ok(path);
        }
        let place = match resolve(self.volume, path, follow) {
            Ok(place) => place,
            // A later edit put something else in the way.
            Err(Error::WrongKind { .. } | Error::TooManyLinks(_)) => return Ok(path.clone()),
            Err(error) => return Err(error),
        };
        let names: Vec<_> = place.names.iter().chain(&place.missing).map(Vec::as_slice).collect();
        Ok(joined(&names).unwrap_or_else(|| path.clone()))
    }

    /// Returns what is at a path, a link itself; nothing where a file is in the way.
    pub(super) fn find(&self, path: &GuestPath) -> Result<Option<Inode>, Error> {
        let Some((folder, name)) = self.split(path)? else {
            return match resolve(self.volume, path, false) {
                Ok(place) => Ok(place.found),
                Err(Error::WrongKind { .. }) => Ok(None),
                Err(error) => Err(error),
            };
        };
        let Some(last) = folder.folders.last() else { return Ok(None) };
        let Some(number) = self.volume.lookup(last, name.as_bytes())? else { return Ok(None) };
        if folder.folders.iter().any(|above| above.number == number) {
            return Err(corrupt(format!("folder {number}"), "it has one name, outside of itself"));
        }
        self.volume.named_inode(number).map(Some)
    }

    /// Returns the folder that `path` lies in and the last name, or `None` where there is no such folder.
    fn split<'p>(&self, path: &'p GuestPath) -> Result<Option<(Rc<Folder>, &'p str)>, Error> {
        let (Some(parent), Some(name)) = (path.parent(), path.name().filter(|name| !matches!(*name, "." | ".."))) else {
            return Ok(None);
        };
        if let Some((_, folder)) = self.last.borrow().as_ref().filter(|(known, _)| *known == parent) {
            return Ok(Some((Rc::clone(folder), name)));
        }
        let place = match resolve(self.volume, &parent, true) {
            Ok(place) => place,
            Err(Error::WrongKind { .. } | Error::TooManyLinks(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(found) = place.found else { return Ok(None) };
        let names: Vec<_> = place.names.iter().map(Vec::as_slice).collect();
        let (FileKind::Directory, Some(path)) = (found.kind()?, joined(&names)) else { return Ok(None) };
        let mut folders = place.folders;
        folders.push(found);
        let folder = Rc::new(Folder { path, folders });
        *self.last.borrow_mut() = Some((parent, Rc::clone(&folder)));
        Ok(Some((folder, name)))
    }
}

/// Returns the path of these names, or `None` when one of them cannot be in a path.
fn joined(names: &[&[u8]]) -> Option<GuestPath> {
    let text: String = names.iter().map(|name| format!("/{}", String::from_utf8_lossy(name))).collect();
    GuestPath::new(if text.is_empty() { "/" } else { &text }).ok()
}
