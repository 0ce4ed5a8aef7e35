//! `vmimg disk rm`: files and folders of a guest are removed.

use imgcore::fs::{Edit, EditPlan, Error, FileKind, GuestPath};

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use super::volume::Volume;
use crate::context::Context;
use crate::error::CommandError;
use crate::error::ErrorKind;
use crate::output::ReportArgs;

/// The arguments of `vmimg disk rm`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A link is removed, not what it leads to.

Examples:
  vmimg disk rm web1.qcow2 /etc/motd /etc/issue
  vmimg disk rm -r web1.qcow2 /var/lib/cloud")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// Remove folders with all that is in them
    #[arg(short = 'r', long)]
    recursive: bool,
    /// Pass over what does not exist
    #[arg(long)]
    force: bool,
    /// The files in the guest
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<GuestPath>,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let mut edits = Vec::new();
    let volume = Volume::open(context, &args.change.volume)?;
    for path in &args.paths {
        match volume.file_system().symlink_metadata(path) {
            Err(Error::NotFound(_)) if args.force => {}
            Ok(found) if found.kind == FileKind::Directory && !args.recursive => {
                let message = format!("`{path}` is a folder");
                return Err(CommandError::new(ErrorKind::Refused, message).hint("`-r` removes it with all that is in it"));
            }
            found => {
                found?;
                edits.push(Edit::Remove { path: path.clone() });
            }
        }
    }
    drop(volume);
    carry_out(context, &args.change, args.report, EditPlan { edits })
}
