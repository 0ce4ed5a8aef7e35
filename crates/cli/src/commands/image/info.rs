//! `vmimg image info`: what an image is.

use std::ffi::OsString;
use std::path::Path;

use imgcore::block;
use imgcore::image::{self, Info, OpenOptions};

use super::output::Output;
use super::reference::{ImageReference, SourceArgs};
use crate::context::Context;
use crate::error::CommandError;
use crate::output::print_json;
use crate::place::Place;

/// The arguments of `vmimg image info`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg image info debian-12.qcow2
  vmimg image info --output=json --backing-chain web1.qcow2
  vmimg image info -f qcow2 -U running.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Print JSON for programs or text for people
    #[arg(long, value_name = "FORM", default_value = "human")]
    output: Output,
    /// Show the images below as well
    #[arg(long)]
    backing_chain: bool,
    /// Look even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let reference = args.source.reference(&args.image)?;
    let place = Place::of(context, &reference.path)?;
    let reports = look(args, &reference, &place, context).map_err(|error| {
        let in_use = error.kind() == block::ErrorKind::InUse && !args.force_share;
        let error = CommandError::from(error);
        if in_use { error.hint("`-U` looks at it all the same") } else { error }
    })?;
    if args.output == Output::Human {
        let texts: Vec<String> = reports.iter().map(Info::to_string).collect();
        return context.write_out(texts.join("\n").as_bytes());
    }
    match (args.backing_chain, reports.first()) {
        (false, Some(report)) => print_json(context, report),
        _ => print_json(context, &reports),
    }
}

/// Describes the image, and those below it if they are wanted.
fn look(args: &Args, reference: &ImageReference, place: &Place, context: &Context) -> Result<Vec<Info>, image::Error> {
    let options = reference.clone().shared(args.force_share).options(args.source.trust);
    let options = OpenOptions { follow: false, ..options };
    if args.backing_chain {
        return Info::read_chain(place.location(), &reference.path, &context.absolute(Path::new("")), &options);
    }
    Ok(vec![Info::read(&image::open(place.location(), &options)?, &reference.path)?])
}
