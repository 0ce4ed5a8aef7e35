//! A folder of the host as a plan: what a new file system is filled with.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use imgcore::fs::{Attributes, Device, Edit, EditPlan, GuestPath, Node};

use crate::commands::disk::host_file::lazy_contents;
use crate::error::{CommandError, ErrorKind};

/// Returns the steps that make the contents of `folder` the root of a file system: owners, modes, times, hard links and device nodes
/// as they are. Extended attributes stay behind.
///
/// # Errors
///
/// The failure to read a folder or link, and [`ErrorKind::Unsupported`] for a name or a link's text that is not UTF-8.
pub(super) fn plan(folder: &Path) -> Result<EditPlan, CommandError> {
    let mut walk = Walk { edits: Vec::new(), seen: BTreeMap::new() };
    let metadata = fs::metadata(folder).map_err(|error| cannot_read(folder, error))?;
    let top = attributes(&metadata);
    walk.folder(folder, &GuestPath::root())?;
    // Last, as what goes into a folder changes its time.
    walk.edits.push(Edit::SetAttributes { path: GuestPath::root(), attributes: top });
    Ok(EditPlan { edits: walk.edits })
}

struct Walk {
    edits: Vec<Edit>,
    /// Files of several names, by device and inode.
    seen: BTreeMap<(u64, u64), GuestPath>,
}

impl Walk {
    fn folder(&mut self, folder: &Path, inside: &GuestPath) -> Result<(), CommandError> {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut names: Vec<_> =
            entries.map_err(|error| cannot_read(folder, error))?.iter().map(fs::DirEntry::file_name).collect();
        names.sort_unstable();
        for name in names {
            let source = folder.join(&name);
            let path = name.to_str().and_then(|name| inside.join(name).ok());
            let path = path.ok_or_else(|| not_text(&source, "its name"))?;
            let metadata = fs::symlink_metadata(&source).map_err(|error| cannot_read(&source, error))?;
            self.entry(&source, path, &metadata)?;
        }
        Ok(())
    }

    fn entry(&mut self, source: &Path, path: GuestPath, metadata: &Metadata) -> Result<(), CommandError> {
        let (kind, attributes) = (metadata.file_type(), attributes(metadata));
        if kind.is_dir() {
            self.edits.push(Edit::CreateDir { path: path.clone(), attributes: Attributes::default() });
            self.folder(source, &path)?;
            self.edits.push(Edit::SetAttributes { path, attributes });
            return Ok(());
        }
        if metadata.nlink() > 1 {
            let key = (metadata.dev(), metadata.ino());
            if let Some(target) = self.seen.get(&key) {
                self.edits.push(Edit::HardLink { path, target: target.clone() });
                return Ok(());
            }
            self.seen.insert(key, path.clone());
        }
        self.edits.push(if kind.is_symlink() {
            let target = fs::read_link(source).map_err(|error| cannot_read(source, error))?;
            let target = target.to_str().ok_or_else(|| not_text(source, "its text"))?.to_owned();
            Edit::Symlink { path, target, attributes: Attributes { mode: None, ..attributes } }
        } else if kind.is_file() {
            Edit::CreateFile { path, content: lazy_contents(source.to_owned(), metadata), attributes }
        } else {
            let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
            let device = Device { major, minor };
            let node = match kind {
                _ if kind.is_char_device() => Node::CharDevice(device),
                _ if kind.is_block_device() => Node::BlockDevice(device),
                _ if kind.is_socket() => Node::Socket,
                _ => Node::Fifo,
            };
            Edit::MakeNode { path, node, attributes }
        });
        Ok(())
    }
}

fn attributes(metadata: &Metadata) -> Attributes {
    let mtime_nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    Attributes {
        mtime: Some(metadata.mtime()),
        mtime_nanos,
        ..Attributes::owned(metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    }
}

fn cannot_read(path: &Path, error: std::io::Error) -> CommandError {
    CommandError::io(format!("cannot read `{}`", path.display()), error)
}

fn not_text(path: &Path, what: &str) -> CommandError {
    CommandError::new(ErrorKind::Unsupported, format!("`{}`: {what} is not UTF-8", path.display()))
}
