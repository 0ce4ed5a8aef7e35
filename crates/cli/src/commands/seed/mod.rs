//! `vmimg seed`: what a guest reads at its first boot.

mod config_drive;
mod iso_image;
mod minion_key;
mod nocloud;
mod sources;

use clap::Subcommand;
use seed::identity::Randomness;

use crate::context::Context;
use crate::error::CommandError;

/// The arguments of `vmimg seed`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a NoCloud seed for cloud-init
    Nocloud(nocloud::Args),
    /// Make an OpenStack config drive for cloud-init
    ConfigDrive(config_drive::Args),
    /// Make an ISO image of a folder
    Iso(iso_image::Args),
    /// Make a key pair for a Salt minion
    MinionKey(minion_key::Args),
}

/// Runs `vmimg seed`.
///
/// # Errors
///
/// What the verb failed with.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.verb {
        Verb::Nocloud(args) => nocloud::run(&args, context),
        Verb::ConfigDrive(args) => config_drive::run(&args, context),
        Verb::Iso(args) => iso_image::run(&args, context),
        Verb::MinionKey(args) => minion_key::run(&args, context),
    }
}

/// What is random about a seed.
#[derive(Debug, clap::Args)]
struct RandomArgs {
    /// Draw everything random from this text: the same text gives the same
    /// bytes, and whoever knows it knows the keys
    #[arg(long, value_name = "TEXT")]
    seed_value: Option<String>,
}

impl RandomArgs {
    /// Returns the source of everything random about the machine `name`.
    fn randomness(&self, context: &Context, name: &str) -> Randomness {
        match &self.seed_value {
            Some(text) => Randomness::from_seed_value(text, name),
            None => Randomness::from_entropy(&mut *context.entropy(None)),
        }
    }
}
