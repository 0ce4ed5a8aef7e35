//! The `vmimg` program as a library: arguments, output, prepare as a transaction, the image store and hypervisors.
//!
//! ```text
//! commands   one file per command: its arguments and what it does
//! context    everything that is taken from outside, in one value made at the program's edge
//! error      what a command can fail with, and the program's exit status
//! machine    machines on disk: their records, and the folder in which one comes to be
//! store      base images on disk, by name
//! domain     the description of a virtual machine, for libvirt and for QEMU
//! hypervisor what runs a domain: libvirt, or QEMU itself
//! mkfs       file systems and swap space, made
//! layout     the partitions and logical volumes of a disk
//! in_place   disks that are changed where they are
//! attached   an image behind a device while a command works, its file systems mounted
//! mounted    a guest's files by way of the kernel: a plan carried out and verified in a folder
//! output  progress  size  tool  interrupt   what commands share
//! ```
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used,
        reason = "a test that panics has failed, as it should"
    )
)]

pub mod attached;
pub mod commands;
pub mod context;
pub mod domain;
pub mod draft;
pub mod error;
pub mod exit;
pub mod files;
pub mod hypervisor;
pub mod in_place;
pub mod interrupt;
pub mod layout;
pub mod machine;
pub mod mkfs;
pub mod mounted;
pub mod open;
pub mod output;
pub mod place;
pub mod prepare;
pub mod progress;
pub mod publish;
pub mod size;
pub mod store;
pub mod time;
pub mod tool;
pub mod volumes;

use std::ffi::OsString;
use std::process::ExitCode;

use context::Context;
use exit::ExitStatus;

/// Runs the program with the arguments, environment and streams of this process.
#[must_use]
pub fn main() -> ExitCode {
    let context = Context::of_process();
    let status = run(std::env::args_os(), &context);
    context.interrupt().die_of_signal();
    ExitCode::from(status.code())
}

/// Runs the program with `arguments`, the first of which is its own name, in `context`.
///
/// Whatever happens has been reported on the context's streams when this returns.
pub fn run(arguments: impl IntoIterator<Item = OsString>, context: &Context) -> ExitStatus {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let outcome = match commands::parse(&arguments) {
        Ok(command) => commands::run(command, context),
        Err(error) => return commands::report_usage(&error, &arguments, context),
    };
    match outcome.and_then(|()| context.flush()) {
        Ok(()) => ExitStatus::Done,
        Err(error) => {
            error.report(context);
            commands::status_of(&error, &arguments)
        }
    }
}
