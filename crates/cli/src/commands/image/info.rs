//! `vmimg image info`: what an image is.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use imgcore::block::BlockRead;
use imgcore::image::{Format, probe};
use imgcore::qcow2::{self, Image, Version};
use imgcore::storage::{Access, FileDisk, Lock, LockKind};

use super::report::{BitmapReport, Child, ChildInfo, Empty, FileSpecific, ImageReport, Qcow2Report, SnapshotReport, Specific};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::print_json;

/// The arguments of `vmimg image info`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg image info debian-12.qcow2
  vmimg image info --output=json --backing-chain web1.qcow2
  vmimg image info -f qcow2 -U running.qcow2")]
pub(super) struct Args {
    /// The image's format; it is guessed otherwise
    #[arg(short = 'f', value_name = "FORMAT")]
    format: Option<Format>,
    /// Print JSON for programs or text for people
    #[arg(long, value_name = "FORM", default_value = "human")]
    output: Output,
    /// Show the images below as well
    #[arg(long)]
    backing_chain: bool,
    /// Look even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "IMG")]
    image: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    Human,
    Json,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let mut reports = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some((args.image.clone(), args.format));
    while let Some((name, format)) = next.take() {
        context.interrupt().check()?;
        let (report, below) = look(context, &name, format, args.force_share, &mut seen)?;
        reports.push(report);
        if args.backing_chain {
            next = below;
        }
    }
    if args.output == Output::Human {
        let texts: Vec<String> = reports.iter().map(ImageReport::text).collect();
        return context.write_out(texts.join("\n").as_bytes());
    }
    match (args.backing_chain, reports.first()) {
        (false, Some(report)) => print_json(context, report),
        _ => print_json(context, &reports),
    }
}

type Below = Option<(String, Option<Format>)>;

/// Returns the report on the image `name` and what is below it.
fn look(
    context: &Context,
    name: &str,
    format: Option<Format>,
    force_share: bool,
    seen: &mut HashSet<(u64, u64)>,
) -> Result<(ImageReport, Below), CommandError> {
    let disk = FileDisk::open(&context.absolute(Path::new(name)), Access::Read)?;
    if !force_share {
        let _free = Lock::acquire(&disk, LockKind::Read)
            .map_err(|error| CommandError::from(error).hint("`-U` looks at it all the same"))?;
    }
    let metadata = disk.file().metadata().map_err(|error| CommandError::io(format!("cannot look at `{name}`"), error))?;
    if !seen.insert((metadata.dev(), metadata.ino())) {
        return Err(CommandError::new(ErrorKind::Corrupt, format!("the backing chain comes back to `{name}`")));
    }
    let actual_size = metadata.blocks().saturating_mul(512);
    let child = child(name, &disk, actual_size);
    let format = match format {
        Some(format) => format,
        None => probe(&disk)?,
    };
    let mut report = ImageReport {
        children: vec![child],
        backing_filename_format: None,
        snapshots: Vec::new(),
        virtual_size: disk.size().next_multiple_of(SECTOR),
        filename: name.to_owned(),
        cluster_size: None,
        format: format.to_string(),
        actual_size,
        format_specific: None,
        encrypted: None,
        full_backing_filename: None,
        backing_filename: None,
        dirty_flag: false,
    };
    match format {
        Format::Raw => Ok((report, None)),
        Format::Qcow2 => {
            let cannot = |error: qcow2::Error| CommandError::from(error).context(format!("cannot open `{name}`"));
            let image = Image::open(disk).map_err(cannot)?;
            let below = describe(&image, name, &mut report).map_err(cannot)?;
            Ok((report, below))
        }
    }
}

/// Fills in what a qcow2 image says about itself.
fn describe(image: &Image<FileDisk>, name: &str, report: &mut ImageReport) -> Result<Below, qcow2::Error> {
    let v3 = image.version() == Version::V3;
    let data_file = image.data_file();
    report.virtual_size = image.size();
    report.cluster_size = Some(image.cluster_size());
    report.dirty_flag = image.is_dirty();
    report.snapshots = image.snapshots()?.iter().map(snapshot).collect();
    report.format_specific = Some(Specific::Qcow2(Qcow2Report {
        compat: if v3 { "1.1" } else { "0.10" },
        compression_type: image.compression().name(),
        lazy_refcounts: v3.then(|| image.lazy_refcounts()),
        bitmaps: image.bitmaps()?.iter().map(bitmap).collect(),
        refcount_bits: image.refcount_bits(),
        data_file: data_file.as_ref().and_then(|file| file.name.as_deref()).map(text),
        data_file_raw: data_file.as_ref().map(|file| file.raw),
        corrupt: v3.then(|| image.is_corrupt()),
        extended_l2: v3.then(|| image.extended_l2()),
    }));
    let Some(backing) = image.backing_file() else { return Ok(None) };
    let full = combined(name, &backing.name);
    report.backing_filename = Some(text(&backing.name));
    report.full_backing_filename = Some(full.clone());
    let format = backing.format.as_deref().and_then(|format| format.parse().ok());
    report.backing_filename_format = backing.format;
    Ok(Some((full, format)))
}

fn snapshot(snapshot: &qcow2::Snapshot) -> SnapshotReport {
    SnapshotReport {
        icount: snapshot.icount.filter(|icount| *icount != u64::MAX),
        vm_clock_nsec: snapshot.vm_clock.rem_euclid(SECOND),
        name: snapshot.name.clone(),
        date_sec: snapshot.date_seconds,
        date_nsec: snapshot.date_nanoseconds,
        vm_clock_sec: snapshot.vm_clock.div_euclid(SECOND),
        id: snapshot.id.clone(),
        vm_state_size: snapshot.vm_state_size,
    }
}

fn bitmap(bitmap: &qcow2::Bitmap) -> BitmapReport {
    let flags = [(bitmap.in_use, "in-use"), (bitmap.auto, "auto")];
    let flags = flags.into_iter().filter_map(|(set, name)| set.then_some(name)).collect();
    BitmapReport { flags, name: bitmap.name.clone(), granularity: bitmap.granularity }
}

fn child(name: &str, disk: &FileDisk, actual_size: u64) -> Child {
    let kind = if disk.is_device() { "host_device" } else { "file" };
    Child {
        name: "file",
        info: ChildInfo {
            children: [],
            virtual_size: disk.size().next_multiple_of(SECTOR),
            filename: name.to_owned(),
            format: kind,
            actual_size,
            format_specific: FileSpecific { kind, data: Empty {} },
            dirty_flag: false,
        },
    }
}

/// Returns the path of the backing file `stored` in the image at `image`: a relative one begins at the image's folder.
fn combined(image: &str, stored: &[u8]) -> String {
    let stored = PathBuf::from(std::ffi::OsStr::from_bytes(stored));
    let folder = Path::new(image).parent().unwrap_or(Path::new(""));
    folder.join(stored).to_string_lossy().into_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// QEMU counts files in sectors.
const SECTOR: u64 = 512;
/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;
