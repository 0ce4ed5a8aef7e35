//! Holes in files: found by seeking, made by fallocate.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::block::{ByteRange, Extent, ExtentKind, Hole};

/// Returns the run that begins at the start of `rest`, which ends with the file.
pub(super) fn extent_at(file: &File, rest: ByteRange) -> io::Result<Extent> {
    let data = match seek(file, SeekFrom::Data(rest.start())) {
        Ok(offset) => offset,
        // No data up to the end.
        Err(Errno::NXIO) => return Ok(Extent::new(rest, ExtentKind::Hole)),
        // The file system does not know: everything is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Extent::new(rest, ExtentKind::Data)),
        Err(error) => return Err(error.into()),
    };
    if data > rest.start() {
        return Ok(Extent::new(clipped(rest, data), ExtentKind::Hole));
    }
    let hole = seek(file, SeekFrom::Hole(rest.start()))?;
    Ok(Extent::new(clipped(rest, hole), ExtentKind::Data))
}

/// Returns the part of `rest` before `end`; all of it when a file that changes underneath would leave nothing.
fn clipped(rest: ByteRange, end: u64) -> ByteRange {
    ByteRange::new(rest.start(), end.min(rest.end())).filter(|range| !range.is_empty()).unwrap_or(rest)
}

/// Zeroes `range` without writing it; returns whether the file system could.
pub(super) fn zero(file: &File, range: ByteRange, hole: Hole) -> io::Result<bool> {
    let mode = match hole {
        Hole::Allow => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Hole::Keep => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    };
    match fallocate(file, mode, range.start(), range.len()) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::INVAL | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
