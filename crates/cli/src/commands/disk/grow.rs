//! `vmimg disk grow`: a partition and its file system take up the space that the disk has.

use imgcore::fs::ext4;
use imgcore::partition::Growth;
use serde::Serialize;

use super::attached;
use super::change::{ChangeArgs, Task, change};
use super::volume::Via;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::{ReportArgs, human_size};
use crate::size::Size;

/// The arguments of `vmimg disk grow`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What has all of its space already is left alone. Each step leaves a whole disk,
after a power cut as well: it becomes longer, then the partition table, then the
file system grows.

Examples:
  vmimg disk grow --size 20G web1.qcow2
  vmimg image resize -f qcow2 web1.qcow2 20G && vmimg disk grow web1.qcow2
  vmimg disk grow -f raw --partition 3 --no-fs disk.raw")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// Make the disk of the image this large first
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// Grow the partition alone, not the file system in it
    #[arg(long)]
    no_fs: bool,
    #[command(flatten)]
    report: ReportArgs,
}

/// What was grown, as JSON has it; sizes are bytes.
#[derive(Debug, Default, Serialize)]
struct Grown {
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<GrownPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_system: Option<GrownPart>,
}

#[derive(Debug, Serialize)]
struct GrownPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    old_size: u64,
    new_size: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    if args.change.volume.via == Via::Nbd && args.size.is_some() {
        let message = "`--via nbd` grows to the size that the image has";
        return Err(CommandError::new(ErrorKind::Unsupported, message).hint("`vmimg image resize` makes it larger first"));
    }
    if args.change.volume.via == Via::Nbd && !args.no_fs {
        let (grown, (old_size, new_size)) = attached::grow(context, &args.change)?;
        let partition = grown.map(GrownPart::of);
        let file_system = Some(GrownPart { number: None, old_size, new_size });
        return args.report.print(context, &Grown { partition, file_system }, Grown::text);
    }
    let size = args.size.map(|size| size.0.checked_next_multiple_of(512).unwrap_or(size.0));
    let by_kernel = (args.change.volume.via == Via::Nbd).then(|| attached::find(context, &args.change.volume));
    let task = Task { volume: by_kernel.transpose()?, size, grow_partition: true, ..Task::default() };
    let changed = change(context, &args.change, task, |part| match args.no_fs {
        true => Ok(None),
        false => Ok(Some(ext4::grow(part)?)),
    })?;
    let grown = Grown {
        partition: changed.grown.map(GrownPart::of),
        file_system: changed.outcome.map(|growth| GrownPart {
            number: None,
            old_size: growth.old_size,
            new_size: growth.new_size,
        }),
    };
    args.report.print(context, &grown, Grown::text)
}

impl GrownPart {
    fn of((number, growth): (u32, Growth)) -> Self {
        Self { number: Some(number), old_size: growth.old.len(), new_size: growth.new.len() }
    }
}

impl Grown {
    fn text(&self) -> String {
        let part = self.partition.as_ref().map(|part| (format!("partition {}", part.number.unwrap_or_default()), part));
        let files = self.file_system.as_ref().map(|files| ("file system".to_owned(), files));
        let mut text = String::new();
        for (name, part) in part.into_iter().chain(files) {
            let (old, new) = (human_size(part.old_size), human_size(part.new_size));
            if part.old_size == part.new_size {
                text.push_str(&format!("{name}: {new}, all of its space\n"));
            } else {
                text.push_str(&format!("{name}: {old} -> {new}\n"));
            }
        }
        text
    }
}
