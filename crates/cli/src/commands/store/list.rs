use crate::context::Context;
use crate::error::CommandError;
use crate::machine::RootArgs;
use crate::output::{ReportArgs, human_size, table};
use crate::store::{CatalogImage, StoredImage, catalog, list};

/// The arguments of `vmimg store list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg store list
  vmimg store list --catalog")]
pub(super) struct Args {
    /// List the cloud images that the program knows where to download
    #[arg(long)]
    catalog: bool,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    if args.catalog {
        return args.report.print(context, &catalog()?, |images| known(images));
    }
    let images = list(&args.root.open(context)?)?;
    args.report.print(context, &images, |images| stored(images))
}

fn stored(images: &[StoredImage]) -> String {
    let mut rows = vec![["NAME", "FORMAT", "FILE", "DISK", "FROM"].map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        let format = image.format.name().to_owned();
        vec![image.name.to_string(), format, human_size(image.size), human_size(image.virtual_size), image.origin.clone()]
    }));
    if images.is_empty() { String::new() } else { table(&rows, &[2, 3]) }
}

fn known(images: &[CatalogImage]) -> String {
    let mut rows = vec![["NAME", "ARCH", "LOGIN", "ADDRESS"].map(str::to_owned).to_vec()];
    rows.extend(
        images.iter().map(|image| vec![image.name.clone(), image.arch.clone(), image.login.clone(), image.url.clone()]),
    );
    table(&rows, &[])
}
