//! `vmimg disk mv`: another name for a file or folder of a guest.

use imgcore::fs::{Edit, EditPlan, FileKind, GuestPath};

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use super::dest::Dest;
use super::volume::Volume;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::ReportArgs;

/// The arguments of `vmimg disk mv`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is moved keeps its contents, owner, permissions and attributes. An existing
folder TO gets it under the name that it has.

Examples:
  vmimg disk mv web1.qcow2 /etc/motd /etc/motd.old
  vmimg disk mv web1.qcow2 /srv/new/www /srv")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// The name until now
    #[arg(value_name = "FROM")]
    from: GuestPath,
    /// The new name, or the folder to move it to
    #[arg(value_name = "TO")]
    to: Dest,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let path = {
        let volume = Volume::open(context, &args.change.volume)?;
        let found = volume.file_system().symlink_metadata(&args.from)?;
        args.to.of(volume.file_system(), args.from.name(), found.kind == FileKind::Directory)?
    };
    carry_out(context, &args.change, args.report, EditPlan { edits: vec![Edit::Rename { path, from: args.from }] })
}
