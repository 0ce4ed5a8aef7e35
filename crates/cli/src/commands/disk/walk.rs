//! Walks through a guest's files.

use std::collections::BTreeSet;

use imgcore::fs::{Error, FileKind, FileSystem, GuestPath, Metadata};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::{printable, warn};

/// Calls `visit` with `path` and, when it is `recursive`, with all that is below, folders before what is in them.
///
/// Links are not followed. Names that no path can have are passed over with a warning and counted, as folders that were met
/// before are, uncounted.
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
) -> Result<PassedOver, CommandError> {
    let mut waiting = vec![path.clone()];
    let mut passed_over = PassedOver::default();
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
                    None => passed_over.add(context, &entry.name, &path),
                }
            }
        }
        visit(path, found)?;
    }
    Ok(passed_over)
}

/// How many names of a guest no path can have.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub(super) struct PassedOver(u64);

impl PassedOver {
    /// Counts `name` in `folder`, with a warning.
    pub(super) fn add(&mut self, context: &Context, name: &[u8], folder: &GuestPath) {
        warn(context, format!("`{}` in `{folder}` is not UTF-8, and is passed over", printable(name)));
        self.0 = self.0.saturating_add(1);
    }

    /// Fails when there is one: what was done is not all that was asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`].
    pub(super) fn check(self) -> Result<(), CommandError> {
        let what = match self.0 {
            0 => return Ok(()),
            1 => "a name in the guest is not UTF-8, and was passed over with all below it".to_owned(),
            names => format!("{names} names in the guest are not UTF-8, and were passed over with all below them"),
        };
        Err(CommandError::new(ErrorKind::Unsupported, what)
            .hint("`vmimg nbd connect` gives the kernel the disk, which knows such names"))
    }
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
