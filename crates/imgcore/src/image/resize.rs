use std::path::Path;

use super::open::open_writable;
use super::{Error, Format, OpenOptions};
use crate::block::{BlockRead, BlockWrite, Resize};

/// Sets the size of the disk in the image at `path`, in bytes, durably. New space reads as zeros.
///
/// `shrink` says that a smaller size is meant, and that what lies beyond it may go.
///
/// # Errors
///
/// [`Error::InvalidOptions`] for a smaller size without `shrink`, [`Error::Qcow2`] for a qcow2 image that cannot be resized,
/// and as [`open_writable`].
pub fn resize(path: &Path, options: &OpenOptions, size: u64, shrink: bool) -> Result<(), Error> {
    let mut disk = open_writable(path, options)?;
    if size < disk.size() && !shrink {
        return Err(Error::InvalidOptions("Use the --shrink option to perform a shrink operation.".to_owned()));
    }
    // QEMU counts in sectors.
    let size = if disk.format() == Format::Qcow2 { size.next_multiple_of(512) } else { size };
    disk.resize(size)?;
    Ok(disk.flush()?)
}
