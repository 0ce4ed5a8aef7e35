//! `vmimg image compare`: do two disks hold the same.

use std::ffi::OsString;

use imgcore::block::BlockRead;
use imgcore::image::{self, CompareError, CompareOptions, Comparison, Disk};

use super::reference::ImageReference;
use super::watch::{Watch, threads};
use crate::context::Context;
use crate::error::CommandError;
use crate::open::TrustArgs;
use crate::output::print_line;

/// The arguments of `vmimg image compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Where one disk ends, it counts as zeros. Exit status: 0 the same, 1 different,
2 an image cannot be opened, 3 its tables or 4 its contents cannot be read.

Examples:
  vmimg image compare web1.qcow2 copy.raw
  vmimg image compare -q -f raw -F qcow2 disk.raw disk.qcow2")]
pub(super) struct Args {
    /// The first image's format; it is guessed otherwise
    #[arg(short = 'f', long = "a-format", value_name = "FORMAT")]
    format: Option<String>,
    /// The second image's format; it is guessed otherwise
    #[arg(short = 'F', long = "b-format", value_name = "FORMAT")]
    second_format: Option<String>,
    /// IMG is options, as in driver=qcow2,file.filename=FILE
    #[arg(long)]
    image_opts: bool,
    /// The sizes must be the same as well, and what is allocated
    #[arg(short = 's', long)]
    strict: bool,
    /// Print progress; a bar shows by itself after a second on a terminal
    #[arg(short = 'p', long)]
    progress: bool,
    /// Say nothing
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Accepted for scripts: the cache mode of the images
    #[arg(short = 'T', long, value_name = "CACHE", hide = true)]
    cache: Option<CacheMode>,
    /// Compare even while another program writes to the images
    #[arg(short = 'U', long)]
    force_share: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// The first image
    #[arg(value_name = "IMG")]
    first: OsString,
    /// The second image
    #[arg(value_name = "OTHER")]
    second: OsString,
}

/// QEMU's cache modes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum CacheMode {
    None,
    Writeback,
    Writethrough,
    Directsync,
    Unsafe,
    Off,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let compared = compare(args, context);
    if args.progress && !args.quiet {
        context.write_out(b"\n")?;
    }
    compared
}

fn compare(args: &Args, context: &Context) -> Result<(), CommandError> {
    let open = |name, format: &Option<String>| -> Result<Disk, CommandError> {
        let reference = ImageReference::parse(name, format.as_deref(), args.image_opts)?.shared(args.force_share);
        reference.open(context, args.trust)
    };
    let first = open(&args.first, &args.format).map_err(|error| error.with_status(NOT_OPENED))?;
    let second = open(&args.second, &args.second_format).map_err(|error| error.with_status(NOT_OPENED))?;
    let say = |line: &str| if args.quiet { Ok(()) } else { print_line(context, line) };
    let sizes = [first.size(), second.size()].map(|size| size.next_multiple_of(512));
    let (shorter, longer) = (sizes[0].min(sizes[1]), sizes[0].max(sizes[1]));
    let watch = Watch::new(context, "comparing", longer, args.quiet).percent(args.progress && !args.quiet)?;
    if args.strict && sizes[0] != sizes[1] {
        say("Strict mode: Image size mismatch!")?;
        return Err(CommandError::answer(DIFFERENT));
    }
    let how = CompareOptions { strict: args.strict, threads: threads() };
    let compared = image::compare(&first, &second, &how, &|offset| watch.tell(offset));
    // What stopped the work is the signal, not the read that noticed it.
    context.interrupt().check()?;
    let compared = compared.map_err(|error| match error {
        CompareError::Map(error) => CommandError::from(error).with_status(NOT_MAPPED),
        CompareError::Read(error) => CommandError::from(error).with_status(NOT_READ),
        other => CommandError::new(crate::error::ErrorKind::Unexpected, other.to_string()).with_status(NOT_READ),
    })?;
    let behind = match compared {
        Comparison::Content(offset) | Comparison::Storage(offset) => offset >= shorter,
        Comparison::Identical => true,
    };
    if shorter < longer && behind {
        say("Warning: Image size mismatch!")?;
    }
    match compared {
        Comparison::Identical => {
            watch.complete()?;
            drop(watch);
            return say("Images are identical.");
        }
        Comparison::Content(offset) => say(&format!("Content mismatch at offset {offset}!"))?,
        Comparison::Storage(offset) => say(&format!("Strict mode: Offset {offset} block status mismatch!"))?,
    }
    Err(CommandError::answer(DIFFERENT))
}

/// The images differ.
const DIFFERENT: u8 = 1;
/// An image cannot be opened.
const NOT_OPENED: u8 = 2;
/// How an image is stored cannot be found out.
const NOT_MAPPED: u8 = 3;
/// An image cannot be read.
const NOT_READ: u8 = 4;
