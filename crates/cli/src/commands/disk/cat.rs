//! `vmimg disk cat`: the contents of a guest's files.

use imgcore::fs::GuestPath;

use super::volume::{Volume, VolumeArgs};
use crate::context::Context;
use crate::error::CommandError;

/// The arguments of `vmimg disk cat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg disk cat debian-12.qcow2 /etc/os-release
  vmimg disk cat --partition 1 disk.raw /etc/passwd /etc/group")]
pub(super) struct Args {
    #[command(flatten)]
    volume: VolumeArgs,
    /// The files in the guest
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<GuestPath>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let volume = Volume::open(context, &args.volume)?;
    for path in &args.paths {
        context.interrupt().check()?;
        context.write_out(&volume.file_system().read(path, LIMIT)?)?;
    }
    Ok(())
}

/// More than this is not read into memory.
const LIMIT: u64 = 1 << 30;
