use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::FileDisk;
use crate::block::{BlockRead, Error};

/// Makes the empty regular file `copy` read as `original`: by sharing blocks where the host's file system can, else holes as holes.
///
/// `step` is told the bytes done after every piece, and stops the copy when it fails; a file that shares blocks is done before.
pub(super) fn duplicate<E: From<Error>>(
    original: &FileDisk,
    copy: &File,
    mut step: impl FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    if ioctl_ficlone(copy, original.file()).is_ok() {
        return Ok(());
    }
    let cannot = |error: io::Error| E::from(Error::from_io(format!("cannot copy `{}`", original.path().display()), error));
    let size = original.size();
    ftruncate(copy, size).map_err(|error| cannot(error.into()))?;
    let mut offset = 0;
    step(offset)?;
    while let Some((start, end)) = next_data(original.file(), offset, size).map_err(|error| cannot(error.into()))? {
        offset = start;
        while offset < end {
            let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
            let copied = copy_piece(original.file(), copy, offset, left).map_err(cannot)?;
            offset = offset.saturating_add(u64::try_from(copied).unwrap_or(u64::MAX));
            step(offset)?;
        }
    }
    Ok(())
}

/// Returns where the first run of data at or behind `offset` begins and ends, or `None` when only a hole is left.
fn next_data(file: &File, offset: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    if offset >= size {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => Ok(Some((start, seek(file, SeekFrom::Hole(start))?.min(size)))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Copies some of the `left` bytes at `offset` and returns how many.
fn copy_piece(original: &File, copy: &File, offset: u64, left: usize) -> io::Result<usize> {
    let (mut from, mut to) = (offset, offset);
    match copy_file_range(original, Some(&mut from), copy, Some(&mut to), left.min(STEP)) {
        // The file has become shorter.
        Ok(0) => Err(Errno::IO.into()),
        Ok(copied) => Ok(copied),
        // The host's file system does not do it by itself.
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            let mut bytes = vec![0; left.min(BUFFER)];
            original.read_exact_at(&mut bytes, offset)?;
            copy.write_all_at(&bytes, offset)?;
            Ok(bytes.len())
        }
        Err(error) => Err(error.into()),
    }
}

/// Bytes copied between two reports.
const STEP: usize = 64 << 20;
const BUFFER: usize = 1 << 20;
