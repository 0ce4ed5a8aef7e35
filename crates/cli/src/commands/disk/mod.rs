//! `vmimg disk`: what is inside an image, without mounting it.

mod cat;
mod change;
mod grow;
mod inject;
mod inspect;
mod ls;
mod manifest;
mod mkfs;
mod partitions;
mod resize;
mod volume;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CommandError;

/// The arguments of `vmimg disk`.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
An image is a qcow2 or raw file. `--partition` is needed only where it is not
clear which partition holds the root file system."
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what is on a disk: partitions, file systems and the guest
    Inspect(inspect::Args),
    /// Show the partition table
    Partitions(partitions::Args),
    /// List files in a guest
    Ls(ls::Args),
    /// Print files of a guest
    Cat(cat::Args),
    /// Put files, folders and links into a guest, all of them or none
    Inject(inject::Args),
    /// Give a partition and its file system the space that the disk has
    Grow(grow::Args),
    /// Give a file system a certain size
    Resize(resize::Args),
    /// Make a file system or swap space
    Mkfs(mkfs::Args),
}

/// Runs `vmimg disk`.
///
/// # Errors
///
/// What the verb failed with.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.verb {
        Verb::Inspect(args) => inspect::run(&args, context),
        Verb::Partitions(args) => partitions::run(&args, context),
        Verb::Ls(args) => ls::run(&args, context),
        Verb::Cat(args) => cat::run(&args, context),
        Verb::Inject(args) => inject::run(&args, context),
        Verb::Grow(args) => grow::run(&args, context),
        Verb::Resize(args) => resize::run(&args, context),
        Verb::Mkfs(args) => mkfs::run(&args, context),
    }
}
