//! Folders of the host as steps of a plan: for a guest, and for a new file system.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use imgcore::fs::{Attributes, Device, Edit, GuestPath, Node};

use super::host_file::Contents;
use super::host_xattr::xattrs;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::warn;

/// What is taken of files beside their contents.
pub(super) enum Taken<'a> {
    /// What is returned for a file's new path: a copy by somebody who owns it. Names of one file become files, and what is no file,
    /// folder or link stays behind.
    Contents(&'a dyn Fn(&GuestPath, &Metadata) -> Attributes),
    /// All of it, as `cp -a` does: owners, modes, times, links, nodes, attributes and access lists.
    All,
}

/// Returns the steps that copy `source`, and all that is in it, to `path` of what is in `image`. Links in a folder are copied as they
/// are, `source` itself is followed.
///
/// # Errors
///
/// The failure to read a file, and [`ErrorKind::Unsupported`] for a `source` that stays behind, and for a name or a link's text that
/// is not UTF-8.
pub(super) fn steps(
    context: &Context,
    source: &Path,
    (image, path): (&Path, GuestPath),
    taken: &Taken<'_>,
) -> Result<Vec<Edit>, CommandError> {
    let found = fs::metadata(source).map_err(|error| cannot_read(source, error))?;
    if matches!(taken, Taken::Contents(_)) && !found.is_dir() && !found.is_file() {
        let message = format!("`{}` is neither a file, a folder nor a pipe", source.display());
        return Err(
            CommandError::new(ErrorKind::Unsupported, message).hint("`--archive` copies devices and sockets as they are")
        );
    }
    let mut walk = Walk {
        context,
        taken,
        contents: Contents::new(context, image)?,
        edits: Vec::new(),
        folders: Vec::new(),
        names: BTreeMap::new(),
    };
    let mut waiting = vec![(source.to_path_buf(), path, found)];
    while let Some((source, path, found)) = waiting.pop() {
        context.interrupt().check()?;
        if found.is_dir() {
            waiting.extend(below(&source, &path)?);
        }
        walk.add(source, path, &found)?;
    }
    // Last, as what goes into a folder changes its time and gets what its access list passes on; what is below first.
    walk.edits.extend(walk.folders.into_iter().rev());
    Ok(walk.edits)
}

struct Walk<'a> {
    context: &'a Context,
    taken: &'a Taken<'a>,
    contents: Contents,
    edits: Vec<Edit>,
    /// What folders get when all is in them.
    folders: Vec<Edit>,
    /// Files of several names, by device and inode.
    names: BTreeMap<(u64, u64), GuestPath>,
}

impl Walk<'_> {
    fn add(&mut self, source: PathBuf, path: GuestPath, found: &Metadata) -> Result<(), CommandError> {
        let kind = found.file_type();
        let all = matches!(self.taken, Taken::All);
        if all && !kind.is_dir() && found.nlink() > 1 {
            let key = (found.dev(), found.ino());
            if let Some(target) = self.names.get(&key) {
                self.edits.push(Edit::HardLink { path, target: target.clone() });
                return Ok(());
            }
            self.names.insert(key, path.clone());
        }
        let attributes = self.attributes(&source, &path, found)?;
        self.edits.push(if kind.is_dir() {
            if all {
                self.folders.push(Edit::CreateDir { path: path.clone(), attributes });
                Edit::CreateDir { path, attributes: Attributes::default() }
            } else {
                Edit::CreateDir { path, attributes }
            }
        } else if kind.is_symlink() {
            let target = fs::read_link(&source).map_err(|error| cannot_read(&source, error))?;
            let target = target.to_str().ok_or_else(|| not_text(&source, "the text of the link"))?.to_owned();
            Edit::Symlink { path, target, attributes: Attributes { mode: None, ..attributes } }
        } else if kind.is_file() {
            let content = self.contents.of(source, found)?;
            if all { Edit::CreateFile { path, content, attributes } } else { Edit::Write { path, content, attributes } }
        } else if all {
            Edit::MakeNode { path, node: node(found), attributes }
        } else {
            warn(self.context, format!("`{}` is no file, folder or link, and is not copied", source.display()));
            return Ok(());
        });
        Ok(())
    }

    fn attributes(&self, source: &Path, path: &GuestPath, found: &Metadata) -> Result<Attributes, CommandError> {
        match self.taken {
            Taken::Contents(attributes) => Ok(attributes(path, found)),
            Taken::All => Ok(Attributes {
                mtime: Some(found.mtime()),
                mtime_nanos: u32::try_from(found.mtime_nsec()).unwrap_or_default(),
                xattrs: xattrs(self.context, source, found)?,
                ..Attributes::owned(found.mode() & 0o7777, found.uid(), found.gid())
            }),
        }
    }
}

/// Returns what is in a folder, the last name first.
fn below(source: &Path, path: &GuestPath) -> Result<Vec<(PathBuf, GuestPath, Metadata)>, CommandError> {
    let mut below = Vec::new();
    for entry in fs::read_dir(source).map_err(|error| cannot_read(source, error))? {
        let entry = entry.map_err(|error| cannot_read(source, error))?;
        let (name, place) = (entry.file_name(), entry.path());
        let inside = name.to_str().and_then(|name| path.join(name).ok()).ok_or_else(|| not_text(&place, "the name"))?;
        let found = entry.metadata().map_err(|error| cannot_read(&place, error))?;
        below.push((place, inside, found));
    }
    below.sort_by(|a, b| b.1.cmp(&a.1));
    Ok(below)
}

fn node(found: &Metadata) -> Node {
    let kind = found.file_type();
    let device = Device { major: rustix::fs::major(found.rdev()), minor: rustix::fs::minor(found.rdev()) };
    match kind {
        _ if kind.is_char_device() => Node::CharDevice(device),
        _ if kind.is_block_device() => Node::BlockDevice(device),
        _ if kind.is_socket() => Node::Socket,
        _ => Node::Fifo,
    }
}

pub(super) fn cannot_read(path: &Path, error: std::io::Error) -> CommandError {
    CommandError::io(format!("cannot read `{}`", path.display()), error)
}

fn not_text(path: &Path, what: &str) -> CommandError {
    let message = format!("`{}`: {what} is not UTF-8, which a path of a guest must be", path.display());
    CommandError::new(ErrorKind::Unsupported, message)
}
