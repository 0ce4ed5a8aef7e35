//! `vmimg nbd`: images over the Network Block Device protocol.

mod connect;
mod disconnect;
mod identity;
mod keep;
mod keeper;
mod list;
mod report;
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
    /// Put an image behind /dev/nbdX
    Connect(connect::Args),
    /// Take the image from behind /dev/nbdX, with all that was written
    Disconnect(disconnect::Args),
    /// List the nbd devices that are connected
    List(list::Args),
    #[command(hide = true)]
    Keep(keep::Args),
}

/// Runs `vmimg nbd`.
///
/// # Errors
///
/// What the verb failed with.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.verb {
        Verb::Serve(args) => serve::run(&args, context),
        Verb::Connect(args) => connect::run(&args, context),
        Verb::Disconnect(args) => disconnect::run(&args, context),
        Verb::List(args) => list::run(args, context),
        Verb::Keep(args) => keep::run(&args, context),
    }
}
