//! `vmimg console`: what a guest says on its serial port, and a keyboard for it.

use std::fs::File;
use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use super::running::Running;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::machine::{MachineName, RootArgs};

/// The arguments of `vmimg console`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg console web1
  vmimg console web1 --log
  vmimg console web1 --follow

Ctrl-] leaves the console, Ctrl-C the log.")]
pub struct Args {
    /// The machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// Print what the guest has said since it was started
    #[arg(long)]
    log: bool,
    /// Print it, and what the guest says until it ends
    #[arg(long, short = 'f')]
    follow: bool,
    #[command(flatten)]
    root: RootArgs,
}

/// Runs `vmimg console`.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when the machine does not run, [`ErrorKind::NotFound`] when it never did.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    root.load(&args.name)?;
    let running = Running::find(context, &root, &args.name)?;
    if args.log || args.follow {
        return print_log(context, &running, args.follow);
    }
    running.active()?.1.console()
}

fn print_log(context: &Context, running: &Running, follow: bool) -> Result<(), CommandError> {
    let Some(booted) = &running.booted else {
        return Err(CommandError::new(ErrorKind::NotFound, "the machine was never started"));
    };
    let cannot = |error| CommandError::io(format!("cannot read `{}`", booted.console.display()), error);
    let mut log = File::open(&booted.console).map_err(cannot)?;
    let mut looked = Instant::now();
    let mut active = follow;
    loop {
        copy(context, &mut log).map_err(|error| error.context("cannot print the log"))?;
        if !active {
            return Ok(());
        }
        context.interrupt().check()?;
        thread::sleep(STEP);
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            // Once more round after the end, for its last words.
            active = running.state()?.is_active();
        }
    }
}

/// Prints what is new.
fn copy(context: &Context, log: &mut File) -> Result<(), CommandError> {
    let mut buf = [0; 16384];
    loop {
        match log.read(&mut buf) {
            Ok(0) => return context.flush(),
            Ok(len) => context.write_out(buf.get(..len).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CommandError::io("cannot read the log", error)),
        }
    }
}

const STEP: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(1);
