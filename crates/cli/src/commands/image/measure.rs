//! `vmimg image measure`: how large a new image becomes.

use std::ffi::OsString;

use imgcore::block::BlockRead;
use imgcore::image::{self, Format, NewDisk};
use imgcore::qcow2::NewBacking;
use serde::Serialize;

use super::convert_options::{Snapshot, snapshot};
use super::options::CreateOptions;
use super::output::Output;
use super::reference::{SourceArgs, parse_format};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::print_json;
use crate::size::Size;

/// The arguments of `vmimg image measure`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg image measure --size 20G -O qcow2
  vmimg image measure --output=json -O qcow2 -o cluster_size=2M disk.raw")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The format of the new image: raw or qcow2
    #[arg(short = 'O', long = "target-format", value_name = "FORMAT", default_value = "raw")]
    output_format: String,
    /// Options of the new image's format, as in cluster_size=64k,compat=1.1
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// An empty image with a disk of this size
    #[arg(short = 's', long, value_name = "SIZE")]
    size: Option<Size>,
    /// Measure a snapshot inside the image: its id or name, or snapshot.name=NAME
    #[arg(short = 'l', long, value_name = "SNAPSHOT", value_parser = snapshot)]
    snapshot: Option<Snapshot>,
    /// Print JSON for programs or text for people
    #[arg(long, value_name = "FORM", default_value = "human")]
    output: Output,
    /// Look even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image that would be copied
    #[arg(value_name = "IMG")]
    image: Option<OsString>,
}

/// What is printed, with the field names of `qemu-img measure --output=json`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmaps: Option<u64>,
    required: u64,
    fully_allocated: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let format = parse_format(&args.output_format)?;
    let mut wanted = CreateOptions::parse(format.name(), &args.options)?;
    // Whether there is one matters, and nothing about it; the data file does not even matter.
    let backed = wanted.backing_file.take().is_some();
    (wanted.backing_format, wanted.data_file, wanted.data_file_raw) = (None, None, None);
    let measured = match (args.size, &args.image) {
        (Some(size), None) if args.source.format.is_none() && !args.source.image_opts && args.snapshot.is_none() => {
            image::measure_new(&wanted.new_disk(format, size.0)?)?
        }
        (Some(_), None) => return Err(usage("`--image-opts`, `-f` and `-l` are about an image, and there is none")),
        (None, Some(name)) => {
            let reference = args.source.reference(name)?.shared(args.force_share);
            let mut disk = reference.open(context, args.source.trust)?;
            // As in qemu-img, a snapshot is measured as if the disk had been as large as now.
            let size = disk.size();
            if let Some(wanted) = &args.snapshot {
                let snapshot = wanted.find(&disk)?;
                disk.show_snapshot(&snapshot)?;
            }
            let new = with_backing(wanted.new_disk(format, size)?, backed && format == Format::Qcow2);
            image::measure(&disk, &new)?
        }
        (Some(_), Some(_)) => return Err(usage("`--size` and an image cannot be used together")),
        (None, None) => return Err(usage("either `--size` or an image is needed")),
    };
    let report = Report { bitmaps: measured.bitmaps, required: measured.required, fully_allocated: measured.fully_allocated };
    if args.output == Output::Json {
        return print_json(context, &report);
    }
    let mut text = format!("required size: {}\nfully allocated size: {}\n", report.required, report.fully_allocated);
    if let Some(bitmaps) = report.bitmaps {
        text.push_str(&format!("bitmaps size: {bitmaps}\n"));
    }
    context.write_out(text.as_bytes())
}

/// Returns the image, on top of some other if `backed`.
fn with_backing(new: NewDisk, backed: bool) -> NewDisk {
    let backing = backed.then(|| NewBacking { name: b"backing".to_vec(), format: Format::Raw.name().to_owned() });
    match new {
        NewDisk::Qcow2(options) => NewDisk::Qcow2(imgcore::qcow2::CreateOptions { backing, ..options }),
        raw @ NewDisk::Raw { .. } => raw,
    }
}

fn usage(message: &str) -> CommandError {
    CommandError::new(ErrorKind::Usage, message)
}
