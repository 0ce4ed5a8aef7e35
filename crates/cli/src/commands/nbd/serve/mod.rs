//! `vmimg nbd serve`: images for programs that speak NBD, as with qemu-nbd.

pub(super) mod disk;
mod listen;
mod pump;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use imgcore::block::BlockRead;
use imgcore::image::{Disk, Format, OpenOptions};
use imgcore::nbd::server::{Export, Limits, Server, Until};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{self, TrustArgs};
use crate::output::{print_line, warn};
use disk::{Overlays, ReadOnly, Writable};
use listen::ListenArgs;
use tls::TlsArgs;

/// The arguments of `vmimg nbd serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --socket, --listen and systemd's sockets, it listens on 127.0.0.1:10809.
It says where, then serves until SIGTERM or SIGINT, which lets requests end and
makes everything durable.

One image is the default export, of the name ''. Several have the names of their
files. `--name` gives others, first to last.

Examples:
  vmimg nbd serve --socket /run/web1.sock web1.qcow2
  vmimg nbd serve -r --listen 127.0.0.1:0 debian-12.qcow2
  vmimg nbd serve --cow --once -f raw disk.raw
  vmimg nbd serve --tls-creds /etc/pki/qemu --listen 0.0.0.0:10809 web1.qcow2
  vmimg nbd serve --tls-psk keys.psk --listen 0.0.0.0:10809 web1.qcow2
  vmimg nbd serve --name root --name data -k s.sock root.qcow2 data.raw")]
pub(super) struct Args {
    #[command(flatten)]
    listen: ListenArgs,
    /// The format of the images; it is guessed otherwise
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
    /// The name of an export, as clients ask for it; once for each image
    #[arg(short = 'x', long = "name", alias = "export-name", value_name = "NAME")]
    names: Vec<String>,
    /// What clients show to people about the exports
    #[arg(short = 'D', long, value_name = "TEXT")]
    description: Option<String>,
    /// Let clients read and not write
    #[arg(short = 'r', long)]
    read_only: bool,
    /// Give each client its own copy, whose changes are dropped when it leaves
    #[arg(short = 's', long, alias = "snapshot", conflicts_with = "read_only")]
    cow: bool,
    /// How many clients there may be at once; 0 for as many as possible
    #[arg(short = 'e', long, value_name = "N", default_value_t = 64)]
    shared: usize,
    /// Drop clients that take more seconds to say what they want
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    handshake_limit: u64,
    /// Go on when the last client has left, as without it
    #[arg(short = 't', long)]
    persistent: bool,
    /// End when the last client has left
    #[arg(long, conflicts_with = "persistent")]
    once: bool,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// The images
    #[arg(value_name = "IMG", required = true)]
    images: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let names = names(args)?;
    let options = open::options(args.format.as_deref().map(str::parse::<Format>).transpose()?, args.trust);
    let tls = args.tls.open(context)?;
    // Sockets come first: what is wrong with them has touched no image.
    let mut sockets = listen::open(&args.listen, context)?;
    let mut exports = Vec::new();
    for (image, name) in args.images.iter().zip(&names) {
        let export = export(args, context, image, name, &options)?;
        exports.push(match &args.description {
            Some(text) => export.described(text),
            None => export,
        });
    }
    let limits = Limits {
        clients: if args.shared == 0 { MOST_CLIENTS } else { args.shared },
        handshake_time: Duration::from_secs(args.handshake_limit),
        ..Limits::default()
    };
    let (report, reports) = std::sync::mpsc::sync_channel::<String>(64);
    // Who serves does not wait for whoever reads the messages; what does not fit is lost.
    let mut server = Server::new(exports, limits, Box::new(move |line| drop(report.try_send(line.to_owned()))));
    let scheme = if tls.is_some() { "nbds" } else { "nbd" };
    if let Some(tls) = tls {
        server = server.with_tls(Box::new(tls));
    }
    for name in &names {
        for place in sockets.uris(scheme, name) {
            print_line(context, place)?;
        }
    }
    context.flush()?;
    let until = if args.once { Until::Unused } else { Until::Stopped };
    context.interrupt().begin_to_serve();
    let served = server.serve(&sockets.take(), until, || {
        reports.try_iter().for_each(|line| warn(context, line));
        context.interrupt().is_set()
    });
    reports.try_iter().for_each(|line| warn(context, line));
    // What went wrong is not hidden by the signal that a server ends by.
    context.interrupt().answer();
    served.map_err(|error| CommandError::io("cannot serve", error))
}

/// Returns the names of the exports, in the order of the images.
fn names(args: &Args) -> Result<Vec<String>, CommandError> {
    if args.names.len() > args.images.len() {
        return Err(usage("there are more names than images"));
    }
    let mut names = args.names.clone();
    for image in args.images.iter().skip(names.len()) {
        let file = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.push(if args.images.len() == 1 { String::new() } else { file });
    }
    if names.iter().any(|name| name.len() > LONGEST_NAME || name.contains('\0')) {
        return Err(usage("the name of an export has at most 4096 bytes"));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some([twice, _]) = sorted.array_windows().find(|[a, b]| a == b) {
        return Err(usage(&format!("two exports have the name `{twice}`")).hint("`--name` gives the images names, in order"));
    }
    Ok(names)
}

fn export(
    args: &Args,
    context: &Context,
    image: &std::path::Path,
    name: &str,
    options: &OpenOptions,
) -> Result<Export, CommandError> {
    let guessed = |format| {
        if args.format.is_none() && format == Format::Raw && !args.read_only {
            warn(context, format!("the format of `{}` was guessed to be raw; `-f raw` declares it", image.display()));
        }
    };
    if !args.read_only && !args.cow {
        let disk = open::open_writable(context, image, options)?;
        guessed(disk.format());
        return Ok(Export::new(name, Box::new(Writable(disk)), false));
    }
    let disk: Disk = open::open(context, image, options)?;
    guessed(disk.format());
    if args.read_only {
        return Ok(Export::new(name, Box::new(ReadOnly(disk)), true));
    }
    let size = disk.size();
    let overlays = Overlays::new(Arc::new(disk), context);
    Ok(Export::private(name, size, move || overlays.make()))
}

fn usage(message: &str) -> CommandError {
    CommandError::new(ErrorKind::Usage, message)
}

/// Clients where the user sets no limit.
const MOST_CLIENTS: usize = 1024;

/// Bytes of a name, by the protocol.
const LONGEST_NAME: usize = imgcore::nbd::wire::MAX_STRING;
