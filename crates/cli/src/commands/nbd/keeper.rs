//! The server's side of its keeper: the process that touches the device, and frees it when the server is gone.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use imgcore::nbd::attach::Device;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::identity::Identity;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::tool::Tool;

/// A running keeper. When this is dropped, it frees the device if need be and ends.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

/// What ends a wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Event {
    /// The keeper has said something, or is gone.
    Keeper,
    /// The other end of a pipe is closed.
    Ended,
    /// A signal has come.
    Signal,
}

impl Keeper {
    /// Starts the keeper of the server `identity`, which knows about `device` from its beginning, when that is connected.
    pub(super) fn start(context: &Context, identity: &Identity, device: Option<Device>) -> Result<Self, CommandError> {
        let identity = OsString::from_vec(identity.encode());
        let number = device.map(|device| device.index().to_string());
        let keep = Tool::own(context)?.args(["nbd", "keep", "--"]).arg(identity).args(&number);
        let mut child = keep.folder(Path::new("/")).converse(Stdio::null())?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { return Err(lost()) };
        let mut keeper = Self { child, input: Some(input), output };
        if device.is_some() {
            keeper.connected(context)?;
        }
        Ok(keeper)
    }

    /// Makes it free `device`, which is about to be connected, when this process is gone.
    pub(super) fn watch(&mut self, device: Device, context: &Context) -> Result<(), CommandError> {
        self.ask(&format!("watch {}", device.index()), context).map(drop)
    }

    /// Says that the device is connected.
    pub(super) fn connected(&mut self, context: &Context) -> Result<(), CommandError> {
        self.ask("connected", context).map(drop)
    }

    /// Says that the device is not connected: it is not this server's.
    pub(super) fn leave(&mut self, context: &Context) -> Result<(), CommandError> {
        self.ask("leave", context).map(drop)
    }

    /// Keeps programs that look at every new device from this one.
    pub(super) fn lock(&mut self, context: &Context) -> Result<(), CommandError> {
        self.ask("lock", context).map(drop)
    }

    /// Makes the kernel read the partition table; returns whether there can be partitions.
    pub(super) fn scan(&mut self, context: &Context) -> Result<bool, CommandError> {
        Ok(self.ask("scan", context)? != "none")
    }

    /// Makes what was written to the device durable; returns whether it is mounted.
    pub(super) fn flush(&mut self, context: &Context) -> Result<bool, CommandError> {
        Ok(self.ask("flush", context)? == "used")
    }

    /// Waits until the keeper says something unasked or is gone, until the other end of `pipe` is closed, or for a signal.
    pub(super) fn wait(&self, pipe: impl AsFd, context: &Context) -> Result<Event, CommandError> {
        loop {
            if context.interrupt().is_set() {
                return Ok(Event::Signal);
            }
            let mut ready = [PollFd::new(&self.output, PollFlags::IN), PollFd::new(&pipe, PollFlags::IN)];
            match poll(&mut ready, Some(&TICK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(CommandError::io("cannot wait", error.into())),
            }
            let [keeper, pipe] = ready.map(|ready| !ready.revents().is_empty());
            match (keeper, pipe) {
                (_, true) => return Ok(Event::Ended),
                (true, _) => return Ok(Event::Keeper),
                _ => {}
            }
        }
    }

    /// Says a line and waits for the answer. A signal that comes meanwhile ends the wait.
    fn ask(&mut self, line: &str, context: &Context) -> Result<String, CommandError> {
        let already = context.interrupt().is_set();
        let input = self.input.as_mut().ok_or_else(lost)?;
        input.write_all(format!("{line}\n").as_bytes()).map_err(|_| lost())?;
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let ready = poll(&mut [PollFd::new(&self.output, PollFlags::IN)], Some(&TICK));
            if !ready.is_ok_and(|ready| ready > 0) {
                // What is done because of a signal is not ended by it.
                if !already {
                    context.interrupt().check()?;
                }
                continue;
            }
            let mut byte = [0];
            if !self.output.read(&mut byte).is_ok_and(|read| read == 1) || answer.len() > LONGEST_ANSWER {
                return Err(lost());
            }
            answer.extend(byte);
        }
        let answer = String::from_utf8_lossy(&answer).trim_end().to_owned();
        match answer.strip_prefix("failed: ") {
            Some(why) => Err(CommandError::new(ErrorKind::Storage, why)),
            None => Ok(answer),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Its input ends, and so does it, as soon as nobody has the device open. Nobody should have; who has it has a keeper that
        // goes on alone.
        self.input = None;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            // A signal ends a wait as well.
            if poll(&mut [PollFd::new(&self.output, PollFlags::empty())], Some(&TICK)).is_ok_and(|ended| ended > 0) {
                let _reaped = self.child.wait();
                return;
            }
        }
    }
}

fn lost() -> CommandError {
    CommandError::new(ErrorKind::Unexpected, "the process that keeps the device is gone")
}

/// How often signals are looked for.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// How long its end is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer.
const LONGEST_ANSWER: usize = 4096;
