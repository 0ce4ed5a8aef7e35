use crate::context::Context;
use crate::error::CommandError;
use crate::machine::RootArgs;
use crate::store::{ImageName, remove};

/// The arguments of `vmimg store remove`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg store remove debian-11")]
pub(super) struct Args {
    /// The images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<ImageName>,
    #[command(flatten)]
    root: RootArgs,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    args.names.iter().try_for_each(|name| remove(&root, name))
}
