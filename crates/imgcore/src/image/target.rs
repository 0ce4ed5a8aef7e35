use std::path::{Path, PathBuf};

use super::Error;
use crate::block::{self, BlockRead, BlockWrite, ByteRange, ErrorKind, Hole, Resize};
use crate::storage::{Access, FileDisk, Lock, LockKind, Replacement};

/// Where a new image goes: a file that replaces the old one when it is whole, or a block device.
#[derive(Debug)]
pub(super) enum Target {
    File {
        new: Replacement,
        exists: bool,
        _lock: Option<Lock>,
    },
    /// With the bytes that are in use: what was there before does not show.
    Device {
        disk: FileDisk,
        used: u64,
        _lock: Lock,
    },
}

impl Target {
    pub(super) fn begin(path: &Path, unique: u64, no_cow: bool) -> Result<Self, Error> {
        // The file behind a symbolic link is replaced, and not the link.
        let path: PathBuf = match path.canonicalize() {
            Ok(path) => path,
            Err(_) => path.to_owned(),
        };
        let target = match FileDisk::open(&path, Access::ReadWrite) {
            Ok(disk) => {
                let lock = Lock::acquire(&disk, LockKind::Write)?;
                if disk.is_device() {
                    Self::Device { disk, used: 0, _lock: lock }
                } else {
                    Self::File { new: Replacement::create(&path, unique)?, exists: true, _lock: Some(lock) }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Self::File { new: Replacement::create(&path, unique)?, exists: false, _lock: None }
            }
            Err(error) => return Err(error.into()),
        };
        if let (true, Self::File { new, .. }) = (no_cow, &target) {
            new.write_in_place();
        }
        Ok(target)
    }

    /// Leaves it to the kernel when what is written is stored, as it will not be synced.
    pub(super) fn store_late(&mut self) {
        match self {
            Self::File { new, .. } => new.store_late(),
            Self::Device { disk, .. } => disk.store_late(),
        }
    }

    /// Returns the bytes of the device, if it is one.
    pub(super) fn device_size(&self) -> Option<u64> {
        match self {
            Self::File { .. } => None,
            Self::Device { disk, .. } => Some(disk.size()),
        }
    }

    /// Makes what was written visible, and durable unless `sync` is off.
    pub(super) fn publish(self, sync: bool) -> Result<(), Error> {
        match self {
            Self::Device { mut disk, .. } if sync => disk.flush()?,
            Self::Device { .. } => {}
            Self::File { new, exists, _lock } => {
                if exists {
                    new.keep_attributes()?;
                }
                if sync { new.publish() } else { new.publish_unsynced() }?;
            }
        }
        Ok(())
    }

    fn disk_mut(&mut self) -> &mut dyn Resize {
        match self {
            Self::File { new, .. } => new,
            Self::Device { disk, .. } => disk,
        }
    }
}

impl BlockRead for Target {
    fn size(&self) -> u64 {
        match self {
            Self::File { new, .. } => new.size(),
            Self::Device { used, .. } => *used,
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        match self {
            Self::File { new, .. } => new.read_exact_at(buf, offset),
            Self::Device { disk, .. } => disk.read_exact_at(buf, offset),
        }
    }
}

impl BlockWrite for Target {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), block::Error> {
        self.disk_mut().write_all_at(buf, offset)
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), block::Error> {
        self.disk_mut().write_zeroes_at(range, hole)
    }

    fn flush(&mut self) -> Result<(), block::Error> {
        self.disk_mut().flush()
    }
}

impl Resize for Target {
    fn resize(&mut self, size: u64) -> Result<(), block::Error> {
        match self {
            Self::File { new, .. } => new.resize(size),
            Self::Device { disk, used, .. } => {
                if size > disk.size() {
                    let message = format!("the device has {} bytes, fewer than {size}", disk.size());
                    return Err(block::Error::new(ErrorKind::NoSpace, message));
                }
                if let Some(more) = ByteRange::new(*used, size) {
                    disk.write_zeroes_at(more, Hole::Allow)?;
                }
                *used = size;
                Ok(())
            }
        }
    }
}
