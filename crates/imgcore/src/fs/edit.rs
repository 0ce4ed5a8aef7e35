use std::collections::BTreeMap;
use std::sync::Arc;

use super::{FileKind, GuestPath};
use crate::block::BlockRead;

/// Changes to a guest's files, in order: what will be done, as data.
///
/// A backend applies a plan whole or not at all; the verifier reads it back.
#[derive(Clone, Debug, Default)]
pub struct EditPlan {
    /// The steps, first to last.
    pub edits: Vec<Edit>,
}

/// One step of an [`EditPlan`].
///
/// Symbolic links in the parent of a path are followed inside the guest, at most 40 of them; only [`Edit::Write`],
/// [`Edit::Append`] and [`Edit::AppendLine`] also follow the last name, and [`Edit::CreateDir`] where it leads to a folder.
/// Folders that are missing on the way are made, 0755 and owned by root.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Edit {
    /// Makes a regular file, or replaces the contents of one.
    ///
    /// A file that exists keeps its inode, links, owner, mode and extended attributes but for those that `attributes` names. A
    /// new one is 0644 and owned by root otherwise.
    Write {
        /// The file.
        path: GuestPath,
        /// All of its new contents.
        content: Content,
        /// What to set besides.
        attributes: Attributes,
    },
    /// Makes a regular file, in the place of whatever is there but a folder; 0644 and owned by root otherwise.
    CreateFile {
        /// The file.
        path: GuestPath,
        /// All of its contents.
        content: Content,
        /// What to set besides.
        attributes: Attributes,
    },
    /// Puts bytes behind the end of a regular file, which keeps all else; makes the file when it is missing.
    Append {
        /// The file.
        path: GuestPath,
        /// What is put there.
        content: Content,
        /// What to set besides.
        attributes: Attributes,
    },
    /// Makes a folder, or leaves the one that exists; then sets `attributes`. A new one is 0755 and owned by root otherwise.
    CreateDir {
        /// The folder.
        path: GuestPath,
        /// What to set besides.
        attributes: Attributes,
    },
    /// Makes a symbolic link, in the place of whatever is there but a folder. The mode in `attributes` is ignored.
    Symlink {
        /// The link.
        path: GuestPath,
        /// Its text, stored as it is.
        target: String,
        /// What to set besides.
        attributes: Attributes,
    },
    /// Gives a file, which is no folder, one more name, in the place of whatever is there but a folder.
    HardLink {
        /// The new name.
        path: GuestPath,
        /// A name that the file has. A symbolic link as its last name is not followed.
        target: GuestPath,
    },
    /// Makes a device node, a FIFO or a socket, in the place of whatever is there but a folder; 0644 and owned by root otherwise.
    MakeNode {
        /// The node.
        path: GuestPath,
        /// What it is.
        node: Node,
        /// What to set besides.
        attributes: Attributes,
    },
    /// Gives a file, link or folder another name, maybe in another folder.
    ///
    /// A file takes the place of whatever is there but a folder; a folder that of a folder that is empty, and never goes into
    /// itself.
    Rename {
        /// The new name.
        path: GuestPath,
        /// The name until now. A symbolic link as its last name is moved, not followed.
        from: GuestPath,
    },
    /// Removes a file or link, or a folder with all that is in it. Nothing happens when it does not exist.
    Remove {
        /// What is removed.
        path: GuestPath,
    },
    /// Sets owner, mode, time or extended attributes of what exists. The last name is not followed.
    SetAttributes {
        /// What is changed.
        path: GuestPath,
        /// What to set.
        attributes: Attributes,
    },
    /// Appends a line to a file that does not have it yet, after a missing line end is mended; makes the file when it is missing.
    AppendLine {
        /// The file.
        path: GuestPath,
        /// The line, without its end.
        line: String,
        /// What to set besides.
        attributes: Attributes,
    },
}

/// Owner, mode, time and extended attributes to set; what is `None` stays as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: at most 0o7777.
    pub mode: Option<u32>,
    /// The owner's number.
    pub uid: Option<u32>,
    /// The group's number.
    pub gid: Option<u32>,
    /// Modification time in seconds since 1970. `None` means the time of the run for new and rewritten files.
    pub mtime: Option<i64>,
    /// Nanoseconds behind that second: below 10^9, and nothing without it. Where a file system has no room, they are dropped.
    pub mtime_nanos: u32,
    /// Extended attributes by full name, as in `security.selinux`, with their values.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What is no file, folder or link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Node {
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// The number of a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Device {
    /// Which driver: below 4096.
    pub major: u32,
    /// Which of its devices: below 2^20.
    pub minor: u32,
}

/// The contents of a file to be written.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// All bytes of a device, as an open host file is one; holes stay holes.
    Disk(Arc<dyn BlockRead>),
}

impl Edit {
    /// Returns the path that it is about: for a new name that one.
    #[must_use]
    pub fn path(&self) -> &GuestPath {
        match self {
            Self::Write { path, .. }
            | Self::CreateFile { path, .. }
            | Self::Append { path, .. }
            | Self::CreateDir { path, .. }
            | Self::Symlink { path, .. }
            | Self::HardLink { path, .. }
            | Self::MakeNode { path, .. }
            | Self::Rename { path, .. }
            | Self::Remove { path }
            | Self::SetAttributes { path, .. }
            | Self::AppendLine { path, .. } => path,
        }
    }

    /// Returns the name that the file has before, when the step is about a new name.
    #[must_use]
    pub fn source(&self) -> Option<&GuestPath> {
        match self {
            Self::HardLink { target, .. } => Some(target),
            Self::Rename { from, .. } => Some(from),
            _ => None,
        }
    }

    /// Returns whether a link as the last name of its path is followed; by [`Edit::CreateDir`] where it leads to a folder.
    #[must_use]
    pub fn follows(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Append { .. } | Self::AppendLine { .. } | Self::CreateDir { .. })
    }

    /// Returns what it sets besides, where a step does that.
    pub fn attributes_mut(&mut self) -> Option<&mut Attributes> {
        match self {
            Self::Write { attributes, .. }
            | Self::CreateFile { attributes, .. }
            | Self::Append { attributes, .. }
            | Self::CreateDir { attributes, .. }
            | Self::Symlink { attributes, .. }
            | Self::MakeNode { attributes, .. }
            | Self::SetAttributes { attributes, .. }
            | Self::AppendLine { attributes, .. } => Some(attributes),
            Self::HardLink { .. } | Self::Rename { .. } | Self::Remove { .. } => None,
        }
    }
}

impl Node {
    /// Returns the type of the file.
    #[must_use]
    pub fn kind(self) -> FileKind {
        match self {
            Self::CharDevice(_) => FileKind::CharDevice,
            Self::BlockDevice(_) => FileKind::BlockDevice,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
        }
    }
}

impl Attributes {
    /// Returns `mode` and root as owner and group.
    #[must_use]
    pub fn root(mode: u32) -> Self {
        Self::owned(mode, 0, 0)
    }

    /// Returns `mode`, owner and group.
    #[must_use]
    pub fn owned(mode: u32, uid: u32, gid: u32) -> Self {
        Self { mode: Some(mode), uid: Some(uid), gid: Some(gid), ..Self::default() }
    }
}

impl Content {
    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Disk(disk) => disk.size(),
        }
    }

    /// Returns whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().into())
    }
}
