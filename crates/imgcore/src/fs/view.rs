use std::fmt::Debug;

use super::{Error, GuestPath};

/// A guest's files, for reading.
///
/// Paths are resolved inside the file system: a symbolic link to `/etc/x` means the guest's `/etc/x`, `..` never leaves the
/// root, and at most 40 links are followed.
pub trait FileSystem: Debug + Send + Sync {
    /// Returns what is known about `path`, links followed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it or a folder above does not exist, [`Error::TooManyLinks`], otherwise the failure of the
    /// file system.
    fn metadata(&self, path: &GuestPath) -> Result<Metadata, Error>;

    /// Returns what is known about `path`; a link as its last name is not followed.
    ///
    /// # Errors
    ///
    /// As [`FileSystem::metadata`].
    fn symlink_metadata(&self, path: &GuestPath) -> Result<Metadata, Error>;

    /// Returns the contents of a regular file, links followed.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] when it is no regular file, [`Error::TooLarge`] when it has more than `limit` bytes, and as
    /// [`FileSystem::metadata`].
    fn read(&self, path: &GuestPath, limit: u64) -> Result<Vec<u8>, Error>;

    /// Returns the entries of a folder but `.` and `..`, in the order of their names, links in `path` followed.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] when it is no folder, and as [`FileSystem::metadata`].
    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>, Error>;

    /// Returns the text of a symbolic link.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] when it is none, and as [`FileSystem::metadata`].
    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>, Error>;

    /// Returns the value of the extended attribute `name`, as in `security.selinux`; a link as the last name is not followed.
    ///
    /// # Errors
    ///
    /// As [`FileSystem::metadata`].
    fn xattr(&self, path: &GuestPath, name: &str) -> Result<Option<Vec<u8>>, Error>;

    /// Returns whether somebody else sees to it that a folder has one place; numbers of inodes may then come twice.
    ///
    /// Otherwise a damaged file system can have folders in several places, and as many paths as its maker liked.
    fn is_tree(&self) -> bool {
        false
    }
}

/// What a file system knows about a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metadata {
    /// The type.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Bytes of contents.
    pub size: u64,
    /// Names of the file.
    pub links: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds behind that second.
    pub mtime_nanos: u32,
    /// The file system's number of the file.
    pub inode: u64,
}

/// The type of a file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// A name in a folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirEntry {
    /// The name as stored: any bytes but NUL and `/`.
    pub name: Vec<u8>,
    /// The type of what it names.
    pub kind: FileKind,
    /// The file system's number of what it names.
    pub inode: u64,
}
