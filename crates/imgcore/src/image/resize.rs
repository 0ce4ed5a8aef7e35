use super::{Error, Format, WritableDisk};
use crate::block::{BlockRead, BlockWrite, ByteRange, Hole, Resize};
use crate::qcow2::Preallocation;

/// How a disk is resized. The default only grows it, and allocates nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ResizeOptions {
    /// Whether a smaller size is meant, and what lies beyond it may go.
    pub shrink: bool,
    /// What is allocated of new space: [`Preallocation::Full`] is for raw images only, [`Preallocation::Metadata`] for none.
    pub preallocation: Preallocation,
}

/// Sets the size of `disk`, in bytes and rounded up to whole sectors as QEMU counts, durably. New space reads as zeros.
///
/// # Errors
///
/// [`Error::WouldShrink`], [`Error::InvalidOptions`] for a size of 0 or beyond 16 EiB, [`Error::Unsupported`] for a
/// preallocation that the format does not have; nothing has changed then. [`Error::Storage`] otherwise.
pub fn resize(disk: &mut WritableDisk, size: u64, options: &ResizeOptions) -> Result<(), Error> {
    let old = disk.size();
    let new = Some(size).filter(|size| *size > 0).and_then(|size| size.checked_next_multiple_of(SECTOR));
    let new = new.ok_or_else(|| Error::InvalidOptions("the new size must be positive and below 16 EiB".to_owned()))?;
    if new < old && !options.shrink {
        return Err(Error::WouldShrink { old, new });
    }
    let fill = match (options.preallocation, disk.format()) {
        (Preallocation::Off, _) => false,
        (Preallocation::Full, Format::Raw) => true,
        (_, format) => {
            return Err(Error::Unsupported(format!("preallocation of new space is not supported for the format `{format}`")));
        }
    };
    if new == old {
        return Ok(());
    }
    disk.resize(new)?;
    if fill && let Some(added) = ByteRange::new(old, new) {
        disk.write_zeroes_at(added, Hole::Keep)?;
    }
    Ok(disk.close()?)
}

/// QEMU counts disks in sectors.
const SECTOR: u64 = 512;
