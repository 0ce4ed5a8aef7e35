//! `vmimg verify`: reads a machine again and compares it with its record.

use std::fs;
use std::path::Path;

use imgcore::block::{self, BlockRead};
use imgcore::image::{self, Format, OpenOptions, OpenPolicy};
use serde::Serialize;

use super::boot::base;
use super::running::Running;
use crate::context::Context;
use crate::domain::probe_seed;
use crate::error::{CommandError, ErrorKind};
use crate::files::digest;
use crate::machine::{DataRecord, Machine, MachineName, Root, RootArgs};
use crate::open::{TrustArgs, open, options};
use crate::output::ReportArgs;

/// The arguments of `vmimg verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg verify web1
  vmimg verify --json

The disk's chain and the data disks are opened, the base is compared with what
it was, by its digest where one is known, the seed is read, and the description
for libvirt is compared with the record.")]
pub struct Args {
    /// The machines [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<MachineName>,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// What was found out about one machine.
#[derive(Debug, Serialize)]
struct Report {
    name: MachineName,
    ok: bool,
    checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Runs `vmimg verify`.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when a machine is not as it was prepared.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    let names = if args.names.is_empty() { root.names()? } else { args.names };
    let mut reports = Vec::new();
    for name in names {
        reports.push(verify(context, &root, name)?);
    }
    args.report.print(context, &reports, |reports| for_people(reports))?;
    let broken = reports.iter().filter(|report| !report.ok).count();
    if broken == 0 {
        return Ok(());
    }
    let message = format!("{broken} of {} machines are not as they were prepared", reports.len());
    Err(CommandError::new(ErrorKind::Corrupt, message))
}

fn verify(context: &Context, root: &Root, name: MachineName) -> Result<Report, CommandError> {
    let mut checks = Vec::new();
    match root.load(&name) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
        Err(error) => checks.push(check("record", Err(error))?),
        Ok(machine) => {
            let folder = root.folder(&name);
            let runs = Running::find(context, root, &name)?.state()?.is_active();
            checks.push(check("record", Ok(()))?);
            checks.push(check("base", base::check(context, &machine, machine.base.sha256.is_some()))?);
            checks.push(check("disk", disk(context, &folder, &machine, runs))?);
            for disk in &machine.data {
                checks.push(check("data disk", data(&folder.join(&disk.file), disk, runs))?);
            }
            if machine.seed.is_some() {
                checks.push(check("seed", seed(context, &folder, &machine))?);
            }
            checks.push(check("domain", domain(&folder, &machine))?);
        }
    }
    Ok(Report { name, ok: checks.iter().all(|check| check.ok), checks })
}

/// Returns the outcome of one check; a signal ends the others.
fn check(what: &'static str, outcome: Result<(), CommandError>) -> Result<Check, CommandError> {
    match outcome {
        Ok(()) => Ok(Check { what, ok: true, reason: None }),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => {
            let reason = std::iter::once(error.to_string()).chain(error.causes()).collect::<Vec<_>>().join(": ");
            Ok(Check { what, ok: false, reason: Some(reason) })
        }
    }
}

/// Opens the disk with its chain, and compares what it says with the record. A running machine's disk is not locked.
fn disk(context: &Context, folder: &Path, machine: &Machine, runs: bool) -> Result<(), CommandError> {
    if let Some(address) = &machine.disk.export {
        return export(context, address, machine.disk.size, runs);
    }
    let path = folder.join(machine.disk.file.as_deref().unwrap_or_default());
    let wrong = |what: String| Err(CommandError::new(ErrorKind::Corrupt, format!("`{}` {what}", path.display())));
    let options = OpenOptions { format: Some(Format::Qcow2), policy: OpenPolicy::PlainPaths, follow: true, lock: !runs };
    let disk = image::open(&path, &options).map_err(block::Error::from)?;
    if disk.size() != machine.disk.size {
        return wrong(format!("has {} bytes instead of {}", disk.size(), machine.disk.size));
    }
    let base = disk.backing().and_then(|base| fs::canonicalize(base.path()).ok());
    if base != fs::canonicalize(&machine.base.path).ok() {
        return wrong(format!("is not an overlay of `{}`", machine.base.path.display()));
    }
    Ok(())
}

/// Opens a data disk, which is an overlay of nothing. What is on it is the guest's.
fn data(path: &Path, record: &DataRecord, runs: bool) -> Result<(), CommandError> {
    let options = OpenOptions { format: Some(Format::Qcow2), policy: OpenPolicy::Nothing, follow: true, lock: !runs };
    let disk = image::open(path, &options).map_err(block::Error::from)?;
    if disk.size() == record.size {
        return Ok(());
    }
    let message = format!("`{}` has {} bytes instead of {}", path.display(), disk.size(), record.size);
    Err(CommandError::new(ErrorKind::Corrupt, message))
}

/// Opens the export that is the disk, unless a running machine may be its only client.
fn export(context: &Context, address: &str, size: u64, runs: bool) -> Result<(), CommandError> {
    if runs {
        return Ok(());
    }
    let disk = open(context, Path::new(address), &options(Some(Format::Raw), TrustArgs::OWN))?;
    if disk.size() == size {
        return Ok(());
    }
    Err(CommandError::new(ErrorKind::Corrupt, format!("`{address}` has {} bytes instead of {size}", disk.size())))
}

fn seed(context: &Context, folder: &Path, machine: &Machine) -> Result<(), CommandError> {
    let Some(seed) = &machine.seed else { return Ok(()) };
    let path = folder.join(&seed.file);
    if digest(context, &path)? != seed.sha256 {
        return Err(CommandError::new(ErrorKind::Corrupt, format!("`{}` has changed", path.display())));
    }
    let label = probe_seed(&path)?.map(|kind| kind.label());
    if label != Some(seed.label.as_str()) {
        return Err(CommandError::new(ErrorKind::Corrupt, format!("`{}` is not labeled `{}`", path.display(), seed.label)));
    }
    Ok(())
}

fn domain(folder: &Path, machine: &Machine) -> Result<(), CommandError> {
    let path = folder.join("domain.xml");
    let xml = fs::read(&path).map_err(|error| CommandError::io(format!("cannot read `{}`", path.display()), error))?;
    if xml == machine.domain.to_xml()?.into_bytes() {
        return Ok(());
    }
    Err(CommandError::new(ErrorKind::Corrupt, format!("`{}` has changed", path.display())))
}

fn for_people(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        text.push_str(&format!("{}: {}\n", report.name, if report.ok { "ok" } else { "damaged" }));
        for check in report.checks.iter().filter(|check| !check.ok) {
            text.push_str(&format!("  {}: {}\n", check.what, check.reason.as_deref().unwrap_or_default()));
        }
    }
    text
}
