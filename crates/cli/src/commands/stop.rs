//! `vmimg stop`: ends machines.

use std::time::Duration;

use super::running::Running;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::machine::{MachineName, Root, RootArgs};

/// The arguments of `vmimg stop`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg stop web1
  vmimg stop web1 web2 --timeout 20 --force
  vmimg stop web1 --force

The guest is asked to shut down, as with its power button, and has a minute
for it. With --force it is switched off: when the time of --timeout has run
out, or else at once. A machine that does not run is left as it is.")]
pub struct Args {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<MachineName>,
    /// How many seconds each guest may take [default: 60, with --force 0]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Switch off what does not shut down in time
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    root: RootArgs,
}

/// Runs `vmimg stop`.
///
/// # Errors
///
/// [`ErrorKind::TimedOut`] when a guest does not end in time and is not to be switched off.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    args.names.iter().try_for_each(|name| stop(&args, context, &root, name))
}

fn stop(args: &Args, context: &Context, root: &Root, name: &MachineName) -> Result<(), CommandError> {
    root.load(name)?;
    let running = Running::find(context, root, name)?;
    if !running.state()?.is_active() {
        return Ok(());
    }
    let (_, hypervisor) = running.active()?;
    let seconds = args.timeout.unwrap_or(if args.force { 0 } else { 60 });
    let limit = Duration::from_secs(seconds);
    if !limit.is_zero() {
        let asked = hypervisor.shutdown();
        // A guest that cannot be asked can still be switched off.
        if asked.is_ok() && running.wait_for_end(limit)? {
            return Ok(());
        }
        if !args.force {
            asked?;
        }
    }
    if args.force {
        return hypervisor.destroy();
    }
    let message = format!("the guest of `{name}` has not shut down within {seconds} seconds");
    Err(CommandError::new(ErrorKind::TimedOut, message).hint("`--force` switches it off"))
}
