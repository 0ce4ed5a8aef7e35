use std::path::PathBuf;

use crate::context::Context;
use crate::domain::DiskFormat;
use crate::error::{CommandError, ErrorKind};
use crate::machine::RootArgs;
use crate::output::{ReportArgs, human_size};
use crate::store::{Addition, ImageName, add};

/// The arguments of `vmimg store add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg store add debian-12-genericcloud-amd64.qcow2 --name debian-12
  vmimg store add disk.raw --name base --format raw

The copy shares the file's blocks where the file system can. It refers to
no other file and is not written any more.")]
pub(super) struct Args {
    /// The image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its name in the store [default: the file's, without extension]
    #[arg(long)]
    name: Option<ImageName>,
    /// Its format: qcow2 or raw [default: what it announces]
    #[arg(long, short = 'f', value_name = "FORMAT")]
    format: Option<DiskFormat>,
    /// The SHA-256 that it must have
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    if args.sha256.as_ref().is_some_and(|hex| hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit())) {
        return Err(CommandError::new(ErrorKind::Usage, "a SHA-256 has 64 hexadecimal digits"));
    }
    let name = match args.name {
        Some(name) => name,
        None => {
            let stem = args.file.file_stem().unwrap_or_default().to_string_lossy();
            let unnamed =
                |error| CommandError::new(ErrorKind::Usage, "the file's name cannot be the image's").with_source(error);
            stem.parse().map_err(|error| unnamed(error).hint("`--name` gives it another one"))?
        }
    };
    let source = context.absolute(&args.file);
    let addition = Addition { source, name, format: args.format, sha256: args.sha256 };
    let image = add(context, &args.root.open(context)?, &addition)?;
    args.report.print(context, &image, |image| {
        format!("{}: {}, {}\n", image.name, image.format.name(), human_size(image.virtual_size))
    })
}
