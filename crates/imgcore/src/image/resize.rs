use super::disk::{Layer, named};
use super::{Error, WritableDisk};
use crate::block::{BlockRead, ByteRange, Resize};
use crate::qcow2::Preallocation;

/// How a disk is resized. The default only grows it, and allocates nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ResizeOptions {
    /// Whether a smaller size is meant, and what lies beyond it may go.
    pub shrink: bool,
    /// What is allocated of new space; [`Preallocation::Metadata`] is for qcow2 only.
    pub preallocation: Preallocation,
}

/// Sets the size of `disk`, in bytes, durably; that of a raw one is rounded up to whole sectors as QEMU counts. New space reads as
/// zeros.
///
/// # Errors
///
/// [`Error::WouldShrink`], [`Error::InvalidOptions`] for a size of 0 or beyond 16 EiB, [`Error::Unsupported`] for a
/// preallocation that the format does not have; nothing has changed then. [`Error::Storage`] otherwise.
pub fn resize(disk: &mut WritableDisk, size: u64, options: &ResizeOptions) -> Result<(), Error> {
    let old = disk.size();
    let rounded = match &disk.layer {
        Layer::Raw(_) => size.checked_next_multiple_of(SECTOR),
        Layer::Qcow2(_) => Some(size),
    };
    let new = rounded.filter(|size| *size > 0);
    let new = new.ok_or_else(|| Error::InvalidOptions("the new size must be positive and below 16 EiB".to_owned()))?;
    if !new.is_multiple_of(SECTOR) {
        return Err(Error::InvalidOptions("the new size must be a multiple of 512".to_owned()));
    }
    if new < old && !options.shrink {
        return Err(Error::WouldShrink { old, new });
    }
    if new <= old && options.preallocation != Preallocation::Off {
        return Err(Error::InvalidOptions("preallocation is for growing images".to_owned()));
    }
    match (options.preallocation, &mut disk.layer) {
        _ if new == old => return Ok(()),
        (Preallocation::Off, _) => disk.resize(new)?,
        (preallocation, Layer::Qcow2(image)) => {
            image.grow(new, preallocation).map_err(|error| named(image.storage().path(), error.into()))?;
        }
        (Preallocation::Metadata, Layer::Raw(_)) => {
            return Err(Error::Unsupported("preallocation of metadata is not supported for the format `raw`".to_owned()));
        }
        (preallocation, Layer::Raw(file)) => {
            file.resize(new)?;
            if let Some(added) = ByteRange::new(old, new) {
                preallocation.fill(file, added)?;
            }
        }
    }
    Ok(disk.close()?)
}

/// QEMU counts disks in sectors.
const SECTOR: u64 = 512;
