//! `vmimg nbd keep`: the process beside a server that touches its device, and frees it when the server is gone.
//!
//! A process that waits for its own device cannot be killed while it does, and then nobody would answer it. So the server leaves
//! all that reads or writes the device to this one, which it tells what to do, a line each:
//!
//! ```text
//! watch N     /dev/nbdN is about to be connected              done
//! connected   it is                                           done
//! leave       it is not, and will not be                      done
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

use imgcore::nbd::attach::{Connection, Device, Error, Kernel};

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
    /// The device, when it is connected already
    #[arg(value_name = "N")]
    device: Option<u32>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let identity = Identity::decode(args.identity.as_bytes());
    let identity = identity.ok_or_else(|| CommandError::new(ErrorKind::Usage, "this is no identity of a server"))?;
    let kernel = Kernel::open()?;
    let mut watched = args.device.map(|number| Watched { device: Device::new(number), connection: None });
    let lock = Mutex::new(None);
    let freed = thread::scope(|scope| {
        for line in io::stdin().lock().lines() {
            // A server that is killed may have written half a line, and is at its end.
            let Ok(line) = line else { break };
            if let Some(now) = follow(&line, watched.as_ref()) {
                watched = now;
                say(context, Ok("done"));
                continue;
            }
            // Whoever waits for the device does not see the end of the server, which may be what it waits for.
            let (device, lock) = (watched.as_ref().map(|watched| watched.device), &lock);
            let work = move || say(context, answer(&line, device, lock));
            if thread::Builder::new().name("nbd keep".to_owned()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        context.interrupt().answer();
        // Who still reads the device gets an error now, and closes it.
        free(&identity, watched, &kernel, &lock)
    });
    // Only now does nobody here find partitions any more, in what was read before the end.
    if let Some(Watched { device, connection }) = freed? {
        forget_partitions(device, connection.as_ref(), PATIENCE);
    }
    Ok(())
}

/// A device that has a server or is about to, and the connection once there is one.
#[derive(Debug)]
struct Watched {
    device: Device,
    connection: Option<Connection>,
}

/// Returns what is watched from now on, if `line` is about that.
fn follow(line: &str, watched: Option<&Watched>) -> Option<Option<Watched>> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("watch", number) => Some(Some(Watched { device: Device::new(number.parse().ok()?), connection: None })),
        ("connected", "") => {
            let connected = |watched: &Watched| Watched { device: watched.device, connection: watched.device.connection() };
            Some(watched.map(connected))
        }
        ("leave", "") => Some(None),
        _ => None,
    }
}

/// Disconnects the device of a server that is gone, if that has not happened. Returns it with its last connection, unless it has a
/// new one.
///
/// The lock is given up behind that: whoever waits for the server keeps others from closing the device.
fn free(
    identity: &Identity,
    watched: Option<Watched>,
    kernel: &Kernel,
    lock: &Mutex<Option<File>>,
) -> Result<Option<Watched>, CommandError> {
    let Some(Watched { device, connection }) = watched else { return Ok(None) };
    let now = device.connection();
    let own = now.as_ref().filter(|now| connection.as_ref().map_or_else(|| identity.is_of(now), |own| own == *now));
    // A server that was gone before it could say that it had a connection; this one ends by itself.
    let is_ending = |now: &Connection| connection.is_none() && now.identifier().is_none() && now.process().is_none();
    if own.is_none() && now.as_ref().is_some_and(|now| !is_ending(now)) {
        return Ok(None);
    }
    give_up(device);
    // It may be disconnected already, and only still be open somewhere.
    let done = own.map_or(Ok(()), |_| kernel.disconnect(device));
    drop(lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    match (done, own) {
        // What netlink has connected lasts until it is told to end.
        (Err(error), Some(own)) if own.identifier().is_some() && device.connection().as_ref() == Some(own) => Err(error.into()),
        _ => Ok(Some(Watched { device, connection: now.or(connection) })),
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
/// them open has `patience` to close it; `last` is the connection that has ended, or is about to.
pub(super) fn forget_partitions(device: Device, last: Option<&Connection>, patience: Duration) {
    let begun = Instant::now();
    let mut pause = PAUSE;
    loop {
        match device.connection() {
            // It has a new server.
            Some(now) if Some(&now) != last => return,
            Some(_) => {}
            None if !device.has_partitions() || device.scan().is_ok() && !device.has_partitions() => return,
            None => {}
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
