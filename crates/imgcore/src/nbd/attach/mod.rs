//! Disks behind `/dev/nbdX`: what tells the kernel to be the client of a server in this process.
//!
//! ```text
//! kernel     asks the kernel to connect and to disconnect
//!   netlink  the way that makes devices and keeps what is said of them
//!     message  its messages as bytes; no input or output
//!   ioctl    the older way, where netlink is missing
//! device     what sysfs says about the kernel's devices, and the partitions on them
//!   scan     partitions of a device, in the kernel
//! ```
//!
//! The kernel negotiates nothing: it is told the size and the flags, and sends simple requests over a socket that it is given
//! ([`Server::transmit`](super::server::Server::transmit) answers them). By netlink, it keeps a device until it is told to
//! disconnect, whatever becomes of the process on the other side.

mod device;
mod ioctl;
mod kernel;
mod message;
mod netlink;
mod scan;

pub use device::{Connection, Device, Partition};
pub use kernel::{Connect, Kernel};

use std::io;
use std::path::PathBuf;

/// Why a device is not connected, or not disconnected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel has no such devices, or does not show them here.
    #[error("the kernel has no nbd devices")]
    NoDriver,
    /// This process may not.
    #[error("only root may connect and disconnect nbd devices")]
    NotPermitted,
    /// Another server is behind the device.
    #[error("`{0}` is in use")]
    InUse(PathBuf),
    /// Nothing is behind the device.
    #[error("`{0}` is not connected")]
    NotConnected(PathBuf),
    /// The node in `/dev` is missing, or is of another device.
    #[error("`{0}` is not the kernel's device of that name")]
    OtherNode(PathBuf),
    /// The disk cannot be one of the kernel's.
    #[error("{0}")]
    Unfit(String),
    /// The kernel answered something that it should not.
    #[error("the kernel's answer makes no sense: {0}")]
    Answer(&'static str),
    /// What the operating system refused otherwise.
    #[error("cannot {0}")]
    System(String, #[source] io::Error),
}

impl Error {
    /// Returns the error for a call that failed while doing what `doing` says.
    fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted,
            _ => Self::System(doing.into(), error),
        }
    }
}
