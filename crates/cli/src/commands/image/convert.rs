//! `vmimg image convert`: an image copied to another format.

use std::path::{Path, PathBuf};

use imgcore::block::{BlockRead, ByteRange, Resize, extents};
use imgcore::image::{Disk, Format};
use imgcore::qcow2::{self, Content, Effort, write_image_with};

use super::create::{backing_format, qcow2_options};
use super::differences::differences;
use super::options::CreateOptions;
use super::sparse::write_sparse;
use super::target::Target;
use super::watched::Watched;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{TrustArgs, open, options};
use crate::size::Size;

/// The arguments of `vmimg image convert`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg image convert -O qcow2 disk.raw disk.qcow2
  vmimg image convert -p -f qcow2 -O raw web1.qcow2 web1.raw
  vmimg image convert -c -O qcow2 -o compression_type=zstd a.raw b.qcow2")]
pub(super) struct Args {
    /// The format of the image; it is guessed otherwise
    #[arg(short = 'f', value_name = "FORMAT")]
    format: Option<Format>,
    /// The format of the copy: raw or qcow2
    #[arg(short = 'O', value_name = "FORMAT", default_value = "raw")]
    output_format: Format,
    /// Options of the copy's format, as in cluster_size=64k,compat=1.1
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Compress the copy
    #[arg(short = 'c')]
    compress: bool,
    /// The copy's backing file: only what differs from it is copied
    #[arg(short = 'B', value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format
    #[arg(short = 'F', value_name = "FORMAT")]
    backing_format: Option<String>,
    /// How long a run of zeros must be to become a hole; 0 for no holes
    #[arg(short = 'S', value_name = "SIZE", default_value = "4k")]
    sparse: Size,
    /// Copy an internal snapshot: its name, or snapshot.name=NAME
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Show progress; it shows by itself after a second on a terminal
    #[arg(short = 'p')]
    progress: bool,
    /// Say nothing
    #[arg(short = 'q')]
    quiet: bool,
    /// Accepted for scripts: how many pieces are copied at a time
    #[arg(short = 'm', value_name = "N", hide = true)]
    at_a_time: Option<u32>,
    /// Accepted for scripts: the order of writes is not the disk's
    #[arg(short = 'W', hide = true)]
    out_of_order: bool,
    /// Accepted for scripts: the cache mode of the copy
    #[arg(short = 't', value_name = "CACHE", hide = true)]
    cache: Option<String>,
    /// Accepted for scripts: the cache mode of the image
    #[arg(short = 'T', value_name = "CACHE", hide = true)]
    source_cache: Option<String>,
    /// Copy even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The copy
    #[arg(value_name = "COPY")]
    copy: PathBuf,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let mut wanted = CreateOptions::parse(args.output_format.name(), &args.options)?;
    wanted.backing_file = args.backing.clone().or(wanted.backing_file);
    wanted.backing_format = args.backing_format.clone().or(wanted.backing_format);
    refuse_unsupported(&args)?;
    let mut source_options = options(args.format, args.trust);
    source_options.lock = !args.force_share;
    let source = open(context, &args.image, &source_options)?;
    let path = context.absolute(&args.copy);
    if same_file(source.path(), &path) {
        return Err(CommandError::new(ErrorKind::Refused, "the copy cannot take the place of the image"));
    }
    let watched = Watched::new(context, &source, if args.quiet { None } else { Some("converting") });
    let copied = match args.output_format {
        Format::Raw => to_raw(context, &watched, &path, args.sparse.0),
        Format::Qcow2 => {
            let options = qcow2_options(source.size(), &wanted)?;
            let below = open_below(context, &path, &wanted)?;
            to_qcow2(context, &watched, &path, &options, below.as_ref(), args.compress)
        }
    };
    // What stopped the copy is the signal, not the read that noticed it.
    context.interrupt().check()?;
    copied
}

fn to_raw(context: &Context, source: &dyn BlockRead, path: &Path, hole: u64) -> Result<(), CommandError> {
    let mut target = Target::create(context, path)?;
    target.file().resize(source.size().next_multiple_of(SECTOR))?;
    write_sparse(source, target.file(), hole)?;
    context.interrupt().check()?;
    target.publish()
}

fn to_qcow2(
    context: &Context,
    source: &dyn BlockRead,
    path: &Path,
    options: &qcow2::CreateOptions,
    below: Option<&Disk>,
    compress: bool,
) -> Result<(), CommandError> {
    let changed = match below {
        Some(below) => differences(source, below)?,
        None => data(source)?,
    };
    let content = Content::new(source, &changed);
    let content = below.map_or(content, |below| content.over(below));
    let mut target = Target::create(context, path)?;
    // More threads than that wait for the file.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let mut effort = Effort { threads, compress, progress: &mut |_| {} };
    write_image_with(target.file(), options, &content, &mut effort)?;
    context.interrupt().check()?;
    target.publish()
}

/// Opens the copy's backing file, whose name is relative to the folder of the copy at `path`.
fn open_below(context: &Context, path: &Path, wanted: &CreateOptions) -> Result<Option<Disk>, CommandError> {
    let Some(name) = &wanted.backing_file else { return Ok(None) };
    let format = backing_format(wanted)?;
    let below = path.parent().unwrap_or(Path::new("/")).join(name);
    let disk = open(context, &below, &options(Some(format), TrustArgs::OWN));
    disk.map(Some).map_err(|error| error.context("cannot open the copy's backing file"))
}

/// Returns the runs of `disk` that are not known to be zeros.
fn data(disk: &dyn BlockRead) -> Result<Vec<ByteRange>, CommandError> {
    let all = ByteRange::new(0, disk.size()).unwrap_or_default();
    let mut runs = Vec::new();
    for extent in extents(disk, all) {
        let extent = extent?;
        if !extent.reads_as_zeros() {
            runs.push(extent.range);
        }
    }
    Ok(runs)
}

fn refuse_unsupported(args: &Args) -> Result<(), CommandError> {
    if args.compress && args.output_format == Format::Raw {
        return Err(
            CommandError::new(ErrorKind::Usage, "the format `raw` is not compressed").hint("`-O qcow2` makes a copy that is")
        );
    }
    if args.snapshot.is_some() {
        return Err(CommandError::new(ErrorKind::Unsupported, "copying an internal snapshot is not supported"));
    }
    if args.backing.is_some() && args.output_format == Format::Raw {
        return Err(CommandError::new(ErrorKind::Usage, "the format `raw` has no backing file"));
    }
    Ok(())
}

fn same_file(image: &Path, copy: &Path) -> bool {
    matches!((image.canonicalize(), copy.canonicalize()), (Ok(image), Ok(copy)) if image == copy)
}

/// QEMU counts disks in sectors.
const SECTOR: u64 = 512;
