use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What tells whether a file is still the same: its size, its time and where it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileIdentity {
    /// Bytes.
    pub size: u64,
    /// Modification time: seconds since 1970.
    pub mtime: i64,
    /// Modification time: nanoseconds of the second.
    pub mtime_nsec: i64,
    /// The inode's number.
    pub inode: u64,
    /// The number of the device that holds it.
    pub device: u64,
}

impl FileIdentity {
    /// Returns the identity of the file at `path`, links followed.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            size: metadata.size(),
            mtime: metadata.mtime(),
            mtime_nsec: metadata.mtime_nsec(),
            inode: metadata.ino(),
            device: metadata.dev(),
        })
    }
}
