//! `vmimg nbd list`: the devices that are connected.

use imgcore::nbd::attach::Device;

use super::report::Report;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{ReportArgs, human_size, printable, table};

/// The arguments of `vmimg nbd list`.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "\
Devices of other programs, as of qemu-nbd, are listed without their image.

Examples:
  vmimg nbd list
  vmimg nbd list --json")]
pub(super) struct Args {
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let report = |device: Device| Some(Report::of(device, &device.connection()?));
    let reports: Vec<Report> = Device::all()?.into_iter().filter_map(report).collect();
    args.report.print(context, &reports, |reports| {
        let mut rows = vec![["DEVICE", "SIZE", "PID", "MODE", "IMAGE"].map(str::to_owned).to_vec()];
        rows.extend(reports.iter().map(row));
        table(&rows, &[1, 2])
    })
}

fn row(report: &Report) -> Vec<String> {
    vec![
        report.device.display().to_string(),
        human_size(report.size),
        report.pid.to_string(),
        if report.read_only { "ro" } else { "rw" }.to_owned(),
        report.image.as_ref().map_or_else(|| "-".to_owned(), printable),
    ]
}
