//! `vmimg nbd connect`: an image as a block device of this machine, as with `qemu-nbd --connect`.

mod attached;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use imgcore::block::{BlockRead, ByteRange, Joined};
use imgcore::image::Format;
use imgcore::nbd::attach::Device;
use imgcore::nbd::server::{Export, ServedDisk};
use seed::guest::VolumeId;

use super::serve::disk::{Overlays, Part, ReadOnly, Writable};
use crate::context::Context;
use crate::error::CommandError;
use crate::layout::Layout;
use crate::open::{self, TrustArgs};
use crate::output::{ReportArgs, warn};
use crate::tool::{Background, Tool};

/// The arguments of `vmimg nbd connect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It prints the device and its partitions, which are there when it returns, and
goes on in the background until `vmimg nbd disconnect`. However its processes
end, the device is disconnected.

Needs root and the kernel's nbd driver (`modprobe nbd`). This machine's own LVM
finds physical volumes on such a device; of `--partition` it sees no more than
the logical volume.

Examples:
  vmimg nbd connect web1.qcow2
  vmimg nbd connect --read-only -f raw disk.raw /dev/nbd3
  vmimg nbd connect --cow --foreground web1.qcow2
  vmimg nbd connect --partition debian/root web1.qcow2")]
pub(super) struct Args {
    /// The format of the image; it is guessed otherwise
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
    /// Make a device that can be read and not written
    #[arg(short = 'r', long)]
    read_only: bool,
    /// Let writes go to a private overlay, which is dropped at the end
    #[arg(long, conflicts_with = "read_only")]
    cow: bool,
    /// Connect this partition alone, or the logical volume GROUP/NAME
    #[arg(long, value_name = "N")]
    partition: Option<VolumeId>,
    /// Stay in front, until SIGINT, SIGTERM or `vmimg nbd disconnect`
    #[arg(long)]
    foreground: bool,
    /// The size of the device's logical blocks
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    block_size: u64,
    /// Fail a request that takes longer; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
    /// How long requests wait when the server is lost
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    dead_timeout: u64,
    /// Leave the terminal and the streams when ready
    #[arg(long, hide = true, requires = "foreground")]
    detach: bool,
    /// End when the standard input does
    #[arg(long, hide = true, requires = "foreground", conflicts_with = "detach")]
    attend: bool,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The device; the first free one otherwise
    #[arg(value_name = "DEVICE")]
    device: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let device = args.device.as_deref().map(str::parse::<Device>).transpose()?;
    if args.foreground {
        return attached::run(args, device, context);
    }
    let Background { status, stdout, stderr } = background(args, context)?.background()?;
    context.write_error(&String::from_utf8_lossy(&stderr));
    context.write_out(&stdout)?;
    match status {
        // It has said why.
        Some(status) => Err(CommandError::answer(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
        None => Ok(()),
    }
}

/// Returns a run of this program with the same arguments, to be started in the background.
fn background(args: &Args, context: &Context) -> Result<Tool, CommandError> {
    let mut tool = Tool::own(context)?.args(["nbd", "connect", "--foreground", "--detach"]);
    let numbers = [("--block-size", args.block_size), ("--timeout", args.timeout), ("--dead-timeout", args.dead_timeout)];
    for (name, number) in numbers {
        tool = tool.args([name, &number.to_string()]);
    }
    let flags = [
        ("--read-only", args.read_only),
        ("--cow", args.cow),
        ("--untrusted", args.trust.untrusted),
        ("--json", args.report.json),
    ];
    for (flag, _) in flags.iter().filter(|(_, given)| *given) {
        tool = tool.arg(flag);
    }
    if let Some(format) = &args.format {
        tool = tool.args(["--format", format]);
    }
    if let Some(id) = &args.partition {
        tool = tool.args(["--partition", &id.to_string()]);
    }
    Ok(tool.arg("--").arg(&args.image).args(&args.device))
}

/// Opens the image, or a part of it.
fn export(args: &Args, context: &Context) -> Result<Export, CommandError> {
    let (disk, place) = disk(args, context)?;
    let disk = match place {
        Some(place) => Box::new(Part(Joined::open(disk, &place)?)),
        None => disk,
    };
    Ok(Export::new("", disk, args.read_only))
}

/// A disk, and where a part of it lies when it is not all of the image.
type Served = (Box<dyn ServedDisk>, Option<Vec<ByteRange>>);

/// Opens the image, and finds the part of it that is meant.
fn disk(args: &Args, context: &Context) -> Result<Served, CommandError> {
    let options = open::options(args.format.as_deref().map(str::parse::<Format>).transpose()?, args.trust);
    let place = |disk: &dyn BlockRead| -> Result<Option<Vec<ByteRange>>, CommandError> {
        args.partition.as_ref().map(|id| Layout::read(disk)?.place(id)).transpose()
    };
    if args.read_only {
        let disk = open::open(context, &args.image, &options)?;
        let place = place(&disk)?;
        return Ok((Box::new(ReadOnly(disk)), place));
    }
    if args.cow {
        let base = Arc::new(open::open(context, &args.image, &options)?);
        let place = place(&base)?;
        return Ok((Overlays::new(base, context).make()?, place));
    }
    let disk = open::open_writable(context, &args.image, &options)?;
    if args.format.is_none() && disk.format() == Format::Raw {
        warn(context, format!("the format of `{}` was guessed to be raw; `-f raw` declares it", args.image.display()));
    }
    let place = place(&disk)?;
    if let Some(id) = &args.partition {
        Layout::read(&disk)?.refuse_read_only(id)?;
    }
    Ok((Box::new(Writable(disk)), place))
}

/// Returns the time that `seconds` is, if there is one.
fn limit(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}
