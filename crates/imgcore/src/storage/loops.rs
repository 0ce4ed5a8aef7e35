//! Loop devices: what the kernel does with a file as if it were a disk, of which the file itself shows nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::ioctl::{Getter, Opcode, ioctl};

use super::FileDisk;
use crate::block::{Error, ErrorKind};

/// Fails when `disk` is a regular file behind a loop device by which the kernel, or a program, writes to it.
///
/// For who needs a state that does not change. A system without loop devices, or without `/sys`, has none that write.
///
/// # Errors
///
/// [`ErrorKind::InUse`] with the name of the device.
pub fn refuse_loop_writer(disk: &FileDisk) -> Result<(), Error> {
    refuse(disk.file(), disk.path(), |device| !device.is_read_only() && (!device.is_temporary() || device.is_held()))
}

/// Fails when the regular file `file` may not be written because of a loop device: one that is mounted, or that may write by itself.
/// A device that is only attached, and reads, would not mind, and neither does one that is on its way out.
pub(super) fn refuse_loop_user(file: &File, path: &Path) -> Result<(), Error> {
    refuse(file, path, |device| (!device.is_read_only() && !device.is_temporary()) || device.is_held())
}

fn refuse(file: &File, path: &Path, minds: impl Fn(&Loop) -> bool) -> Result<(), Error> {
    let Some(device) = all().into_iter().find(|device| device.is_over(file) && minds(device)) else { return Ok(()) };
    let message = format!("`{}` is in use: it is behind the loop device `{}`", path.display(), device.node().display());
    Err(Error::new(ErrorKind::InUse, message))
}

/// A loop device with a file behind it, by its name.
#[derive(Debug)]
struct Loop(PathBuf);

/// Returns the loop devices that have a file behind them.
fn all() -> Vec<Loop> {
    let Ok(entries) = fs::read_dir(SYSFS) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
    let loops = names.filter(|name| name.as_bytes().starts_with(b"loop")).map(|name| Loop(name.into()));
    loops.filter(|device| device.sysfs("loop").is_dir()).collect()
}

impl Loop {
    fn sysfs(&self, name: &str) -> PathBuf {
        Path::new(SYSFS).join(&self.0).join(name)
    }

    fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.0)
    }

    fn open(&self, flags: OFlags) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or_default()).open(self.node())
    }

    /// Returns whether `file` is behind it.
    fn is_over(&self, file: &File) -> bool {
        let Ok(this) = file.metadata() else { return false };
        let by_kernel = self.open(OFlags::NONBLOCK).and_then(|node| status(&node));
        let behind = by_kernel.or_else(|_| {
            // Who may not open the device still sees the path, which need not be one of this process' own folders.
            let path = fs::read(self.sysfs("loop/backing_file"))?;
            let path = path.strip_suffix(b"\n").unwrap_or(&path);
            Path::new(std::ffi::OsStr::from_bytes(path)).metadata().map(|found| (found.dev(), found.ino()))
        });
        behind.is_ok_and(|behind| behind == (this.dev(), this.ino()))
    }

    fn is_read_only(&self) -> bool {
        self.says("ro")
    }

    /// Returns whether it ends with its last user, as those of `mount -o loop`: behind `umount`, udev may still look at it.
    fn is_temporary(&self) -> bool {
        self.says("loop/autoclear")
    }

    fn says(&self, name: &str) -> bool {
        fs::read(self.sysfs(name)).is_ok_and(|text| text.starts_with(b"1"))
    }

    /// Returns whether it, or a partition of it, is mounted or a part of another device, or whether that cannot be told.
    fn is_held(&self) -> bool {
        for look in 0..LOOKS {
            if look > 0 {
                // Who only looks, as this does, has it for a moment.
                thread::sleep(PAUSE);
            }
            // What open(2) says of O_EXCL: "if the block device is in use by the system (e.g., mounted), open() fails".
            match self.open(OFlags::NONBLOCK | OFlags::EXCL) {
                Ok(_) => return false,
                // It has nothing behind it any more.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENOENT)) => return false,
                Err(_) => {}
            }
        }
        true
    }
}

const SYSFS: &str = "/sys/block";

/// How often a device is looked at before it counts as held, and how long after each other.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// `struct loop_info64` of `linux/loop.h`: device and inode number of the file, and what is of no interest here.
#[repr(C)]
struct Status {
    device: u64,
    inode: u64,
    rest: [u64; 27],
}

const _: () = assert!(size_of::<Status>() == 232, "the size of `struct loop_info64`");

/// `LOOP_GET_STATUS64` of `linux/loop.h`.
const LOOP_GET_STATUS64: Opcode = 0x4C05;

/// Returns the device and the inode number of the file behind the loop device `node`, as stat(2) has them.
#[expect(unsafe_code, reason = "rustix knows no safe form of LOOP_GET_STATUS64")]
fn status(node: impl AsFd) -> io::Result<(u64, u64)> {
    // SAFETY: the call writes one `struct loop_info64`, which `Status` has the size and alignment of, and any bytes are one.
    let status = unsafe { ioctl(node, Getter::<LOOP_GET_STATUS64, Status>::new()) }?;
    Ok((status.device, status.inode))
}
