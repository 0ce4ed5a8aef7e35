//! `vmimg store`: base images by name.

mod add;
mod list;
mod remove;
mod verify;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CommandError;

/// The arguments of `vmimg store`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Copy an image into the store
    Add(add::Args),
    /// List the images in the store, or those that can be downloaded
    List(list::Args),
    /// Read images and compare them with what was added
    Verify(verify::Args),
    /// Remove images that no machine is on
    Remove(remove::Args),
}

/// Runs `vmimg store`.
///
/// # Errors
///
/// What the subcommand failed with.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.what {
        What::Add(args) => add::run(args, context),
        What::List(args) => list::run(args, context),
        What::Verify(args) => verify::run(args, context),
        What::Remove(args) => remove::run(args, context),
    }
}
