//! `vmimg seed minion-key`: a key pair for a Salt minion.

use std::path::PathBuf;

use seed::keys::minion::MinionKey;

use super::RandomArgs;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::print_line;
use crate::publish::{Existing, publish, refuse_existing};

/// The arguments of `vmimg seed minion-key`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The fingerprint is printed as `salt-key --finger` shows it. The public half goes
to the master's pki/master/minions folder under the minion's id; the private
half is for the guest alone, and only its owner can read it.

Examples:
  vmimg seed minion-key --private minion.pem --public minion.pub
  vmimg seed minion-key --force --private web1.pem --public web1.pub")]
pub(super) struct Args {
    /// The file for the private key
    #[arg(long, value_name = "PEM")]
    private: PathBuf,
    /// The file for the public key
    #[arg(long, value_name = "PUB")]
    public: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    random: RandomArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let existing = Existing::from(args.force);
    let (private, public) = (context.absolute(&args.private), context.absolute(&args.public));
    refuse_existing(&private, existing)?;
    refuse_existing(&public, existing)?;
    let key = MinionKey::generate(&args.random.randomness(context, "minion"))?;
    context.interrupt().check()?;
    // The public half last: where it is, the private one is as well.
    publish(context, &private, key.private_pem().as_bytes(), 0o600, existing)?;
    publish(context, &public, key.public_pem().as_bytes(), 0o644, existing)?;
    print_line(context, key.finger()?)
}
