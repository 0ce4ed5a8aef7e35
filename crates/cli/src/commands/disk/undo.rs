//! `vmimg disk undo`: what a change has overwritten comes back.

use std::path::PathBuf;

use imgcore::block::UndoLog;
use imgcore::image::Format;
use imgcore::storage::{Access, FileDisk};
use serde::Serialize;

use super::change::about;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{TrustArgs, open, open_writable, options};
use crate::output::{ReportArgs, human_size, printable};

/// The arguments of `vmimg disk undo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FILE was made by a change with `--undo-log FILE`. It is applied only while every
byte that it is about is as before that change or as after it: a disk that was
written since is refused. After a power cut, or a failure, it is run again.

Examples:
  vmimg disk mkdir --undo-log srv.undo ext2.raw /srv
  vmimg disk undo ext2.raw srv.undo")]
pub(super) struct Args {
    /// The image's format; it is guessed otherwise
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The image has another path or address now than in the log
    #[arg(long)]
    moved: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The undo log
    #[arg(value_name = "FILE")]
    log: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// What was done, as JSON has it.
#[derive(Debug, Serialize)]
struct Undone {
    restored_bytes: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let log = UndoLog::open(FileDisk::open(&context.absolute(&args.log), Access::Read)?)?;
    let mut disk = open_writable(context, &args.image, &options(args.format, args.trust))?;
    let this = about(context, &args.image, disk.format())?;
    if this != log.about() && !args.moved {
        let message = format!("the undo log is about another disk: {}", printable(log.about()));
        return Err(CommandError::new(ErrorKind::Refused, message)
            .hint(format!("this one is {this}"))
            .hint("`--moved` applies it if it fits all the same: what the disk holds decides"));
    }
    context.interrupt().check()?;
    let restored_bytes = log.apply(&mut disk)?;
    disk.close()?;
    let options = options(Some(disk.format()), args.trust);
    drop(disk);
    let disk = open(context, &args.image, &options)?;
    if let Some(file) = disk.storage().as_file() {
        file.forget_all();
    }
    if log.count_changed(&disk)? > 0 {
        let message = format!("`{}` does not read back as it was written", args.image.display());
        return Err(CommandError::new(ErrorKind::Storage, message).hint("run this again"));
    }
    args.report.print(context, &Undone { restored_bytes }, |undone| match undone.restored_bytes {
        0 => "nothing to undo: the disk is as before the change\n".to_owned(),
        bytes => format!("{} restored\n", human_size(bytes)),
    })
}
