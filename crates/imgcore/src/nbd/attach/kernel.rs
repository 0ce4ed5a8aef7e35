use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::ioctl::Ioctl;
use super::netlink::Netlink;
use super::{Device, Error};

/// The part of the kernel that connects devices.
#[derive(Debug)]
pub struct Kernel(Way);

/// How it is told.
#[derive(Debug)]
enum Way {
    Netlink(Netlink),
    Ioctl(Ioctl),
}

/// What the kernel is told about a disk.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// Bytes of the disk, a multiple of the block size.
    pub size: u64,
    /// Bytes of a logical block: 512, 1024, 2048 or 4096.
    pub block_size: u64,
    /// What the server can do, as in the protocol.
    pub flags: u16,
    /// How long a request may take before the connection counts as dead; `None` is for ever.
    pub timeout: Option<Duration>,
    /// How long requests wait once the connection is dead, before they fail.
    pub dead_timeout: Duration,
    /// What the device says about its server.
    pub identifier: &'a [u8],
}

impl Kernel {
    /// Finds the kernel's nbd driver: by netlink or, where that does not show it, by ioctl on its devices.
    ///
    /// # Errors
    ///
    /// [`Error::NoDriver`] when it is not loaded.
    pub fn open() -> Result<Self, Error> {
        match Netlink::open() {
            Ok(netlink) => Ok(Self(Way::Netlink(netlink))),
            // A network namespace of a container has no such family, and all devices.
            Err(Error::NoDriver) if Device::all().is_ok_and(|all| !all.is_empty()) => Ok(Self(Way::Ioctl(Ioctl::default()))),
            Err(error) => Err(error),
        }
    }

    /// Puts the server at the other end of `socket` behind `device`, which exists from then on where netlink makes it. The socket
    /// may be closed here.
    ///
    /// Without netlink, `disk`'s `dead_timeout` and `identifier` are not kept, and the device ends with this process.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] when the device has a server, [`Error::NotPermitted`], and what the kernel refuses otherwise.
    pub fn connect(&self, device: Device, socket: BorrowedFd<'_>, disk: &Connect<'_>) -> Result<(), Error> {
        if ![512, 1024, 2048, 4096].contains(&disk.block_size) {
            return Err(Error::Unfit(format!("blocks of {} bytes: 512, 1024, 2048 and 4096 are possible", disk.block_size)));
        }
        if disk.size == 0 || !disk.size.is_multiple_of(disk.block_size) {
            let (size, block) = (disk.size, disk.block_size);
            return Err(Error::Unfit(format!("a disk of {size} bytes is not a number of blocks of {block} bytes")));
        }
        match &self.0 {
            Way::Netlink(netlink) => netlink.connect(device, socket, disk),
            Way::Ioctl(ioctl) => ioctl.connect(device, socket, disk),
        }
    }

    /// Takes the server from behind `device`. Requests that it has not answered fail; flush before.
    ///
    /// # Errors
    ///
    /// [`Error::NotConnected`] when there is none, [`Error::NotPermitted`], and what the kernel refuses otherwise.
    pub fn disconnect(&self, device: Device) -> Result<(), Error> {
        match &self.0 {
            Way::Netlink(netlink) => netlink.disconnect(device),
            Way::Ioctl(ioctl) => ioctl.disconnect(device),
        }
    }
}
