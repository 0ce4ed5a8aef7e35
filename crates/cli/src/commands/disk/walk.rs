//! Walks through a guest's files.

use std::collections::BTreeSet;

use imgcore::fs::{Error, FileKind, FileSystem, GuestPath, Metadata};

use crate::context::Context;
use crate::error::CommandError;
use crate::output::{printable, warn};

/// Calls `visit` with `path` and, when it is `recursive`, with all that is below, folders before what is in them.
///
/// Links are not followed. Names that no path can have are passed over with a warning, as folders that were met before.
///
/// # Errors
///
/// What `visit` fails with, and the failure of the file system.
pub(super) fn walk(
    context: &Context,
    files: &dyn FileSystem,
    path: &GuestPath,
    recursive: bool,
    mut visit: impl FnMut(GuestPath, Metadata) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut waiting = vec![path.clone()];
    let mut met = Met::new(files);
    while let Some(path) = waiting.pop() {
        context.interrupt().check()?;
        let found = files.symlink_metadata(&path)?;
        if recursive && found.kind == FileKind::Directory {
            if !met.is_new(context, &path, found.inode) {
                continue;
            }
            for entry in files.read_dir(&path)?.iter().rev() {
                match std::str::from_utf8(&entry.name).ok().and_then(|name| path.join(name).ok()) {
                    Some(below) => waiting.push(below),
                    None => warn(context, format!("cannot look at `{}` in `{path}`", printable(&entry.name))),
                }
            }
        }
        visit(path, found)?;
    }
    Ok(())
}

/// The folders that a walk has met. In a damaged file system one can be in two places, even below itself; with more of them the
/// paths are soon more than anybody can walk.
pub(super) struct Met(Option<BTreeSet<u64>>);

impl Met {
    pub(super) fn new(files: &dyn FileSystem) -> Self {
        Self(Some(BTreeSet::new()).filter(|_| !files.is_tree()))
    }

    /// Returns whether a folder was not met before, and warns otherwise.
    pub(super) fn is_new(&mut self, context: &Context, path: &GuestPath, inode: u64) -> bool {
        let is_new = self.0.as_mut().is_none_or(|met| met.insert(inode));
        if !is_new {
            warn(context, format!("`{path}` is a folder that has another place already, and is not looked into"));
        }
        is_new
    }
}

/// Returns `path`, or where `name` goes when that is a folder that exists.
///
/// # Errors
///
/// The failure of the file system.
pub(super) fn into_folder(files: &dyn FileSystem, path: GuestPath, name: Option<&str>) -> Result<GuestPath, CommandError> {
    match files.metadata(&path) {
        Ok(found) if found.kind == FileKind::Directory => Ok(name.and_then(|name| path.join(name).ok()).unwrap_or(path)),
        Ok(_) | Err(Error::NotFound(_)) => Ok(path),
        Err(error) => Err(error.into()),
    }
}
