//! `vmimg nbd`: images over the Network Block Device protocol.

mod serve;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CommandError;

/// The arguments of `vmimg nbd`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve images to programs that speak NBD
    Serve(serve::Args),
}

/// Runs `vmimg nbd`.
///
/// # Errors
///
/// What the verb failed with.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.verb {
        Verb::Serve(args) => serve::run(&args, context),
    }
}
