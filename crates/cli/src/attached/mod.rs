//! An image as a block device of this machine while one command works, with its file systems mounted where nobody else sees them.
//!
//! ```text
//! server   the process that serves the image, a `vmimg nbd connect` of its own, with its keeper
//! probe    what a volume holds, and what forbids to mount it
//! mount    a file system that has no place in any tree of files
//! grow     the calls that make a mounted file system larger
//! ```
//!
//! The kernel reads what a guest has written, so this is for root, and for guests whose file systems our own writer does not know.
//! What mounts never serves: a process that waits for its own device could not be killed. The mount is in no namespace: it ends
//! with the last of its files that is open, and so with the process, however that ends; the server ends with its input, and the
//! device with the server.

mod grow;
mod mount;
mod probe;
mod server;

pub use probe::{Kind, Probe, probe};

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use imgcore::block::BlockRead;
use imgcore::fs::{FileKind, FileSystem, GuestPath};
use imgcore::image::Format;
use imgcore::nbd::attach::{self, Device};
use imgcore::storage::{self, FileDisk};
use serde::Deserialize;

use self::server::Server;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::mounted::Mounted;
use crate::open::TrustArgs;

/// Who reads and writes file systems.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// This program: ext4, for everybody
    #[default]
    Native,
    /// The kernel, by /dev/nbdX: ext4, XFS, btrfs, for root
    Nbd,
}

/// What becomes of what the kernel writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// It is in the image.
    Writable,
    /// It writes nothing.
    ReadOnly,
    /// It is dropped at the end: a journal that was not empty has been replayed, and the image is as it was.
    Private,
}

/// An image behind a device. When this is dropped, the device is free again; what is mounted must be dropped before.
#[derive(Debug)]
pub struct Attached {
    server: Server,
}

/// A file system on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target {
    /// The partition, 0 for the whole disk.
    pub number: u32,
    kind: Kind,
    uuid: [u8; 16],
    /// The subvolume of btrfs that has the root, when it is not the one that is mounted by default.
    subvolume: Option<&'static str>,
}

impl Attached {
    /// Puts the image `name` behind a free device.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] for all but root, and what `vmimg nbd connect` fails with, which has said it.
    pub fn open(
        context: &Context,
        name: &Path,
        format: Format,
        trust: TrustArgs,
        access: Access,
    ) -> Result<Self, CommandError> {
        if !context.is_root() {
            return Err(CommandError::new(ErrorKind::Refused, "only root may have the kernel mount an image")
                .hint("ext4 needs no mount, and no root: leave `--via nbd` out"));
        }
        Ok(Self { server: Server::start(context, name, format, trust, access)? })
    }

    /// Looks at the file system in partition `number`, 0 for the whole disk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::Unsupported`] for what is not mounted, and what the kernel says.
    pub fn find(&self, number: u32) -> Result<Target, CommandError> {
        let probe = self.probe(number)?;
        let mut target = Target { number, kind: probe.kind, uuid: probe.uuid, subvolume: None };
        if target.kind == Kind::Btrfs {
            let files = self.mount(target, false)?;
            if !is_root(&files, "") {
                target.subvolume = SUBVOLUMES.iter().find(|name| is_root(&files, name)).copied();
            }
        }
        Ok(target)
    }

    /// Mounts a file system: without setuid programs, devices and programs that can be run.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] for one that this machine has mounted already, and what the kernel says.
    pub fn mount(&self, target: Target, writable: bool) -> Result<Mounted, CommandError> {
        mount::mount(&self.node(target.number)?, target, writable)
    }

    /// Gives a file system that is mounted all of its partition. Returns its size in bytes before.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn grow(&self, target: Target, files: &Mounted) -> Result<u64, CommandError> {
        let node = FileDisk::open(&self.node(target.number)?, storage::Access::Read)?;
        let probe = probe::expect(&node, target.number)?;
        let to = node.size();
        drop(node);
        grow::grow(files, &probe, to)
            .map_err(|error| CommandError::io(format!("the kernel cannot grow {}", target.kind), error.into()))?;
        Ok(probe.size)
    }

    /// Returns what partition `number` holds.
    ///
    /// # Errors
    ///
    /// As [`Attached::find`].
    pub fn probe(&self, number: u32) -> Result<Probe, CommandError> {
        probe::expect(&FileDisk::open(&self.node(number)?, storage::Access::Read)?, number)
    }

    /// Frees the device, with everything that was written durable in the image.
    ///
    /// # Errors
    ///
    /// When the device is in use, and when not everything could be written.
    pub fn close(self) -> Result<(), CommandError> {
        let device = self.server.device();
        let begun = Instant::now();
        while let Err(error) = device.claim() {
            if !matches!(error, attach::Error::InUse(_)) || begun.elapsed() > PATIENCE {
                return Err(error.into());
            }
            // Who looks at every new device, as udev does, is done soon.
            thread::sleep(PAUSE);
        }
        self.server.close()
    }

    /// Returns the node of a partition.
    fn node(&self, number: u32) -> Result<PathBuf, CommandError> {
        let device: Device = self.server.device();
        if number == 0 {
            return Ok(device.path());
        }
        let found = device.partitions().into_iter().find(|partition| partition.number == number);
        let missing = || {
            let message = format!("the kernel finds no partition {number} on `{}`", device.path().display());
            CommandError::new(ErrorKind::NotFound, message).hint("the nbd driver makes partitions when its `max_part` is not 0")
        };
        found.map(|partition| partition.path).ok_or_else(missing)
    }
}

/// Returns whether the root of a guest is in `folder`.
fn is_root(files: &Mounted, folder: &str) -> bool {
    ["etc", "usr"].iter().all(|name| {
        let path = GuestPath::new(&format!("/{folder}/{name}"));
        path.is_ok_and(|path| files.symlink_metadata(&path).is_ok_and(|found| found.kind == FileKind::Directory))
    })
}

/// Where distributions that mount a subvolume by its name have their root: Ubuntu, Fedora, Debian.
const SUBVOLUMES: [&str; 3] = ["@", "root", "@rootfs"];

/// How long others may look at a device, and how often that is asked.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
