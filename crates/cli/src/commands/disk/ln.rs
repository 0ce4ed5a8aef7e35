//! `vmimg disk ln`: links in a guest.

use imgcore::fs::{Attributes, Edit, EditPlan, GuestPath};

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use crate::context::Context;
use crate::error::CommandError;
use crate::error::ErrorKind;
use crate::output::ReportArgs;

/// The arguments of `vmimg disk ln`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without `-s` the file gets one more name; both mean the same file. With it a link
is made whose text is TARGET as it is written. What is at LINK is replaced, but
for a folder.

Examples:
  vmimg disk ln -s web1.qcow2 ../usr/share/zoneinfo/UTC /etc/localtime
  vmimg disk ln web1.qcow2 /etc/motd /etc/issue")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// Make a symbolic link
    #[arg(short = 's', long)]
    symbolic: bool,
    /// The text of the link, or the file
    #[arg(value_name = "TARGET")]
    target: String,
    /// The new name
    #[arg(value_name = "LINK")]
    path: GuestPath,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let edit = if args.symbolic {
        Edit::Symlink { path: args.path, target: args.target, attributes: Attributes::default() }
    } else {
        let target = GuestPath::new(&args.target).map_err(|error| {
            let message = format!("`{}` is no file of the guest", args.target);
            CommandError::new(ErrorKind::Usage, message)
                .with_source(error)
                .hint("`-s` makes a symbolic link, which may be relative")
        })?;
        Edit::HardLink { path: args.path, target }
    };
    carry_out(context, &args.change, args.report, EditPlan { edits: vec![edit] })
}
