use std::path::Path;

use super::target::Target;
use super::{Disk, Error, Format, OpenPolicy};
use crate::block::{self, BlockRead, ByteRange, ErrorKind, Resize};
use crate::qcow2::{self, CreateOptions, NewBacking, Preallocation};

/// A new image: its format and what it is to be like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NewDisk {
    /// The bytes of the disk, one to one.
    Raw {
        /// Bytes of the disk.
        size: u64,
        /// What is allocated from the beginning; there is no metadata.
        preallocation: Preallocation,
        /// As [`CreateOptions::no_cow`].
        no_cow: bool,
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

    /// Returns whether the file is to be written in place, see [`CreateOptions::no_cow`].
    pub(super) fn no_cow(&self) -> bool {
        match self {
            Self::Raw { no_cow, .. } => *no_cow,
            Self::Qcow2(options) => options.no_cow,
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
    let mut target = Target::begin(path, unique, new.no_cow())?;
    let size = new.size().checked_next_multiple_of(512);
    let size = size.ok_or_else(|| Error::InvalidOptions("the disk is too large".to_owned()))?;
    match new {
        NewDisk::Raw { preallocation, .. } => start_raw(&mut target, size, *preallocation)?,
        NewDisk::Qcow2(options) => {
            qcow2::create(&mut target, options).map_err(|error| not_made(path, error))?;
            if let Some(mut data) = data_file(path, options, unique)? {
                data.resize(size)?;
                options.preallocation.fill(&mut data, ByteRange::new(0, size).unwrap_or_default())?;
                data.publish(true)?;
            }
        }
    }
    target.publish(true)
}

/// Begins the external data file that the options of an image at `path` name.
pub(super) fn data_file(path: &Path, options: &CreateOptions, unique: u64) -> Result<Option<Target>, Error> {
    let Some(file) = &options.data_file else { return Ok(None) };
    let name = OpenPolicy::PlainPaths.check(path, "the data file", &file.name)?;
    Ok(Some(Target::begin(Path::new(name), unique, options.no_cow)?))
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

/// Gives a raw image its size, and its space if that is wanted; on a device, checks that it has that size.
pub(super) fn start_raw(target: &mut Target, size: u64, preallocation: Preallocation) -> Result<(), Error> {
    if preallocation == Preallocation::Metadata {
        return Err(Error::InvalidOptions("the format `raw` has no metadata to preallocate".to_owned()));
    }
    if let Some(device) = target.device_size() {
        if size > device {
            let message = format!("the device has {device} bytes, fewer than the disk's {size}");
            return Err(block::Error::new(ErrorKind::NoSpace, message).into());
        }
        return Ok(());
    }
    target.resize(size)?;
    Ok(preallocation.fill(target, ByteRange::new(0, size).unwrap_or_default())?)
}
