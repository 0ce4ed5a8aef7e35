//! The one call without a safe form: that the kernel reads a partition table again.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{NoArg, ioctl, opcode};

/// Makes the kernel read the partition table of the block device `disk`. When this returns, its partitions are there, in sysfs
/// and in devtmpfs; returns whether the device can have partitions.
///
/// # Errors
///
/// When `disk` is no block device, or cannot be read.
#[expect(unsafe_code, reason = "rustix knows no safe form of BLKRRPART")]
pub(super) fn scan(disk: impl AsFd) -> io::Result<bool> {
    // SAFETY: BLKRRPART has no argument, and touches no memory of the process.
    let done = unsafe { ioctl(disk, NoArg::<BLKRRPART>::new()) };
    match done {
        Ok(()) => Ok(true),
        // A partition is open: somebody else has had them read.
        Err(Errno::BUSY) => Ok(true),
        // The driver was loaded with max_part=0.
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `BLKRRPART` of `linux/fs.h`.
const BLKRRPART: rustix::ioctl::Opcode = opcode::none(0x12, 95);
