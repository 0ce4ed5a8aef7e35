//! `vmimg image rebase`: another backing file below an image.

use std::ffi::OsString;

use imgcore::block::BlockRead;
use imgcore::image::{self, Format, OpenOptions, RebaseOptions};
use imgcore::qcow2::NewBacking;

use super::reference::SourceArgs;
use super::watch::{READERS, Watch, threads};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::open_writable;

/// The arguments of `vmimg image rebase`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The disk stays as it is: what the new backing file shows differently is copied
into the image first. `-b ''` makes an image that needs no other file.

Examples:
  vmimg image rebase -f qcow2 -b debian-12.1.qcow2 -F qcow2 web1.qcow2
  vmimg image rebase -f qcow2 -b '' web1.qcow2
  vmimg image rebase -u -b moved/debian-12.qcow2 -F qcow2 web1.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The new backing file, as the image records it: relative to the image's
    /// folder; nothing between quotes for none
    #[arg(short = 'b', long, value_name = "FILE", required_unless_present = "unchecked")]
    backing: Option<String>,
    /// The new backing file's format
    #[arg(short = 'F', long, value_name = "FORMAT")]
    backing_format: Option<String>,
    /// Only change the record: the disk becomes what the new file shows
    #[arg(short = 'u', long = "backing-unsafe")]
    unchecked: bool,
    /// Compress what is copied into the image
    #[arg(short = 'c', long)]
    compress: bool,
    /// Show progress; it shows by itself after a second on a terminal
    #[arg(short = 'p', long)]
    progress: bool,
    /// Say nothing
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Accepted for scripts: the cache mode of the image
    #[arg(short = 't', long, value_name = "CACHE", hide = true)]
    cache: Option<String>,
    /// Accepted for scripts: the cache mode of the backing file
    #[arg(short = 'T', long, value_name = "CACHE", hide = true)]
    backing_cache: Option<String>,
    /// Work even while another program uses the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let backing = new_backing(args)?;
    let reference = args.source.reference(&args.image)?;
    let how =
        OpenOptions { lock: !args.force_share, follow: !args.unchecked, ..reference.options_to_write(args.source.trust)? };
    let mut disk = open_writable(context, &reference.path, &how)?;
    if args.unchecked {
        return Ok(image::record_backing(&mut disk, backing.as_ref())?);
    }
    let watch = Watch::new(context, "rebasing", disk.size(), args.quiet);
    let options = RebaseOptions { open: how, threads: threads().min(READERS), compress: args.compress };
    let rebased = image::rebase(&mut disk, backing.as_ref(), &options, &|offset| watch.tell(offset));
    // What stopped the work is the signal, not the read that noticed it.
    context.interrupt().check()?;
    Ok(rebased?)
}

/// Returns the backing file that is to be recorded.
fn new_backing(args: &Args) -> Result<Option<NewBacking>, CommandError> {
    let Some(name) = args.backing.as_ref().filter(|name| !name.is_empty()) else { return Ok(None) };
    let format = args.backing_format.as_deref().ok_or_else(|| {
        CommandError::new(ErrorKind::Usage, "the backing file's format is missing")
            .hint("`-F raw` or `-F qcow2` declares it, so that nobody has to guess")
    })?;
    let format: Format = format.parse().map_err(|error: image::Error| CommandError::from(error))?;
    Ok(Some(NewBacking { name: name.clone().into_bytes(), format: format.name().to_owned() }))
}
