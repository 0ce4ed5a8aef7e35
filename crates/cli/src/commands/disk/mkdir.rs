//! `vmimg disk mkdir`: folders in a guest.

use imgcore::fs::{Attributes, Edit, EditPlan, GuestPath};

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use super::chmod::octal;
use super::chown::Owner;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::ReportArgs;

/// The arguments of `vmimg disk mkdir`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A folder that exists is left as it is, but for what the options set; folders
above it are made when missing.

Examples:
  vmimg disk mkdir web1.qcow2 /srv/www /srv/log
  vmimg disk mkdir --mode 0750 --owner 33:33 web1.qcow2 /srv/www")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// The permission bits, in octal
    #[arg(long, value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,
    /// The owner's and the group's number
    #[arg(long, value_name = "UID:GID")]
    owner: Option<Owner>,
    /// Accepted out of habit: folders above are always made
    #[arg(short = 'p', long = "parents", hide = true)]
    _parents: bool,
    /// The folders in the guest
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<GuestPath>,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let mut attributes = Attributes { mode: args.mode, ..Attributes::default() };
    if let Some(owner) = args.owner {
        owner.set(&mut attributes);
    }
    let edits = args.paths.into_iter().map(|path| Edit::CreateDir { path, attributes: attributes.clone() }).collect();
    carry_out(context, &args.change, args.report, EditPlan { edits })
}
