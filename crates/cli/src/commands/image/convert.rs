//! `vmimg image convert`: an image copied to another format.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use imgcore::block::{self, BlockRead};
use imgcore::image::{self, ConvertOptions, Format, OpenPolicy};

use super::options::CreateOptions;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{TrustArgs, open, options};
use crate::progress::Progress;
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
    if args.snapshot.is_some() {
        return Err(CommandError::new(ErrorKind::Unsupported, "copying an internal snapshot is not supported"));
    }
    let mut wanted = CreateOptions::parse(args.output_format.name(), &args.options)?;
    wanted.backing_file = args.backing.or(wanted.backing_file);
    wanted.backing_format = args.backing_format.or(wanted.backing_format);
    let mut source_options = options(args.format, args.trust);
    source_options.lock = !args.force_share;
    let source = open(context, &args.image, &source_options)?;
    let path = context.absolute(&args.copy);
    if same_file(source.path(), &path) {
        return Err(CommandError::new(ErrorKind::Refused, "the copy cannot take the place of the image"));
    }
    let new = wanted.new_disk(args.output_format, source.size())?;
    let backing = wanted.backing()?;
    let below = backing.map(|backing| image::open_below(&path, &backing, OpenPolicy::PlainPaths)).transpose()?;
    let how = ConvertOptions {
        // More threads than that wait for the file.
        threads: std::thread::available_parallelism().map_or(1, usize::from).min(8),
        compress: args.compress,
        hole: args.sparse.0,
        sync: args.cache.as_deref() != Some("unsafe"),
        backing: below.as_ref().map(|disk| -> &dyn BlockRead { disk }),
    };
    let progress = (!args.quiet).then(|| Mutex::new(Progress::bytes(context, "converting", source.size())));
    let watch = |offset| {
        if let Some(progress) = &progress {
            progress.lock().unwrap_or_else(PoisonError::into_inner).set(offset);
        }
        let stopped = context.interrupt().is_set();
        if stopped { Err(block::Error::new(block::ErrorKind::Io, "interrupted")) } else { Ok(()) }
    };
    let copied = image::convert(&source, &path, &new, &how, context.entropy(None).next_u64(), &watch);
    // What stopped the copy is the signal, not the read that noticed it.
    context.interrupt().check()?;
    Ok(copied?)
}

fn same_file(image: &Path, copy: &Path) -> bool {
    matches!((image.canonicalize(), copy.canonicalize()), (Ok(image), Ok(copy)) if image == copy)
}
