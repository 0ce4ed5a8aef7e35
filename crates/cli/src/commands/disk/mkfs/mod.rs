//! `vmimg disk mkfs`: a file system or swap space, on a new image or on one that is there.

mod ext;

use std::io;
use std::path::{Path, PathBuf};

use imgcore::block::{BlockWrite, MemoryDisk, Resize, Staged};
use imgcore::fs::ext4::{self, Editor, Timestamp};
use imgcore::fs::{Edit, EditPlan, Error, GuestPath};
use imgcore::image::{self, ConvertOptions, Format, NewDisk};
use imgcore::partition::Table;
use imgcore::qcow2::{CreateOptions, Preallocation};
use seed::guest::VolumeId;
use serde::Serialize;
use uuid::Uuid;

use self::ext::ExtArgs;
use super::change::{ChangeArgs, Task, change};
use super::host_tree::{Taken, steps};
use super::tar;
use super::volume::{Via, VolumeArgs};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::mkfs::{self, Kind};
use crate::open::TrustArgs;
use crate::output::{ReportArgs, human_size, printable, warn};
use crate::place::Place;
use crate::size::Size;
use crate::volumes::{is_empty, known_content};

/// The arguments of `vmimg disk mkfs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With SIZE, IMG is a new image; without it, one that is there, and all of its disk
or the partition N is made anew. One that has anything but zeros at its ends is
refused unless `--force` is given. What is not said is as mke2fs and mkswap
choose it.

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
    partition: Option<VolumeId>,
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
    /// input: owners, times, links, attributes and access lists as they are
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    #[command(flatten)]
    ext: ExtArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// What is made: ext2, ext3, ext4, vfat or swap
    #[arg(value_name = "TYPE", hide_possible_values = true)]
    kind: Kind,
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The size of a new image's disk
    #[arg(value_name = "SIZE")]
    size: Option<Size>,
    #[command(flatten)]
    report: ReportArgs,
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
    if args.kind.ext().is_none() && (args.ext != ExtArgs::default() || args.from.is_some()) {
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
    let format = args.format.unwrap_or(Format::Raw);
    if format == Format::Raw && path.extension().is_some_and(|extension| extension == "qcow2") {
        warn(context, format!("`{}` becomes a raw image: `-f qcow2` makes one of qcow2", args.image.display()));
    }
    let size = size.checked_next_multiple_of(512).unwrap_or(size);
    let mut disk = Staged::new(MemoryDisk::new(Vec::new()));
    disk.resize(size)?;
    let made = make(args, context, &mut disk, uuid)?;
    let new = match format {
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

fn refuse_missing(args: &Args, context: &Context) -> Result<(), CommandError> {
    let Place::File(path) = Place::of(context, &args.image)? else { return Ok(()) };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("there is no `{}`", args.image.display());
            Err(CommandError::new(ErrorKind::NotFound, message)
                .hint("a new image has its SIZE behind its name, as in `data.raw 20G`"))
        }
        _ => Ok(()),
    }
}

/// Makes the file system on an image that is there: all of it or nothing.
fn make_on_existing(args: &Args, context: &Context, uuid: Uuid) -> Result<Made, CommandError> {
    refuse_missing(args, context)?;
    let image = args.image.clone();
    let id = args.partition.clone().unwrap_or(VolumeId::Partition(0));
    let partition = Some(id.clone());
    let volume = VolumeArgs { format: args.format, partition, via: Via::Native, trust: args.trust, image };
    let task = Task { volume: Some(id.clone()), anew: true, ..Task::default() };
    let changed = change(context, &ChangeArgs::new(volume, args.undo_log.clone()), task, |part| {
        let is_disk = id == VolumeId::Partition(0);
        let known = if is_disk && Table::read(part)?.is_some() { Some("a partition table") } else { known_content(part)? };
        let known = if known.is_none() && !is_empty(part)? { Some("something") } else { known };
        if let Some(known) = known.filter(|_| !args.force) {
            let place = if is_disk { "the disk".to_owned() } else { id.described() };
            return Err(CommandError::new(ErrorKind::Refused, format!("{place} has {known} on it"))
                .hint("`--force` overwrites it")
                .hint("`vmimg disk inspect` shows what is there"));
        }
        mkfs::wipe(&mut *part)?;
        make(args, context, part, uuid)
    })?;
    Ok(changed.outcome)
}

fn make<D: BlockWrite>(args: &Args, context: &Context, mut disk: D, uuid: Uuid) -> Result<Made, CommandError> {
    let made = |size| Made { r#type: args.kind.name(), size, uuid: args.kind.shown(uuid), label: args.label.clone() };
    let Some(kind) = args.kind.ext() else {
        let now = Timestamp { secs: context.unix_time(), nanos: 0 };
        return Ok(made(mkfs::make(disk, args.kind, &args.label, uuid, now)?));
    };
    let mut options = args.ext.options(context, kind, disk.size(), uuid)?;
    options.label.clone_from(&args.label);
    let size = ext4::create(&mut disk, &options)?;
    if let Some(from) = &args.from {
        let folder = Some(context.absolute(from)).filter(|folder| folder.is_dir());
        let plan = match folder {
            Some(folder) => EditPlan { edits: steps(context, &folder, (&args.image, GuestPath::root()), &Taken::All)? },
            None => tar::plan(context, tar::open(context, from, &args.image)?, &GuestPath::root())?,
        };
        let mut editor = Editor::open(&mut disk, options.now)?;
        editor.apply(&plan).map_err(|error| too_full(error, &plan, size))?;
        editor.finish()?;
        ext4::verify(&disk, &plan)?;
    }
    Ok(made(size))
}

/// Returns the error of a file system that is too small for what it is filled with.
fn too_full(error: Error, plan: &EditPlan, size: u64) -> CommandError {
    if !matches!(error, Error::NoSpace(_)) {
        return error.into();
    }
    let bytes = plan.edits.iter().map(|edit| match edit {
        Edit::CreateFile { content, .. } => content.len(),
        _ => 0,
    });
    let (all, size) = (human_size(bytes.fold(0, u64::saturating_add)), human_size(size));
    CommandError::new(ErrorKind::Refused, format!("files of {all} do not fit into a file system of {size}"))
        .with_source(error)
        .hint("make it larger, or give it more inodes by `-N`")
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
