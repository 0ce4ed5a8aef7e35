//! Volumes of an image as block devices of this machine while one command works, with its file systems mounted where nobody else sees them.
//!
//! ```text
//! server   the process that serves a volume of the image, a `vmimg nbd connect` of its own, with its keeper
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

pub use probe::{Kind, Probe, expect, probe};

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use imgcore::block::BlockRead;
use imgcore::fs::{FileKind, FileSystem, GuestPath};
use imgcore::image::Format;
use imgcore::nbd::attach;
use imgcore::storage::{self, FileDisk};
use seed::guest::VolumeId;
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

/// An image of which volumes are behind devices, each its own, so that this machine sees nothing else of it: no physical volume
/// that its LVM could take for one of its own, and no second volume of a name. When this is dropped, the devices are free again;
/// what is mounted must be dropped before.
#[derive(Debug)]
pub struct Attached {
    image: Image,
    devices: Vec<(VolumeId, Server)>,
}

/// Which image, and how it is opened.
#[derive(Debug)]
struct Image {
    name: PathBuf,
    format: Format,
    trust: TrustArgs,
    access: Access,
}

/// A file system on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The partition, 0 for the whole disk, or the logical volume.
    pub id: VolumeId,
    kind: Kind,
    uuid: [u8; 16],
    /// The subvolume of btrfs that has the root, when it is not the one that is mounted by default.
    subvolume: Option<&'static str>,
}

impl Attached {
    /// Returns the image `name`, with nothing of it behind a device yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] for all but root.
    pub fn new(context: &Context, name: &Path, format: Format, trust: TrustArgs, access: Access) -> Result<Self, CommandError> {
        if !context.is_root() {
            return Err(CommandError::new(ErrorKind::Refused, "only root may have the kernel mount an image")
                .hint("ext4 needs no mount, and no root: leave `--via nbd` out"));
        }
        Ok(Self { image: Image { name: name.to_owned(), format, trust, access }, devices: Vec::new() })
    }

    /// Puts a volume behind a free device, if it is not behind one. An image that is written has one writer: the device of another
    /// volume is freed first, and must not be mounted any more.
    ///
    /// # Errors
    ///
    /// What `vmimg nbd connect` fails with, which has said it, and as [`Attached::close`].
    pub fn add(&mut self, context: &Context, id: &VolumeId) -> Result<(), CommandError> {
        if self.devices.iter().any(|(known, _)| known == id) {
            return Ok(());
        }
        if self.image.access == Access::Writable {
            self.free()?;
        }
        self.devices.push((id.clone(), Server::start(context, &self.image, id)?));
        Ok(())
    }

    /// Looks at the file system of a volume that was added.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for what is not mounted, and what the kernel says.
    pub fn find(&self, id: &VolumeId) -> Result<Target, CommandError> {
        let probe = self.probe(id)?;
        let mut target = Target { id: id.clone(), kind: probe.kind, uuid: probe.uuid, subvolume: None };
        if target.kind == Kind::Btrfs {
            let files = self.mount(&target, false)?;
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
    pub fn mount(&self, target: &Target, writable: bool) -> Result<Mounted, CommandError> {
        mount::mount(&self.node(&target.id)?, target, writable)
    }

    /// Gives a file system that is mounted `to` bytes, or all of its volume. Returns its size in bytes before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] for a smaller size, and one that the volume does not have; what the kernel says.
    pub fn grow(&self, target: &Target, files: &Mounted, to: Option<u64>) -> Result<u64, CommandError> {
        let node = FileDisk::open(&self.node(&target.id)?, storage::Access::Read)?;
        let probe = probe::expect(&node, &target.id)?;
        let space = node.size();
        drop(node);
        if let Some(to) = to.filter(|to| *to < probe.size || *to > space) {
            let message = format!("a file system of {} bytes in {space} cannot become one of {to}", probe.size);
            return Err(CommandError::new(ErrorKind::Refused, message)
                .hint("it can become larger, up to the size of its partition; `vmimg disk grow --no-fs` makes that larger"));
        }
        grow::grow(files, &probe, to.unwrap_or(space))
            .map_err(|error| CommandError::io(format!("the kernel cannot grow {}", target.kind), error.into()))?;
        Ok(probe.size)
    }

    /// Returns what a volume that was added holds.
    ///
    /// # Errors
    ///
    /// As [`Attached::find`].
    pub fn probe(&self, id: &VolumeId) -> Result<Probe, CommandError> {
        probe::expect(&FileDisk::open(&self.node(id)?, storage::Access::Read)?, id)
    }

    /// Frees the devices, with everything that was written durable in the image.
    ///
    /// # Errors
    ///
    /// When a device is in use, and when not everything could be written.
    pub fn close(mut self) -> Result<(), CommandError> {
        self.free()
    }

    fn free(&mut self) -> Result<(), CommandError> {
        for (_, server) in std::mem::take(&mut self.devices) {
            let begun = Instant::now();
            while let Err(error) = server.device().claim() {
                if !matches!(error, attach::Error::InUse(_)) || begun.elapsed() > PATIENCE {
                    return Err(error.into());
                }
                // Who looks at every new device, as udev does, is done soon.
                thread::sleep(PAUSE);
            }
            server.close()?;
        }
        Ok(())
    }

    /// Returns the node of a volume.
    fn node(&self, id: &VolumeId) -> Result<PathBuf, CommandError> {
        let found = self.devices.iter().find(|(known, _)| known == id).map(|(_, server)| server.device().path());
        found.ok_or_else(|| CommandError::new(ErrorKind::Unexpected, format!("{} is behind no device", id.described())))
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
