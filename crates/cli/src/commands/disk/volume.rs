//! The file system that a command is about: a partition of an image, or all of it.

use std::path::PathBuf;

use imgcore::block::{BlockRead, ByteRange, Slice};
use imgcore::fs::ext4::Ext4;
use imgcore::fs::{FileSystem, GuestPath};
use imgcore::image::{Disk, Format};
use imgcore::partition::{Partition, Table};

use super::attached::Looked;
use crate::attached::Attached;
pub(super) use crate::attached::Via;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::mounted::Mounted;
use crate::open::{TrustArgs, open, options};

/// Which file system of which image.
#[derive(Debug, clap::Args)]
pub(super) struct VolumeArgs {
    /// The image's format; it is guessed otherwise
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(super) format: Option<Format>,
    /// The partition by its number; otherwise that of the root
    #[arg(long, value_name = "N")]
    pub(super) partition: Option<u32>,
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
    Native(Box<Ext4<Slice<Disk>>>),
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
        let number = choose(&disk, args.partition)?;
        Ok(Self::Native(Box::new(Ext4::open(window(disk, number)?)?)))
    }

    /// Returns what knows more about ext4 than about file systems.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when the kernel reads it.
    pub(super) fn ext4(&self) -> Result<&Ext4<Slice<Disk>>, CommandError> {
        match self {
            Self::Native(files) => Ok(files),
            Self::Attached { .. } => Err(native_only()),
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

/// Returns the error of what only works with our own ext4.
pub(super) fn native_only() -> CommandError {
    CommandError::new(ErrorKind::Unsupported, "this works with ext4 alone, and not by way of the kernel")
        .hint("leave `--via nbd` out for a file system of ext4")
}

/// Returns the number of the partition that is meant, 0 for a disk without a table.
///
/// # Errors
///
/// [`ErrorKind::NotFound`] when there is no such partition, [`ErrorKind::Usage`] when it is not clear which one is meant.
pub(super) fn choose(disk: &dyn BlockRead, wanted: Option<u32>) -> Result<u32, CommandError> {
    let Some(table) = Table::read(disk)? else {
        return match wanted {
            None | Some(0) => Ok(0),
            Some(number) => {
                let message = format!("there is no partition {number}: the disk has no partition table");
                Err(CommandError::new(ErrorKind::NotFound, message).hint("leave `--partition` out"))
            }
        };
    };
    match wanted {
        Some(number) if table.partition(number).is_some() => Ok(number),
        Some(number) => {
            Err(CommandError::new(ErrorKind::NotFound, format!("there is no partition {number}")).hint(those_of(&table)))
        }
        None => root(disk, &table),
    }
}

/// Returns the part of `disk` that is the partition `number`, all of it for 0.
pub(super) fn window<D: BlockRead>(disk: D, number: u32) -> Result<Slice<D>, CommandError> {
    let range = match number {
        0 => ByteRange::new(0, disk.size()),
        _ => Table::read(&disk)?.and_then(|table| table.partition(number).map(|partition| partition.range)),
    };
    let range = range.ok_or_else(|| CommandError::new(ErrorKind::NotFound, format!("there is no partition {number}")))?;
    Ok(Slice::open(disk, range)?)
}

/// Returns the partition with the guest's root, or the only one with a file system that can be read.
fn root(disk: &dyn BlockRead, table: &Table) -> Result<u32, CommandError> {
    let mut readable = Vec::new();
    let mut roots = Vec::new();
    for partition in table.partitions.iter().filter(|partition| !partition.is_extended()) {
        let Ok(files) = Ext4::open(Slice::open(disk, partition.range)?) else { continue };
        readable.push(partition.number);
        if looks_like_a_root(&files) {
            roots.push(partition.number);
        }
    }
    match (roots.as_slice(), readable.as_slice()) {
        ([one], _) | ([], [one]) => Ok(*one),
        ([], []) => Err(CommandError::new(ErrorKind::Unsupported, "no partition has a file system that can be read")
            .hint(those_of(table))
            .hint("`--partition N` says why partition N cannot be read")),
        _ => Err(CommandError::new(ErrorKind::Usage, "more than one partition could be the root")
            .hint(those_of(table))
            .hint("`--partition N` chooses one")),
    }
}

pub(super) fn looks_like_a_root(files: &dyn FileSystem) -> bool {
    ["/etc/os-release", "/usr/lib/os-release", "/etc/passwd", "/etc/fstab"].iter().any(|path| {
        let path = GuestPath::new(path);
        path.is_ok_and(|path| files.symlink_metadata(&path).is_ok())
    })
}

pub(super) fn those_of(table: &Table) -> String {
    let numbers: Vec<String> = table.partitions.iter().map(|Partition { number, .. }| number.to_string()).collect();
    match numbers.as_slice() {
        [] => "the partition table is empty".to_owned(),
        numbers => format!("the image has partitions {}", numbers.join(", ")),
    }
}
