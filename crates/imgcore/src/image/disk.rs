use std::path::Path;
use std::sync::Arc;

use super::{Error, Format, Storage};
use crate::block::{self, BlockRead, ByteRange, Extent};
use crate::qcow2::{self, Image};
use crate::storage::{FileDisk, Lock};

/// An image opened for reading, with its backing chain.
#[derive(Debug)]
pub struct Disk {
    pub(super) layer: Layer,
    pub(super) backing: Option<Arc<Disk>>,
    pub(super) lock: Option<Lock>,
    pub(super) _data_lock: Option<Lock>,
}

/// One image of a chain.
#[derive(Debug)]
pub(super) enum Layer {
    Raw(Storage),
    Qcow2(Box<Image<Storage>>),
}

impl Disk {
    /// Returns the format.
    #[must_use]
    pub fn format(&self) -> Format {
        match &self.layer {
            Layer::Raw(_) => Format::Raw,
            Layer::Qcow2(_) => Format::Qcow2,
        }
    }

    /// Returns what holds the image.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        match &self.layer {
            Layer::Raw(file) => file,
            Layer::Qcow2(image) => image.storage(),
        }
    }

    /// Returns the file, if it is raw and one: its bytes are those of the disk.
    #[must_use]
    pub fn raw_file(&self) -> Option<&FileDisk> {
        match &self.layer {
            Layer::Raw(storage) => storage.as_file(),
            Layer::Qcow2(_) => None,
        }
    }

    /// Returns the path under which the image was opened, or its address.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.storage().path()
    }

    /// Closes the image and returns its lock, which keeps other programs from changing it until it is dropped; none where locks are
    /// not to be had.
    #[must_use]
    pub fn into_lock(self) -> Option<Lock> {
        self.lock
    }

    /// Returns the image, if it is qcow2.
    #[must_use]
    pub fn qcow2(&self) -> Option<&Image<Storage>> {
        match &self.layer {
            Layer::Raw(_) => None,
            Layer::Qcow2(image) => Some(image),
        }
    }

    /// Makes the disk read as `snapshot`, one of its image's own, shows it.
    ///
    /// # Errors
    ///
    /// [`Error::Qcow2`] when the snapshot breaks a rule, or its table cannot be read.
    pub fn show_snapshot(&mut self, snapshot: &qcow2::Snapshot) -> Result<(), Error> {
        let path = self.path().to_owned();
        match &mut self.layer {
            Layer::Raw(_) => Err(Error::InvalidOptions("the format `raw` has no snapshots".to_owned())),
            Layer::Qcow2(image) => image.show_snapshot(snapshot).map_err(|source| Error::Qcow2 { path, source }),
        }
    }

    /// Returns the bytes of a cluster, where the format has clusters.
    #[must_use]
    pub fn cluster_size(&self) -> Option<u64> {
        self.qcow2().map(Image::cluster_size)
    }

    /// Returns the next image of the backing chain.
    #[must_use]
    pub fn backing(&self) -> Option<&Arc<Disk>> {
        self.backing.as_ref()
    }

    /// Iterates over the backing chain, this image first.
    pub fn chain(&self) -> impl Iterator<Item = &Disk> {
        std::iter::successors(Some(self), |disk| disk.backing.as_deref())
    }

    /// Returns the runs that this image itself stores, be they bytes or zeros; the rest comes from its backing disk.
    ///
    /// # Errors
    ///
    /// The failure of the image.
    pub fn stored(&self) -> Result<Vec<ByteRange>, block::Error> {
        let Some(image) = self.qcow2() else { return Ok(ByteRange::new(0, self.size()).into_iter().collect()) };
        let mut runs: Vec<ByteRange> = Vec::new();
        let mut offset = 0;
        while offset < self.size() {
            let range = match image.layer_at(offset)? {
                qcow2::Layer::Unallocated(range) => range,
                qcow2::Layer::Zero(range) | qcow2::Layer::Data(range) => {
                    match runs.last_mut() {
                        Some(last) if last.end() == range.start() => {
                            *last = ByteRange::new(last.start(), range.end()).unwrap_or(*last);
                        }
                        _ => runs.push(range),
                    }
                    range
                }
            };
            offset = range.end();
        }
        Ok(runs)
    }
}

impl BlockRead for Disk {
    fn size(&self) -> u64 {
        match &self.layer {
            Layer::Raw(file) => file.size(),
            Layer::Qcow2(image) => image.size(),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        match &self.layer {
            Layer::Raw(file) => file.read_exact_at(buf, offset),
            Layer::Qcow2(image) => image.read_exact_at(buf, offset).map_err(|error| named(self.path(), error)),
        }
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        match &self.layer {
            Layer::Raw(file) => file.extent_at(offset),
            Layer::Qcow2(image) => image.extent_at(offset).map_err(|error| named(self.path(), error)),
        }
    }
}

/// Returns the error with the image's path in front, where the error is about the image and not about its file.
pub(super) fn named(path: &Path, error: block::Error) -> block::Error {
    match error.kind() {
        block::ErrorKind::Corrupt | block::ErrorKind::Unsupported => error.context(format!("cannot use `{}`", path.display())),
        _ => error,
    }
}
