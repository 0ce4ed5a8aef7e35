use super::inode::{Inode, ROOT_INODE};
use super::volume::Volume;
use crate::block::BlockRead;
use crate::fs::{Error, FileKind, GuestPath};

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Place {
    /// The folders from the root to the one that holds the last name.
    pub(super) folders: Vec<Inode>,
    /// The names of these folders but the root, and the last name. Empty for the root.
    pub(super) names: Vec<Vec<u8>>,
    /// What is there, or `None` when the last name does not exist.
    pub(super) found: Option<Inode>,
    /// Names that follow one that does not exist.
    pub(super) missing: Vec<Vec<u8>>,
}

/// Resolves `path` inside the file system: links lead from its root, and `..` never leaves it.
///
/// A name that does not exist ends the walk; it is the last of `names`, and those after it are in `missing`.
pub(super) fn resolve<D: BlockRead>(volume: &Volume<D>, path: &GuestPath, follow_last: bool) -> Result<Place, Error> {
    let root = volume.named_inode(ROOT_INODE)?;
    if root.kind()? != FileKind::Directory {
        return Err(super::error::corrupt("inode 2", "the root is a folder"));
    }
    let mut rest: Vec<Vec<u8>> = path.components().rev().map(|name| name.as_bytes().to_vec()).collect();
    let mut place = Place { folders: vec![root.clone()], names: Vec::new(), found: None, missing: Vec::new() };
    let mut links = 0_u32;
    while let Some(name) = rest.pop() {
        if name.is_empty() || name == b"." {
            continue;
        }
        if name == b".." {
            if place.folders.len() > 1 {
                place.folders.pop();
                place.names.pop();
            }
            continue;
        }
        let folder = place.folders.last().unwrap_or(&root);
        let Some(number) = volume.lookup(folder, &name)? else {
            place.names.push(name);
            rest.reverse();
            place.missing = rest;
            return Ok(place);
        };
        let inode = volume.named_inode(number)?;
        let last = rest.iter().all(|name| name.is_empty() || name == b".");
        match inode.kind()? {
            FileKind::Symlink if !last || follow_last => {
                links = links.saturating_add(1);
                if links > MAX_LINKS {
                    return Err(Error::TooManyLinks(path.clone()));
                }
                let target = volume.link_target(&inode)?;
                if target.first() == Some(&b'/') {
                    place.folders.truncate(1);
                    place.names.clear();
                }
                rest.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
            }
            FileKind::Directory => {
                // A walk through all folders would never end.
                if place.folders.iter().any(|above| above.number == inode.number) {
                    return Err(super::error::corrupt(format!("folder {number}"), "it has one name, outside of itself"));
                }
                place.folders.push(inode);
                place.names.push(name);
            }
            _ if last => {
                place.names.push(name);
                place.found = Some(inode);
                return Ok(place);
            }
            kind => return Err(Error::WrongKind { path: path.clone(), kind }),
        }
    }
    // The path ends at a folder.
    place.found = if place.folders.len() > 1 { place.folders.pop() } else { Some(root) };
    Ok(place)
}

/// The most links on the way to a file, as Linux has it.
const MAX_LINKS: u32 = 40;
