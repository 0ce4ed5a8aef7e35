//! `vmimg disk resize`: a file system gets a certain size.

use imgcore::fs::ext4;
use serde::Serialize;

use super::attached;
use super::change::{ChangeArgs, Task, change};
use super::volume::Via;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{ReportArgs, human_size};
use crate::size::Size;

/// The arguments of `vmimg disk resize`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The partition must have that size already: `vmimg disk grow --no-fs` gives it
what the disk has. A smaller size than now is refused.

Examples:
  vmimg disk resize --fs 10G web1.qcow2
  vmimg disk resize --fs 900M --partition 2 -f raw disk.raw")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// The file system's new size
    #[arg(long, value_name = "SIZE")]
    fs: Size,
    #[command(flatten)]
    report: ReportArgs,
}

/// What became of the file system, as JSON has it; sizes are bytes.
#[derive(Debug, Serialize)]
struct Resized {
    old_size: u64,
    new_size: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    if args.change.volume.via == Via::Nbd {
        let (old_size, new_size) = attached::resize(context, &args.change, args.fs.0)?;
        return args.report.print(context, &Resized { old_size, new_size }, Resized::text);
    }
    let changed = change(context, &args.change, Task::default(), |part| {
        let growth = ext4::grow_to(part, args.fs.0)?;
        Ok(Resized { old_size: growth.old_size, new_size: growth.new_size })
    })?;
    args.report.print(context, &changed.outcome, Resized::text)
}

impl Resized {
    fn text(&self) -> String {
        format!("file system: {} -> {}\n", human_size(self.old_size), human_size(self.new_size))
    }
}
