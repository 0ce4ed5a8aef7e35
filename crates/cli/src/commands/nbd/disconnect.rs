//! `vmimg nbd disconnect`: a device without its server again.

use std::fs;
use std::time::{Duration, Instant};

use imgcore::nbd::attach::{Connection, Device, Error, Kernel};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::identity::Identity;
use super::keep::forget_partitions;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::warn;

/// The arguments of `vmimg nbd disconnect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What was written to the device is in the image, and durable, when this returns.
A device that is mounted is refused.

Examples:
  vmimg nbd disconnect /dev/nbd0
  vmimg nbd disconnect --force nbd0")]
pub(super) struct Args {
    /// Disconnect a device that is mounted, or whose server is lost
    #[arg(long)]
    force: bool,
    /// The device
    #[arg(value_name = "DEVICE")]
    device: String,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let device: Device = args.device.parse()?;
    let connection = device.connection().ok_or_else(|| Error::NotConnected(device.path()))?;
    let kernel = Kernel::open()?;
    let server = server(&connection);
    // While it is held nobody can mount the device.
    let claimed = if args.force { None } else { Some(device.claim()?) };
    if let Err(error) = device.flush() {
        let error = CommandError::from(error);
        if !args.force {
            return Err(error.hint("`--force` disconnects it nevertheless, and what was not written is lost"));
        }
        warn(context, format!("what was written last may be lost: {error}"));
    }
    kernel.disconnect(device)?;
    drop(claimed);
    if let Some(server) = server {
        wait(&server, device, context)?;
    }
    if !args.force {
        forget_partitions(device, Some(&connection), GLANCE);
    }
    Ok(())
}

/// Returns the process of this program that serves a device.
fn server(connection: &Connection) -> Option<OwnedFd> {
    let process = connection.process()?;
    let name = |process: &str| fs::read(format!("/proc/{process}/comm")).ok();
    let is_own = match connection.identifier() {
        // One of another process namespace has another number there.
        Some(_) => Identity::of(connection)?.pid == process,
        None => name(&process.to_string())? == name("self")?,
    };
    is_own.then(|| pidfd_open(Pid::from_raw(i32::try_from(process).ok()?)?, PidfdFlags::empty()).ok()).flatten()
}

/// Waits for the server to write what it holds and to end.
fn wait(server: &OwnedFd, device: Device, context: &Context) -> Result<(), CommandError> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        context.interrupt().check()?;
        // A signal ends the wait as well.
        if poll(&mut [PollFd::new(server, PollFlags::IN)], Some(&STEP)).is_ok_and(|ready| ready > 0) {
            return Ok(());
        }
    }
    let message = format!("`{}` is disconnected, but its server still writes", device.path().display());
    Err(CommandError::new(ErrorKind::TimedOut, message).hint("the image stays locked until the server ends"))
}

/// How long a server may write what it holds.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How long those may take who look at a partition and do not use it.
const GLANCE: Duration = Duration::from_secs(30);
