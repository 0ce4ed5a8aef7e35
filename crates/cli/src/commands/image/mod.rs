//! `vmimg image`: qemu-img's verbs, spelling, output and exit codes.

mod amend;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod convert_options;
mod create;
mod dd;
mod info;
mod map;
mod measure;
mod options;
mod output;
mod rebase;
mod reference;
mod resize;
mod snapshot;
mod watch;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CommandError;
use crate::open::TrustArgs;

/// The arguments of `vmimg image`.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    // As with qemu-img, of what is said twice the last counts.
    args_override_self = true,
    display_name = "vmimg",
    // Scripts look for the words `qemu-img version` and what follows them.
    version = concat!(env!("CARGO_PKG_VERSION"), ", with the command lines of qemu-img version 10.0.2"),
    after_help = "\
These take the command lines of qemu-img, print the same, and return the same
codes: `alias qemu-img='vmimg image'` keeps scripts working.

Plain paths that an image names are followed, and nothing else. --untrusted
follows none, and refuses a file that could be taken for two formats."
)]
pub struct Args {
    // Every verb has it as well, so that it may come before the verb or behind it.
    #[command(flatten)]
    trust: TrustArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what an image is
    Info(info::Args),
    /// Make a new image, empty or on top of another
    Create(create::Args),
    /// Copy an image to another format
    Convert(convert::Args),
    /// Change the size of an image
    Resize(resize::Args),
    /// List, take, apply or delete snapshots inside an image
    Snapshot(snapshot::Args),
    /// Change the properties of an image
    Amend(amend::Args),
    /// Check whether an image is sound
    Check(check::Args),
    /// Change a persistent bitmap of an image
    Bitmap(bitmap::Args),
    /// Write what an image holds into the image below it
    Commit(commit::Args),
    /// Put another backing file below an image, or none
    Rebase(rebase::Args),
    /// Show which image stores which bytes of a disk, and where
    Map(map::Args),
    /// Compare what two disks hold
    Compare(compare::Args),
    /// Show how large a new image would become
    Measure(measure::Args),
    /// Copy a part of a disk to a new image
    Dd(dd::Args),
    /// Measure how fast an image is read or written
    Bench(bench::Args),
}

/// Runs `vmimg image`.
///
/// # Errors
///
/// What the verb failed with.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.verb {
        Verb::Info(args) => info::run(&args, context),
        Verb::Create(args) => create::run(args, context),
        Verb::Convert(args) => convert::run(args, context),
        Verb::Resize(args) => resize::run(&args, context),
        Verb::Snapshot(args) => snapshot::run(&args, context),
        Verb::Amend(args) => amend::run(&args, context),
        Verb::Check(args) => check::run(&args, context),
        Verb::Bitmap(args) => bitmap::run(&args, context),
        Verb::Commit(args) => commit::run(&args, context),
        Verb::Rebase(args) => rebase::run(&args, context),
        Verb::Map(args) => map::run(&args, context),
        Verb::Compare(args) => compare::run(&args, context),
        Verb::Measure(args) => measure::run(&args, context),
        Verb::Dd(args) => dd::run(&args, context),
        Verb::Bench(args) => bench::run(&args, context),
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::Args;

    #[test]
    fn every_verb_takes_untrusted_images_and_those_that_read_one_take_options() {
        // Not built: a flag of `image` itself is not handed down yet.
        let command = Args::augment_args(clap::Command::new("image"));
        for verb in command.get_subcommands() {
            let has = |long: &str| verb.get_arguments().any(|arg| arg.get_long() == Some(long));
            assert!(has("untrusted"), "{}", verb.get_name());
            // These alone have no image to read.
            assert!(has("image-opts") || verb.get_name() == "create", "{}", verb.get_name());
        }
    }
}
