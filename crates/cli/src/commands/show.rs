//! `vmimg show`: everything about one machine.

use serde::Serialize;

use super::running::Running;
use crate::context::Context;
use crate::domain::{Link, Nic};
use crate::error::CommandError;
use crate::hypervisor::{Booted, DomainState};
use crate::machine::{Machine, MachineName, RootArgs};
use crate::output::{ReportArgs, human_size};

/// The arguments of `vmimg show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg show web1
  vmimg show web1 --json")]
pub struct Args {
    /// The machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// What `vmimg show --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    state: DomainState,
    folder: std::path::PathBuf,
    /// How it was started last.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Booted>,
    machine: Machine,
}

/// Runs `vmimg show`.
///
/// # Errors
///
/// When there is no such machine or its hypervisor cannot be asked.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    let machine = root.load(&args.name)?;
    let running = Running::find(context, &root, &args.name)?;
    let report = Report { state: running.state()?, folder: running.folder, boot: running.booted, machine };
    args.report.print(context, &report, for_people)
}

fn for_people(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<10} {value}\n"));
    line("name", machine.name.to_string());
    line("state", report.state.name().to_owned());
    if let Some(boot) = report.boot.as_ref().filter(|_| report.state.is_active()) {
        line("runs in", boot.hypervisor.describe());
        if let Some(port) = boot.ssh_port {
            line("ssh", format!("{}@127.0.0.1 port {port}", machine.guest.login));
        }
    }
    line("guest", format!("{}, host name {}", machine.guest.os, machine.guest.hostname));
    if let Some(minion) = &machine.guest.minion {
        line("minion", minion.clone());
    }
    line("uuid", machine.uuid.to_string());
    line("memory", human_size(machine.domain.memory_mib.saturating_mul(1 << 20)));
    line("processors", machine.domain.vcpus.to_string());
    let place = match (&machine.disk.file, &machine.disk.export) {
        (Some(file), _) => report.folder.join(file).display().to_string(),
        (None, export) => export.clone().unwrap_or_default(),
    };
    line("disk", format!("{}, {place}", human_size(machine.disk.size)));
    for disk in &machine.data {
        let (size, place) = (human_size(disk.size), report.folder.join(&disk.file));
        line("data disk", format!("{}, {size}, {}, {}", disk.label, disk.r#type, place.display()));
    }
    line("base", format!("{}, {}", machine.base.reference, machine.base.path.display()));
    if let Some(seed) = &machine.seed {
        line("seed", format!("{}, {}", seed.label, report.folder.join(&seed.file).display()));
    }
    for nic in &machine.domain.nics {
        line("interface", interface(nic));
    }
    text
}

fn interface(nic: &Nic) -> String {
    let mac = nic.mac.map_or_else(|| "any address".to_owned(), |mac| mac.to_string());
    match &nic.link {
        Link::User { .. } => format!("{mac}, QEMU's own network"),
        Link::Bridge { bridge } => format!("{mac}, bridge {bridge}"),
        Link::Network { network } => format!("{mac}, network {network}"),
    }
}
