use std::path::Path;
use std::sync::Arc;

use super::disk::{Layer, named};
use super::{Disk, Format, Storage};
use crate::block::{self, BlockRead, BlockWrite, ByteRange, Extent, Hole, Resize};
use crate::qcow2::{Image, Version};
use crate::storage::{FileDisk, Lock};

/// An image opened for writing; nothing below it is ever written.
///
/// What was written is durable after [`BlockWrite::flush`]; without it, it may be lost. [`WritableDisk::close`] comes last.
#[derive(Debug)]
pub struct WritableDisk {
    pub(super) layer: Layer,
    pub(super) backing: Option<Arc<Disk>>,
    pub(super) lock: Option<Lock>,
    pub(super) _data_lock: Option<Lock>,
}

impl WritableDisk {
    /// Returns the format.
    #[must_use]
    pub fn format(&self) -> Format {
        match &self.layer {
            Layer::Raw(_) => Format::Raw,
            Layer::Qcow2(_) => Format::Qcow2,
        }
    }

    /// Returns the path under which the image was opened, or its address.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &self.layer {
            Layer::Raw(file) => file.path(),
            Layer::Qcow2(image) => image.storage().path(),
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

    /// Returns the image, if it is qcow2.
    #[must_use]
    pub fn qcow2(&self) -> Option<&Image<Storage>> {
        match &self.layer {
            Layer::Raw(_) => None,
            Layer::Qcow2(image) => Some(image),
        }
    }

    /// Returns the image, if it is qcow2, to change more than the bytes of its disk.
    pub fn qcow2_mut(&mut self) -> Option<&mut Image<Storage>> {
        match &mut self.layer {
            Layer::Raw(_) => None,
            Layer::Qcow2(image) => Some(image),
        }
    }

    /// Closes the image, of which nothing is written any more, and returns its lock, which keeps other programs from changing it until
    /// it is dropped; none where locks are not to be had.
    #[must_use]
    pub fn into_lock(self) -> Option<Lock> {
        self.lock
    }

    /// Makes all that was written durable, and then what persistent bitmaps have recorded of it.
    ///
    /// A disk that is dropped without it leaves bitmaps that record changes in use: nobody will trust them again.
    ///
    /// # Errors
    ///
    /// As [`BlockWrite::flush`].
    pub fn close(&mut self) -> Result<(), block::Error> {
        self.with(BlockWrite::flush, |image| Ok(image.close()?))
    }

    /// Makes `range` read as zeros if that takes less time than to write them; returns whether it did.
    ///
    /// # Errors
    ///
    /// As [`BlockWrite::write_zeroes_at`].
    pub fn zero_fast(&mut self, range: ByteRange, hole: Hole) -> Result<bool, block::Error> {
        self.with(
            |file| file.zero_fast(range, hole),
            |image| {
                // Version 2 has no zero clusters; an external data file is written as a raw one.
                let fast = image.version() == Version::V3 && image.data_storage().is_none();
                if fast { image.write_zeroes_at(range, hole).map(|()| true) } else { Ok(false) }
            },
        )
    }

    /// Returns the next image of the backing chain.
    #[must_use]
    pub fn backing(&self) -> Option<&Arc<Disk>> {
        self.backing.as_ref()
    }

    fn with<T>(
        &mut self,
        raw: impl FnOnce(&mut Storage) -> Result<T, block::Error>,
        qcow2: impl FnOnce(&mut Image<Storage>) -> Result<T, block::Error>,
    ) -> Result<T, block::Error> {
        match &mut self.layer {
            Layer::Raw(file) => raw(file),
            Layer::Qcow2(image) => qcow2(image).map_err(|error| named(image.storage().path(), error)),
        }
    }
}

impl BlockRead for WritableDisk {
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

impl BlockWrite for WritableDisk {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), block::Error> {
        self.with(|file| file.write_all_at(buf, offset), |image| image.write_all_at(buf, offset))
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), block::Error> {
        self.with(|file| file.write_zeroes_at(range, hole), |image| image.write_zeroes_at(range, hole))
    }

    fn flush(&mut self) -> Result<(), block::Error> {
        self.with(BlockWrite::flush, BlockWrite::flush)
    }
}

impl Resize for WritableDisk {
    fn resize(&mut self, size: u64) -> Result<(), block::Error> {
        self.with(|file| file.resize(size), |image| image.resize(size))
    }
}
