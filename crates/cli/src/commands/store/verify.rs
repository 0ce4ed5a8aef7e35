use serde::Serialize;

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::machine::RootArgs;
use crate::output::ReportArgs;
use crate::store::{ImageName, list, load, verify};

/// The arguments of `vmimg store verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg store verify
  vmimg store verify debian-12")]
pub(super) struct Args {
    /// The images [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<ImageName>,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// What was found out about one image.
#[derive(Debug, Serialize)]
struct Finding {
    name: ImageName,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    let images = if args.names.is_empty() {
        list(&root)?
    } else {
        args.names.iter().map(|name| load(&root, name)).collect::<Result<_, _>>()?
    };
    let mut findings = Vec::new();
    for image in images {
        let reason = match verify(context, &root.store(), &image) {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => Some(std::iter::once(error.to_string()).chain(error.causes()).collect::<Vec<_>>().join(": ")),
        };
        findings.push(Finding { name: image.name, ok: reason.is_none(), reason });
    }
    args.report.print(context, &findings, |findings| {
        findings.iter().map(|finding| format!("{}: {}\n", finding.name, finding.reason.as_deref().unwrap_or("ok"))).collect()
    })?;
    let broken = findings.iter().filter(|finding| !finding.ok).count();
    if broken == 0 {
        return Ok(());
    }
    let error =
        CommandError::new(ErrorKind::Corrupt, format!("{broken} of {} images are not as they were added", findings.len()));
    Err(error.hint("remove them and add them again; machines on them are damaged"))
}
