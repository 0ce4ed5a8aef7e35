use std::path::{Path, PathBuf};

use super::{Disk, Error, Format, OpenPolicy};
use crate::block::{self, BlockRead, BlockWrite, ByteRange, ErrorKind, Hole, Resize};
use crate::qcow2::{self, CreateOptions, NewBacking, Preallocation};
use crate::storage::{Access, FileDisk, Lock, LockKind, Replacement};

/// A new image: its format and what it is to be like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NewDisk {
    /// The bytes of the disk, one to one.
    Raw {
        /// Bytes of the disk.
        size: u64,
        /// What is allocated from the beginning; there is no metadata.
        preallocation: Preallocation,
    },
    /// QEMU's copy-on-write format.
    Qcow2(CreateOptions),
}

impl NewDisk {
    /// Returns the format.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Self::Raw { .. } => Format::Raw,
            Self::Qcow2(_) => Format::Qcow2,
        }
    }

    /// Returns the bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Raw { size, .. } => *size,
            Self::Qcow2(options) => options.size,
        }
    }
}

/// Makes an empty image at `path`, durable, in place of whatever was there. Nobody ever sees half of it.
///
/// `unique` distinguishes the temporary file from those of other programs. A backing file is recorded and not looked at; see
/// [`super::open_below`]. An external data file is made as well, at its name: a relative one begins at the working folder, as in
/// QEMU. Sizes are rounded up to whole sectors.
///
/// # Errors
///
/// [`Error::Storage`] when the folder cannot be written or another program uses the image that is there,
/// [`Error::InvalidOptions`] for options that do not fit together.
pub fn create(path: &Path, new: &NewDisk, unique: u64) -> Result<(), Error> {
    let mut target = Target::begin(path, unique)?;
    let size = new.size().checked_next_multiple_of(512);
    let size = size.ok_or_else(|| Error::InvalidOptions("the disk is too large".to_owned()))?;
    match new {
        NewDisk::Raw { preallocation, .. } => start_raw(&mut target, size, *preallocation)?,
        NewDisk::Qcow2(options) => {
            qcow2::create(&mut target, options).map_err(|error| not_made(path, error))?;
            if let Some(file) = &options.data_file {
                let data = OpenPolicy::PlainPaths.check(path, "the data file", &file.name)?;
                let mut data = Target::begin(Path::new(data), unique)?;
                data.resize(size)?;
                data.publish()?;
            }
        }
    }
    target.publish()
}

/// Returns what it is to the maker of an image at `path` that qcow2 failed.
pub(super) fn not_made(path: &Path, error: qcow2::Error) -> Error {
    match error {
        qcow2::Error::InvalidOptions(why) => Error::InvalidOptions(why),
        qcow2::Error::Storage(error) => error.into(),
        source => Error::Qcow2 { path: path.to_owned(), source },
    }
}

/// Returns the options for an overlay of `base` under the given name: its size, and its clusters where it has some.
#[must_use]
pub fn overlay_options(base: &Disk, name: &[u8]) -> CreateOptions {
    let defaults = CreateOptions::new(base.size());
    CreateOptions {
        cluster_size: base.cluster_size().unwrap_or(defaults.cluster_size),
        extended_l2: base.qcow2().is_some_and(qcow2::Image::extended_l2),
        backing: Some(NewBacking { name: name.to_vec(), format: base.format().name().to_owned() }),
        ..defaults
    }
}

/// Where a new image goes: a file that replaces the old one when it is whole, or a block device.
#[derive(Debug)]
pub(super) enum Target {
    File { new: Replacement, exists: bool, _lock: Option<Lock> },
    Device { disk: FileDisk, _lock: Lock },
}

impl Target {
    pub(super) fn begin(path: &Path, unique: u64) -> Result<Self, Error> {
        // The file behind a symbolic link is replaced, and not the link.
        let path: PathBuf = match path.canonicalize() {
            Ok(path) => path,
            Err(_) => path.to_owned(),
        };
        let old = match FileDisk::open(&path, Access::ReadWrite) {
            Ok(old) => old,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let new = Replacement::create(&path, unique)?;
                return Ok(Self::File { new, exists: false, _lock: None });
            }
            Err(error) => return Err(error.into()),
        };
        let lock = Lock::acquire(&old, LockKind::Write)?;
        if old.is_device() {
            return Ok(Self::Device { disk: old, _lock: lock });
        }
        Ok(Self::File { new: Replacement::create(&path, unique)?, exists: true, _lock: Some(lock) })
    }

    pub(super) fn is_device(&self) -> bool {
        matches!(self, Self::Device { .. })
    }

    /// Makes what was written durable, and visible.
    pub(super) fn publish(self) -> Result<(), Error> {
        match self {
            Self::Device { mut disk, .. } => disk.flush()?,
            Self::File { new, exists, _lock } => {
                if exists {
                    new.keep_attributes()?;
                }
                new.publish()?;
            }
        }
        Ok(())
    }

    fn disk(&self) -> &dyn BlockRead {
        match self {
            Self::File { new, .. } => new,
            Self::Device { disk, .. } => disk,
        }
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
        self.disk().size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        self.disk().read_exact_at(buf, offset)
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
        if self.is_device() {
            let message = "a qcow2 image on a block device is not supported yet";
            return Err(block::Error::new(ErrorKind::Unsupported, message));
        }
        self.disk_mut().resize(size)
    }
}

/// Gives a raw image its size; on a device, checks that it has that size.
pub(super) fn start_raw(target: &mut Target, size: u64, preallocation: Preallocation) -> Result<(), Error> {
    if preallocation == Preallocation::Metadata {
        return Err(Error::InvalidOptions("the format `raw` has no metadata to preallocate".to_owned()));
    }
    let all = ByteRange::new(0, size).unwrap_or_default();
    if target.is_device() {
        if size > target.size() {
            let message = format!("the device has {} bytes, fewer than the disk's {size}", target.size());
            return Err(block::Error::new(ErrorKind::NoSpace, message).into());
        }
        return Ok(());
    }
    target.resize(size)?;
    if preallocation == Preallocation::Full {
        target.write_zeroes_at(all, Hole::Keep)?;
    }
    Ok(())
}
