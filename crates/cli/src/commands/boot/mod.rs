//! `vmimg boot`: starts a prepared machine.

pub(crate) mod base;
mod plan;
mod wait;

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::context::Context;
use crate::domain::Accelerator;
use crate::error::{CommandError, ErrorKind};
use crate::hypervisor::{AcceleratorChoice, Booted, DomainState, Runner, accelerator, occupy};
use crate::machine::{Machine, MachineName, Root, RootArgs};
use crate::output::{ReportArgs, warn};

/// The arguments of `vmimg boot`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg boot web1
  vmimg boot web1 --wait ready --timeout 600 && vmimg ssh web1
  vmimg boot web1 --direct --ssh-port 2222
  vmimg boot web1 --connect qemu:///system --vnc

A machine is ready when its SSH server answers or its console says `login:`
or that cloud-init has finished; with --marker, when the console says that.
When the time runs out it keeps running, and the exit status is 9.

libvirt runs the machine where it answers, QEMU itself where it does not.")]
pub struct Args {
    /// The machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// What to wait for
    #[arg(long, value_enum, value_name = "WHAT", default_value = "started")]
    wait: Wait,
    /// How many seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// A text on the console that says that the guest is ready
    #[arg(long, value_name = "TEXT")]
    marker: Option<String>,
    /// The libvirt that runs it, such as qemu:///system
    #[arg(long, value_name = "URI", conflicts_with = "direct")]
    connect: Option<String>,
    /// Run QEMU without libvirt
    #[arg(long)]
    direct: bool,
    /// The port of 127.0.0.1 that leads to the guest's SSH server
    /// [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ssh_port: Option<u16>,
    /// Give the guest a display, by VNC on 127.0.0.1
    #[arg(long)]
    vnc: bool,
    /// What executes the guest: auto, kvm or qemu (without KVM)
    #[arg(long, value_name = "NAME", default_value = "auto")]
    accel: AcceleratorChoice,
    /// Compare the whole base image with its digest first
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Wait {
    /// The machine runs
    Started,
    /// The guest can be logged in to
    Ready,
}

/// What `vmimg boot --json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a MachineName,
    state: DomainState,
    ready: bool,
    hypervisor: &'a Runner,
    accelerator: Accelerator,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vnc: Option<String>,
    console: &'a std::path::Path,
}

/// Runs `vmimg boot`.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when the machine runs or its base has changed, [`ErrorKind::Hypervisor`], and [`ErrorKind::TimedOut`]
/// when it is not ready in time; it runs then.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    let machine = root.load(&args.name)?;
    let folder = root.folder(&args.name);
    let booted = {
        let _lock = occupy(&folder)?;
        refuse_running(context, &root, &args.name)?;
        base::check(context, &machine, args.verify)?;
        start(&args, context, &root, &machine)?
    };
    let hypervisor = booted.hypervisor.hypervisor(context, &folder, &args.name);
    let ready = args.wait == Wait::Ready;
    if ready {
        let limit = Duration::from_secs(args.timeout);
        let waited = wait::until_ready(context, hypervisor.as_ref(), &booted, args.marker.as_deref(), limit);
        waited.map_err(|error| error.hint(format!("`vmimg console {} --log` shows what the guest says", args.name)))?;
    }
    let vnc = if args.vnc || machine.domain.vnc { hypervisor.display()? } else { None };
    let report = Report {
        name: &args.name,
        state: DomainState::Running,
        ready,
        hypervisor: &booted.hypervisor,
        accelerator: booted.accelerator,
        ssh_port: booted.ssh_port,
        vnc,
        console: &booted.console,
    };
    args.report.print(context, &report, for_people)
}

fn refuse_running(context: &Context, root: &Root, name: &MachineName) -> Result<(), CommandError> {
    let folder = root.folder(name);
    let Some(before) = Booted::load(&folder)? else { return Ok(()) };
    if before.hypervisor.hypervisor(context, &folder, name).state()?.is_active() {
        let message = format!("the machine `{name}` runs already ({})", before.hypervisor.describe());
        return Err(CommandError::new(ErrorKind::Refused, message).hint(format!("`vmimg stop {name}` ends it")));
    }
    Ok(())
}

fn start(args: &Args, context: &Context, root: &Root, machine: &Machine) -> Result<Booted, CommandError> {
    let folder = root.folder(&machine.name);
    let runner = plan::runner(context, args.connect.as_deref(), args.direct, &machine.domain)?;
    let verdict = accelerator(context, args.accel)?;
    let wishes = plan::Wishes { accelerator: verdict.accelerator, ssh_port: args.ssh_port, vnc: args.vnc };
    let (domain, booted) = plan::domain(context, &folder, machine, runner, &wishes)?;
    let hypervisor = booted.hypervisor.hypervisor(context, &folder, &machine.name);
    hypervisor.define(&domain)?;
    if let Some(reason) = verdict.reason {
        warn(context, format!("the guest runs without KVM, many times slower: {reason}"));
    }
    // Before the start, so that the machine can be found and stopped whatever happens to this process.
    booted.save(&folder)?;
    plan::make_log(&booted.console)?;
    if let Err(error) = hypervisor.start(&domain) {
        Booted::forget(&folder);
        return Err(error.context(format!("cannot start the machine `{}`", machine.name)));
    }
    Ok(booted)
}

fn for_people(report: &Report) -> String {
    let how = match report.accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Qemu => "without KVM",
    };
    let word = if report.ready { "is ready" } else { "runs" };
    let mut text = format!("{} {word} ({}, {how})\n", report.name, report.hypervisor.describe());
    if let Some(port) = report.ssh_port {
        text.push_str(&format!("ssh: vmimg ssh {}, or port {port} of 127.0.0.1\n", report.name));
    }
    if let Some(vnc) = &report.vnc {
        text.push_str(&format!("vnc: {vnc}\n"));
    }
    text
}
