//! `vmimg nbd keep`: the process beside a server that touches its device, and frees it when the server is gone.
//!
//! A process that waits for its own device cannot be killed while it does, and then nobody would answer it. So the server leaves
//! all that reads or writes the device to this one, which it tells what to do, a line each:
//!
//! ```text
//! watch N     /dev/nbdN is connected from now on, or soon     done
//! lock        keep udev from the device until the end         done
//! scan        read the partition table                        done | none
//! flush       make durable what was written                   done | used, when it is mounted
//! ```
//!
//! The answer may also be `failed: ` and why. At the end of its input, which is the end of the server, it disconnects the device
//! if that has not happened, and its partitions go.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use imgcore::nbd::attach::{Device, Error, Kernel};

use super::identity::Identity;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::print_line;

/// The arguments of `vmimg nbd keep`.
#[derive(Debug, clap::Args)]
#[command(about = "Free a device when its server is gone")]
pub(super) struct Args {
    /// What the device says about its server
    #[arg(value_name = "IDENTITY")]
    identity: OsString,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let identity = Identity::decode(args.identity.as_bytes());
    let identity = identity.ok_or_else(|| CommandError::new(ErrorKind::Usage, "this is no identity of a server"))?;
    let kernel = Kernel::open()?;
    let mut device = None;
    let lock = Mutex::new(None);
    let freed = thread::scope(|scope| {
        for line in io::stdin().lock().lines() {
            // A server that is killed may have written half a line, and is at its end.
            let Ok(line) = line else { break };
            if let Some(number) = line.strip_prefix("watch ").and_then(|number| number.parse().ok()) {
                device = Some(Device::new(number));
                say(context, Ok("done"));
                continue;
            }
            // Whoever waits for the device does not see the end of the server, which may be what it waits for.
            let lock = &lock;
            let work = move || say(context, answer(&line, device, lock));
            if thread::Builder::new().name("nbd keep".to_owned()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        context.interrupt().answer();
        // Who still reads the device gets an error now, and closes it.
        free(&identity, device, &kernel, &lock)
    });
    // Only now does nobody here find partitions any more, in what was read before the end.
    if let Some((device, identifier)) = freed? {
        forget_partitions(device, identifier.as_deref(), PATIENCE);
    }
    Ok(())
}

/// Disconnects the device of a server that is gone, if that has not happened. Returns it, unless it has a new server, and what it
/// said about the old one.
///
/// The lock is given up behind that: whoever waits for the server keeps others from closing the device.
fn free(
    identity: &Identity,
    device: Option<Device>,
    kernel: &Kernel,
    lock: &Mutex<Option<File>>,
) -> Result<Option<Freed>, CommandError> {
    let Some(device) = device else { return Ok(None) };
    let identifier = device.identifier();
    // Without netlink a device says no more than which thread has connected it, and ends with that.
    let is_ending = identifier.is_none() && device.is_left();
    if !identity.is_behind(device) && device.is_connected() && !is_ending {
        return Ok(None);
    }
    give_up(device);
    // It may be disconnected already, and only still be open somewhere.
    let done = if identity.is_behind(device) { kernel.disconnect(device) } else { Ok(()) };
    drop(lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    match done {
        Err(error) if device.is_connected() => Err(error.into()),
        _ => Ok(Some((device, identifier))),
    }
}

/// Has XFS end on a device that has lost its server. On its own it tries for ever to write what is not the log, while it mounts too,
/// and whoever waits for it cannot be killed.
///
/// Where `/sys` cannot be written, as in some containers, that stays so.
fn give_up(device: Device) {
    for node in device.partitions().into_iter().map(|partition| partition.path).chain([device.path()]) {
        let Some(name) = node.file_name() else { continue };
        let policy = Path::new("/sys/fs/xfs").join(name).join("error/metadata");
        for error in ["default", "EIO", "ENOSPC"] {
            let _unwritable = fs::write(policy.join(error).join("max_retries"), "0");
        }
    }
}

/// A device without a server, and what it said when it had one.
type Freed = (Device, Option<Vec<u8>>);

/// Says the answer to a line.
fn say(context: &Context, answer: Result<&'static str, Error>) {
    let line = match answer {
        Ok(answer) => answer.to_owned(),
        Err(error) => format!("failed: {error}"),
    };
    // Without a reader the input ends as well.
    let _lost = print_line(context, line).and_then(|()| context.flush());
}

/// Makes the kernel drop the partitions of a device that is disconnected, which it keeps until it looks again. Who has one of
/// them open has `patience` to close it; `identifier` is what the device said when it was connected.
pub(super) fn forget_partitions(device: Device, identifier: Option<&[u8]>, patience: Duration) {
    let begun = Instant::now();
    let mut pause = PAUSE;
    loop {
        if device.is_connected() {
            if device.identifier().as_deref() != identifier {
                // It has a new server.
                return;
            }
        } else if device.partitions().is_empty() || device.scan().is_ok() && device.partitions().is_empty() {
            return;
        }
        if begun.elapsed() > patience {
            return;
        }
        thread::sleep(pause);
        pause = pause.saturating_add(PAUSE).min(LONGEST_PAUSE);
    }
}

fn answer(line: &str, device: Option<Device>, lock: &Mutex<Option<File>>) -> Result<&'static str, Error> {
    let device = device.ok_or_else(|| Error::Unfit("no device was named".to_owned()))?;
    match line {
        "lock" => {
            let locked = device.lock()?;
            *lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(locked);
            Ok("done")
        }
        "scan" => Ok(if device.scan()? { "done" } else { "none" }),
        "flush" => {
            let used = matches!(device.claim(), Err(Error::InUse(_)));
            device.flush().map(|()| if used { "used" } else { "done" })
        }
        _ => Err(Error::Unfit(format!("`{line}` is not known"))),
    }
}

/// How long a process may have a partition open once the server is gone. Nobody waits for a keeper that long.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long after each other a device that is open elsewhere is looked at, at first and at last.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
