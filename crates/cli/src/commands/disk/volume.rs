//! The file system that a command is about: a partition or logical volume of an image, or all of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use imgcore::block::{BlockRead, Joined};
use imgcore::fs::ext4::{Ext4, Space};
use imgcore::fs::{FileSystem, GuestPath, Node};
use imgcore::image::{Disk, Format};
use seed::guest::VolumeId;

use super::attached::Looked;
use crate::attached::Attached;
pub(super) use crate::attached::Via;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::layout::Layout;
use crate::mounted::Mounted;
use crate::open::{TrustArgs, open, options};
use crate::volumes::{BTRFS, EXT, XFS, known_content};

/// Which file system of which image.
#[derive(Debug, clap::Args)]
pub(super) struct VolumeArgs {
    /// The image's format; it is guessed otherwise
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(super) format: Option<Format>,
    /// The partition by number, or GROUP/NAME on LVM; otherwise the root's
    #[arg(long, value_name = "N")]
    pub(super) partition: Option<VolumeId>,
    /// Who reads and writes the file system
    #[arg(long, value_name = "WAY", value_enum, default_value_t)]
    pub(super) via: Via,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
    /// The image
    #[arg(value_name = "IMG")]
    pub(super) image: PathBuf,
}

/// A file system of an image, open for reading.
#[derive(Debug)]
pub(super) enum Volume {
    /// By this program.
    Native(Box<Ext4<Joined<Disk>>>),
    /// By the kernel.
    Attached {
        /// What is mounted is gone before its device.
        files: Mounted,
        /// The device, which is free when this is dropped.
        _attached: Attached,
    },
}

impl Volume {
    /// Opens the image and finds the file system in it.
    pub(super) fn open(context: &Context, args: &VolumeArgs) -> Result<Self, CommandError> {
        if args.via == Via::Nbd {
            let (files, _attached) = Looked::open(context, args)?.files()?;
            return Ok(Self::Attached { files, _attached });
        }
        let disk = open(context, &args.image, &options(args.format, args.trust))?;
        let id = choose(&disk, args.partition.as_ref())?;
        let volume = window(disk, &id)?;
        refuse_other(&volume, &id)?;
        Ok(Self::Native(Box::new(Ext4::open(volume)?)))
    }

    /// Returns how much room there is.
    pub(super) fn space(&self) -> Result<Space, CommandError> {
        match self {
            Self::Native(files) => Ok(files.space()),
            Self::Attached { files, .. } => Ok(files.space()?),
        }
    }

    /// Returns what `path` is when it is a device node, a FIFO or a socket, a link not followed.
    pub(super) fn node(&self, path: &GuestPath) -> Result<Option<Node>, CommandError> {
        match self {
            Self::Native(files) => Ok(files.node(path)?),
            Self::Attached { files, .. } => Ok(files.node(path)?),
        }
    }

    /// Returns all extended attributes of `path`, a link not followed.
    pub(super) fn xattrs(&self, path: &GuestPath) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, CommandError> {
        match self {
            Self::Native(files) => Ok(files.xattrs(path)?),
            Self::Attached { files, .. } => Ok(files.xattrs(path)?),
        }
    }

    pub(super) fn file_system(&self) -> &dyn FileSystem {
        match self {
            Self::Native(files) => &**files,
            Self::Attached { files, .. } => files,
        }
    }

    /// Opens a regular file, links followed.
    pub(super) fn open_file(&self, path: &GuestPath) -> Result<Box<dyn BlockRead + '_>, CommandError> {
        match self {
            Self::Native(files) => Ok(Box::new(files.open_file(path)?)),
            Self::Attached { files, .. } => Ok(Box::new(files.open_file(path)?)),
        }
    }
}

/// Returns the volume that is meant: partition 0 for a disk without a table.
///
/// # Errors
///
/// [`ErrorKind::NotFound`] when there is no such volume, [`ErrorKind::Usage`] when it is not clear which one is meant.
pub(super) fn choose(disk: &dyn BlockRead, wanted: Option<&VolumeId>) -> Result<VolumeId, CommandError> {
    let layout = Layout::read(disk)?;
    if let Some(id) = wanted {
        check(&layout, id)?;
        return Ok(id.clone());
    }
    if layout.table.is_none() && layout.lvm.physical.is_empty() { Ok(VolumeId::Partition(0)) } else { root(disk, &layout) }
}

/// Fails when there is no volume `id` that could have a file system.
pub(super) fn check(layout: &Layout, id: &VolumeId) -> Result<(), CommandError> {
    let physical = layout.lvm.physical.iter().find(|physical| *id == VolumeId::Partition(physical.partition));
    if let Some(physical) = physical {
        let message = format!("{} is a physical volume of LVM, and no file system", id.described());
        let error = CommandError::new(ErrorKind::Unsupported, message);
        let names = layout.names();
        return Err(match &physical.obstacle {
            Some(reason) => error.with_source(reason.clone()).hint(names),
            None => error.hint(names).hint("`--partition GROUP/NAME` is a logical volume in it"),
        });
    }
    match id {
        VolumeId::Partition(0) if layout.table.is_some() => {
            Err(CommandError::new(ErrorKind::NotFound, "there is no partition 0").hint(layout.names()))
        }
        _ => layout.place(id).map(drop),
    }
}

/// Returns the part of `disk` that is the volume `id`, all of it for partition 0.
pub(super) fn window<D: BlockRead>(disk: D, id: &VolumeId) -> Result<Joined<D>, CommandError> {
    Layout::read(&disk)?.open(disk, id)
}

/// Refuses a volume of which it is known that it holds something else than ext2, ext3 or ext4.
pub(super) fn refuse_other(volume: &dyn BlockRead, id: &VolumeId) -> Result<(), CommandError> {
    match known_content(volume)? {
        Some(EXT) => Ok(()),
        None => {
            let message = format!("{} holds no known file system", id.described());
            Err(CommandError::new(ErrorKind::Unsupported, message).hint(
                "`vmimg disk inspect` shows what there is; `e2fsck -b 32768` looks for an ext4 that has lost its superblock",
            ))
        }
        Some(name) => {
            let message = format!("{} holds {name}, which is not supported", id.described());
            let error = CommandError::new(ErrorKind::Unsupported, message);
            Err(match name {
                XFS | BTRFS => error.hint("`--via nbd` has the kernel read and change it, for root"),
                "gzip" | "xz" | "zstd" | "bzip2" => error.hint("it is a compressed file: unpack it first"),
                "a qcow2 image" => error.hint("`-f qcow2`, or no `-f` at all, reads the disk in it"),
                _ => error,
            })
        }
    }
}

/// Returns the volume with the guest's root, or the only one with a file system that can be read.
fn root(disk: &dyn BlockRead, layout: &Layout) -> Result<VolumeId, CommandError> {
    let mut readable = Vec::new();
    let mut roots = Vec::new();
    for (id, place) in layout.volumes() {
        let Ok(files) = Ext4::open(Joined::open(disk, &place)?) else { continue };
        if looks_like_a_root(&files) {
            roots.push(id.clone());
        }
        readable.push(id);
    }
    match (roots.as_slice(), readable.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one.clone()),
        ([], []) => {
            let none = CommandError::new(ErrorKind::Unsupported, "no partition has a file system that can be read");
            Err(refused(layout)
                .into_iter()
                .fold(none.hint(layout.names()), CommandError::hint)
                .hint("`--partition N` says why partition N cannot be read"))
        }
        _ => Err(several(layout)),
    }
}

/// Returns what is said when more than one volume could be meant.
pub(super) fn several(layout: &Layout) -> CommandError {
    CommandError::new(ErrorKind::Usage, "more than one partition could be the root")
        .hint(layout.names())
        .hint("`--partition N` chooses one")
}

/// Returns why what is there of LVM is not used.
pub(super) fn refused(layout: &Layout) -> Vec<String> {
    let logical = layout.logical().filter_map(|(id, logical)| Some((id, logical.place.as_ref().err()?)));
    let logical = logical.map(|(id, reason)| format!("the logical volume `{id}` is not used: {reason}"));
    let physical = layout.lvm.physical.iter().filter_map(|physical| Some((physical.partition, physical.obstacle.as_ref()?)));
    let physical = physical.map(|(number, reason)| format!("the physical volume in partition {number} is not used: {reason}"));
    logical.chain(physical).take(HINTS).collect()
}

pub(super) fn looks_like_a_root(files: &dyn FileSystem) -> bool {
    ["/etc/os-release", "/usr/lib/os-release", "/etc/passwd", "/etc/fstab"].iter().any(|path| {
        let path = GuestPath::new(path);
        path.is_ok_and(|path| files.symlink_metadata(&path).is_ok())
    })
}

/// How many reasons a message has.
const HINTS: usize = 4;
