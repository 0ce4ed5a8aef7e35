use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::block::{BlockRead, BlockWrite, ByteRange, Error, Extent, Hole, Resize};
use crate::nbd::Uri;
use crate::nbd::client::{self, NbdDisk, Patience};
use crate::storage::{Access, FileDisk};

/// Where an image is, as the caller says: what an image names is never more than a path.
#[derive(Clone, Copy, Debug)]
pub enum Location<'a> {
    /// In a file, or on a block device.
    File(&'a Path),
    /// In an export of an NBD server.
    Export(&'a Uri),
}

impl<'a> From<&'a Path> for Location<'a> {
    fn from(path: &'a Path) -> Self {
        Self::File(path)
    }
}

impl<'a> From<&'a PathBuf> for Location<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self::File(path)
    }
}

impl<'a> From<&'a Uri> for Location<'a> {
    fn from(uri: &'a Uri) -> Self {
        Self::Export(uri)
    }
}

impl<'a> Location<'a> {
    /// Returns the path, or the text of the address.
    #[must_use]
    pub fn name(self) -> &'a Path {
        match self {
            Self::File(path) => path,
            Self::Export(uri) => Path::new(uri.as_str()),
        }
    }
}

/// What holds an image's bytes.
#[derive(Debug)]
pub enum Storage {
    /// A file, or a block device.
    File(FileDisk),
    /// An export of an NBD server.
    Export(Box<NbdDisk>),
}

impl Storage {
    /// Opens what is at `location`.
    pub(super) fn open(location: Location<'_>, access: Access) -> Result<Self, Error> {
        match location {
            Location::File(path) => Ok(Self::File(FileDisk::open(path, access)?)),
            Location::Export(uri) => {
                let access = if access == Access::Read { client::Access::Read } else { client::Access::ReadWrite };
                Ok(Self::Export(Box::new(NbdDisk::open(uri, access, Patience::default())?)))
            }
        }
    }

    /// Returns where it is.
    #[must_use]
    pub fn location(&self) -> Location<'_> {
        match self {
            Self::File(file) => Location::File(file.path()),
            Self::Export(export) => Location::Export(export.uri()),
        }
    }

    /// Returns the path, or the text of the address.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.location().name()
    }

    /// Returns the file or block device, if it is one.
    #[must_use]
    pub fn as_file(&self) -> Option<&FileDisk> {
        match self {
            Self::File(file) => Some(file),
            Self::Export(_) => None,
        }
    }

    /// Makes `range` read as zeros if that takes less time than to write them; returns whether it did.
    ///
    /// # Errors
    ///
    /// As [`BlockWrite::write_zeroes_at`].
    pub fn zero_fast(&mut self, range: ByteRange, hole: Hole) -> Result<bool, Error> {
        match self {
            Self::File(file) => file.zero_fast(range, hole),
            // How long its server takes is not known.
            Self::Export(_) => Ok(false),
        }
    }

    /// Returns what tells it from all others.
    pub(super) fn identity(&self) -> Result<Identity, Error> {
        match self {
            Self::File(file) => {
                let metadata = file.file().metadata();
                let cannot = |error| Error::from_io(format!("cannot look at `{}`", self.path().display()), error);
                metadata.map(|metadata| (metadata.dev(), metadata.ino())).map_err(cannot)
            }
            Self::Export(export) => {
                let mut hasher = DefaultHasher::new();
                (export.uri().address(), export.uri().export()).hash(&mut hasher);
                Ok((u64::MAX, hasher.finish()))
            }
        }
    }
}

/// What tells a file from all others: device and inode.
pub(super) type Identity = (u64, u64);

impl BlockRead for Storage {
    fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size(),
            Self::Export(export) => export.size(),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        match self {
            Self::File(file) => file.read_exact_at(buf, offset),
            Self::Export(export) => export.read_exact_at(buf, offset),
        }
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        match self {
            Self::File(file) => file.extent_at(offset),
            Self::Export(export) => export.extent_at(offset),
        }
    }
}

impl BlockWrite for Storage {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        match self {
            Self::File(file) => file.write_all_at(buf, offset),
            Self::Export(export) => export.write_all_at(buf, offset),
        }
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        match self {
            Self::File(file) => file.write_zeroes_at(range, hole),
            Self::Export(export) => export.write_zeroes_at(range, hole),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        match self {
            Self::File(file) => file.flush(),
            Self::Export(export) => export.flush(),
        }
    }
}

impl Resize for Storage {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        match self {
            Self::File(file) => file.resize(size),
            Self::Export(export) => export.resize(size),
        }
    }
}
