use imgcore::fs::{self, GuestPath};

use super::{ReadOnlyRoot, VolumeId};

/// The failure to understand a guest, or to reach one of its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No file system of the disk looks like the root of an operating system.
    #[error("no root file system found on the disk: {0}")]
    NoRoot(String),
    /// More than one file system looks like a root.
    #[error("{} all look like a root file system; name the one to use", names(.0))]
    SeveralRoots(Vec<VolumeId>),
    /// The root is not changed by writing files into it.
    #[error("{0} keeps its root read-only: files written into it would be lost or ignored")]
    ReadOnly(ReadOnlyRoot),
    /// The path is on a file system that cannot be used; writing below its mount point would hide the file.
    #[error("`{path}` is on {device}, mounted at `{mount_point}`: {reason}")]
    Mounted {
        /// What was asked for.
        path: GuestPath,
        /// Where the guest mounts the file system.
        mount_point: GuestPath,
        /// What the guest's fstab mounts.
        device: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// More than 40 symbolic links were met on the way.
    #[error("too many symbolic links on the way to `{0}`")]
    TooManyLinks(GuestPath),
    /// The guest's fstab has more mount points, or longer ways to them, than are followed.
    #[error("the guest's /etc/fstab mounts more than 256 file systems, or says where in more names than are followed")]
    TooManyMounts,
    /// A folder that has to be read is larger than any that a guest needs.
    #[error("the folder `{0}` of the guest has more than 4 MiB of names")]
    TooManyNames(GuestPath),
    /// Something on the way is not a folder.
    #[error("`{0}` is not a folder in the guest")]
    NotFolder(GuestPath),
    /// A symbolic link leads to what is no valid path.
    #[error("the symbolic link `{0}` does not hold a valid path")]
    BadLink(GuestPath),
    /// A file of the guest that has to be a regular one is not.
    #[error("`{0}` is not a regular file in the guest")]
    NotFile(GuestPath),
    /// A file system of the guest cannot be read.
    #[error("{} of the guest cannot be read", partition.described())]
    FileSystem {
        /// The partition or logical volume.
        partition: VolumeId,
        /// Why.
        source: fs::Error,
    },
}

/// Returns what messages call several volumes.
fn names(all: &[VolumeId]) -> String {
    all.iter().map(VolumeId::described).collect::<Vec<_>>().join(" and ")
}
