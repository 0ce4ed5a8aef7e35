//! `vmimg image commit`: what an image holds, written into the image below.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use imgcore::block::{self, ByteRange};
use imgcore::image::{self, CommitOptions};

use super::reference::SourceArgs;
use super::watch::{READERS, Rate, Watch, threads};
use crate::context::Context;
use crate::error::CommandError;
use crate::output::print_line;
use crate::place::Place;
use crate::size::Size;

/// The arguments of `vmimg image commit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The image is empty afterwards, and shows the same disk. Other overlays of the
backing file show something else then; so do the images above BASE with -b.

Examples:
  vmimg image commit -f qcow2 web1.qcow2
  vmimg image commit -d -b debian-12.qcow2 web1.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The image of the backing chain to write into, and keep the image as it is
    #[arg(short = 'b', long, value_name = "BASE")]
    base: Option<PathBuf>,
    /// Keep what the image holds
    #[arg(short = 'd')]
    drop: bool,
    /// Write at most so many bytes in a second
    #[arg(short = 'r', long = "rate", value_name = "RATE")]
    rate: Option<Size>,
    /// Show progress; it shows by itself after a second on a terminal
    #[arg(short = 'p', long)]
    progress: bool,
    /// Say nothing
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Accepted for scripts: the cache mode of the images
    #[arg(short = 't', long, value_name = "CACHE", hide = true)]
    cache: Option<String>,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let reference = args.source.reference(&args.image)?;
    let open = reference.options_to_write(args.source.trust)?;
    let path = Place::of(context, &reference.path)?.file("a commit")?;
    let base = args.base.as_deref().map(|base| find(&path, base, context));
    let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let watch = Watch::new(context, "committing", size, args.quiet);
    let rate = args.rate.map(|rate| Rate::new(rate.0));
    let tell = |piece: ByteRange| -> Result<(), block::Error> {
        if let Some(rate) = &rate {
            rate.wait(piece.len(), context.interrupt());
        }
        watch.advance(piece.len())
    };
    let how = CommitOptions { open, base: base.as_deref(), keep: args.drop, threads: threads().min(READERS) };
    let committed = image::commit(&path, &how, &tell);
    // What stopped the work is the signal, not the read that noticed it.
    context.interrupt().check()?;
    committed?;
    if args.quiet { Ok(()) } else { print_line(context, "Image committed.") }
}

/// Returns the path of the base: taken from the working folder, or else as the image's backing files are, from its folder.
fn find(image: &Path, base: &Path, context: &Context) -> PathBuf {
    let here = context.absolute(base);
    let beside = image.parent().unwrap_or(Path::new("")).join(base);
    if !here.exists() && beside.exists() { beside } else { here }
}
