//! `vmimg disk mkfs`: a file system or swap space, on a new image or on one that is there.

mod ext;
mod tree;

use std::path::{Path, PathBuf};

use imgcore::block::{BlockWrite, MemoryDisk, Resize, Staged};
use imgcore::fs::ext4::{self, Editor, Kind};
use imgcore::fs::{GuestPath, swap, vfat};
use imgcore::image::{self, ConvertOptions, Format, NewDisk};
use imgcore::partition::Table;
use imgcore::qcow2::{CreateOptions, Preallocation};
use serde::Serialize;
use uuid::Uuid;

use self::ext::ExtArgs;
use super::change::{ChangeArgs, Task, change};
use super::tar;
use super::volume::{Via, VolumeArgs};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::TrustArgs;
use crate::output::{ReportArgs, human_size, printable};
use crate::size::Size;
use crate::volumes::known_content;

/// The arguments of `vmimg disk mkfs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With SIZE, IMG is a new image; without it, one that is there, and all of its disk
or the partition N is made anew. A disk with anything known on it is refused
unless `--force` is given. What is not said is as mke2fs and mkswap choose it.

Examples:
  vmimg disk mkfs -f qcow2 -L ephemeral0 ext4 data.qcow2 20G
  vmimg disk mkfs swap swap.raw 2G
  vmimg disk mkfs -f qcow2 -L ephemeral1 vfat more.qcow2 10G
  vmimg disk mkfs --from site ext4 site.raw 100M
  vmimg disk mkfs -f qcow2 --from root.tar -L root ext4 root.qcow2 4G
  vmimg disk mkfs --partition 2 -m 1 -O ^has_journal ext4 web1.qcow2")]
pub(super) struct Args {
    /// The image's format; for a new one raw, otherwise it is guessed
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Make it on this partition, not on the whole disk
    #[arg(long, value_name = "N", conflicts_with = "size")]
    partition: Option<u32>,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
    /// Keep what is overwritten in this new file, for `vmimg disk undo`
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    undo_log: Option<PathBuf>,
    /// The label: at most 16 bytes, 15 for swap, 11 for vfat
    #[arg(short = 'L', long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    label: String,
    /// The UUID, of which vfat takes 8 digits; a random one otherwise
    #[arg(short = 'U', long, value_name = "UUID")]
    uuid: Option<Uuid>,
    /// Fill an ext file system with this folder or tar archive, `-` for standard
    /// input, owners included
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    #[command(flatten)]
    ext: ExtArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// What is made: ext2, ext3, ext4, vfat or swap
    #[arg(value_name = "TYPE", hide_possible_values = true)]
    kind: FileSystemKind,
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The size of a new image's disk
    #[arg(value_name = "SIZE")]
    size: Option<Size>,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum FileSystemKind {
    Ext2,
    Ext3,
    Ext4,
    Vfat,
    Swap,
}

/// What was made, as JSON has it; the size is bytes.
#[derive(Debug, Serialize)]
struct Made {
    r#type: &'static str,
    size: u64,
    uuid: String,
    label: String,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    if matches!(args.kind, FileSystemKind::Swap | FileSystemKind::Vfat)
        && (args.ext != ExtArgs::default() || args.from.is_some())
    {
        let message = "swap space and vfat have a label and a UUID, and no other options";
        return Err(CommandError::new(ErrorKind::Usage, message));
    }
    let uuid = args.uuid.unwrap_or_else(|| random_uuid(context));
    let made = match args.size {
        Some(size) => make_new(args, context, size.0, uuid)?,
        None => make_on_existing(args, context, uuid)?,
    };
    args.report.print(context, &made, Made::text)
}

/// Makes a new image whose whole disk is the file system; it appears when it is done.
fn make_new(args: &Args, context: &Context, size: u64, uuid: Uuid) -> Result<Made, CommandError> {
    let path = context.absolute(&args.image);
    refuse_existing(args, &path)?;
    let size = size.checked_next_multiple_of(512).unwrap_or(size);
    let mut disk = Staged::new(MemoryDisk::new(Vec::new()));
    disk.resize(size)?;
    let made = make(args, context, &mut disk, uuid)?;
    let new = match args.format.unwrap_or(Format::Raw) {
        Format::Raw => NewDisk::Raw { size, preallocation: Preallocation::Off, no_cow: false },
        Format::Qcow2 => NewDisk::Qcow2(CreateOptions::new(size)),
    };
    let watch = |_| Ok(());
    image::convert(&disk, &path, &new, &ConvertOptions::default(), context.entropy(None).next_u64(), &watch)?;
    Ok(made)
}

fn refuse_existing(args: &Args, path: &Path) -> Result<(), CommandError> {
    if args.force || path.symlink_metadata().is_err() {
        return Ok(());
    }
    let message = format!("`{}` exists", args.image.display());
    Err(CommandError::new(ErrorKind::Refused, message)
        .hint("without SIZE, its disk is used as it is")
        .hint("`--force` makes a new image in its place"))
}

/// Makes the file system on an image that is there: all of it or nothing.
fn make_on_existing(args: &Args, context: &Context, uuid: Uuid) -> Result<Made, CommandError> {
    let image = args.image.clone();
    let volume = VolumeArgs { format: args.format, partition: args.partition, via: Via::Native, trust: args.trust, image };
    let number = args.partition.unwrap_or_default();
    let task = Task { number: Some(number), anew: true, ..Task::default() };
    let changed = change(context, &ChangeArgs::new(volume, args.undo_log.clone()), task, |part| {
        let known = if number == 0 && Table::read(part)?.is_some() { Some("a partition table") } else { known_content(part)? };
        if let Some(known) = known.filter(|_| !args.force) {
            let place = if number == 0 { "the disk".to_owned() } else { format!("partition {number}") };
            return Err(CommandError::new(ErrorKind::Refused, format!("{place} has {known} on it"))
                .hint("`--force` overwrites it")
                .hint("`vmimg disk inspect` shows what is there"));
        }
        make(args, context, part, uuid)
    })?;
    Ok(changed.outcome)
}

fn make<D: BlockWrite>(args: &Args, context: &Context, mut disk: D, uuid: Uuid) -> Result<Made, CommandError> {
    let (r#type, kind) = match args.kind {
        FileSystemKind::Swap => {
            let size = swap::create(disk, &args.label, uuid.into_bytes())?;
            return Ok(Made { r#type: "swap", size, uuid: uuid.to_string(), label: args.label.clone() });
        }
        FileSystemKind::Vfat => {
            // FAT has a serial number of 32 bits in place of a UUID.
            let serial = uuid.as_fields().0;
            let size = vfat::create(disk, &args.label, serial)?;
            let uuid = format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF);
            return Ok(Made { r#type: "vfat", size, uuid, label: args.label.clone() });
        }
        FileSystemKind::Ext2 => ("ext2", Kind::Ext2),
        FileSystemKind::Ext3 => ("ext3", Kind::Ext3),
        FileSystemKind::Ext4 => ("ext4", Kind::Ext4),
    };
    let mut options = args.ext.options(context, kind, disk.size(), uuid)?;
    options.label.clone_from(&args.label);
    let size = ext4::create(&mut disk, &options)?;
    if let Some(from) = &args.from {
        let folder = Some(context.absolute(from)).filter(|folder| folder.is_dir());
        let plan = match folder {
            Some(folder) => tree::plan(&folder)?,
            None => tar::plan(context, tar::open(context, from, &args.image)?, &GuestPath::root())?,
        };
        let mut editor = Editor::open(&mut disk, options.now)?;
        editor.apply(&plan)?;
        editor.finish()?;
        ext4::verify(&disk, &plan)?;
    }
    Ok(Made { r#type, size, uuid: uuid.to_string(), label: args.label.clone() })
}

fn random_uuid(context: &Context) -> Uuid {
    let mut bytes = [0; 16];
    context.entropy(None).fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

impl Made {
    fn text(&self) -> String {
        let label = if self.label.is_empty() { String::new() } else { format!(", label {}", printable(&self.label)) };
        format!("{}: {}, UUID {}{label}\n", self.r#type, human_size(self.size), self.uuid)
    }
}
