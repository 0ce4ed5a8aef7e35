//! `vmimg list`: all machines.

use serde::Serialize;

use super::running::Running;
use crate::context::Context;
use crate::error::CommandError;
use crate::hypervisor::DomainState;
use crate::machine::{MachineName, Root, RootArgs};
use crate::output::{ReportArgs, human_size, table, warn};

/// The arguments of `vmimg list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg list
  vmimg list --json")]
pub struct Args {
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// One machine of the list.
#[derive(Debug, Serialize)]
struct Line {
    name: MachineName,
    /// Nothing when the hypervisor cannot be asked.
    state: Option<DomainState>,
    os: String,
    disk_size: u64,
    memory_mib: u64,
    vcpus: u32,
    base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_port: Option<u16>,
}

/// Runs `vmimg list`.
///
/// # Errors
///
/// The failure of the operating system. A machine whose record is broken is left out, with a warning.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    let mut lines = Vec::new();
    for name in root.names()? {
        match line(context, &root, &name) {
            Ok(line) => lines.push(line),
            Err(error) => {
                context.interrupt().check()?;
                warn(context, error);
            }
        }
    }
    args.report.print(context, &lines, |lines| for_people(lines))
}

fn line(context: &Context, root: &Root, name: &MachineName) -> Result<Line, CommandError> {
    let machine = root.load(name)?;
    let running = Running::find(context, root, name)?;
    let state = running.state().map_err(|error| warn(context, error)).ok();
    let active = state.is_some_and(DomainState::is_active);
    Ok(Line {
        name: machine.name,
        state,
        os: machine.guest.os,
        disk_size: machine.disk.size,
        memory_mib: machine.domain.memory_mib,
        vcpus: machine.domain.vcpus,
        base: machine.base.reference,
        ssh_port: running.booted.as_ref().filter(|_| active).and_then(|booted| booted.ssh_port),
    })
}

fn for_people(lines: &[Line]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut rows = vec![["NAME", "STATE", "SSH", "DISK", "MEMORY", "CPUS", "OS", "BASE"].map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(|line| {
        vec![
            line.name.to_string(),
            line.state.map_or("unknown", DomainState::name).to_owned(),
            line.ssh_port.map(|port| port.to_string()).unwrap_or_default(),
            human_size(line.disk_size),
            human_size(line.memory_mib.saturating_mul(1 << 20)),
            line.vcpus.to_string(),
            line.os.clone(),
            line.base.clone(),
        ]
    }));
    table(&rows, &[2, 3, 4, 5])
}
