//! `vmimg image check`: is an image sound, and can it be made so.

use std::ffi::OsString;
use std::fmt::Write as _;

use imgcore::block;
use imgcore::image;
use imgcore::qcow2::{Check, Repair, Repaired};
use serde::Serialize;

use super::output::Output;
use super::reference::{ImageReference, SourceArgs};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::print_json;
use crate::place::Place;

/// The arguments of `vmimg image check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is wrong goes to standard error, a line each. A repair that is cut short
leaves the image as it was. Exit status: 0 sound, 2 the image is corrupt, 3
it has leaked clusters and is sound otherwise, 63 its format has nothing to
check, 1 the check did not come to its end.

Examples:
  vmimg image check web1.qcow2
  vmimg image check -q -U -f qcow2 running.qcow2
  vmimg image check --output=json web1.qcow2
  vmimg image check -r all web1.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Print JSON for programs or text for people
    #[arg(long, value_name = "FORM", default_value = "human")]
    output: Output,
    /// Repair leaked clusters, or all that can be repaired
    #[arg(short = 'r', long, value_name = "WHAT")]
    repair: Option<What>,
    /// Print nothing but what is wrong
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Accepted for scripts: the cache mode of the image
    #[arg(short = 'T', long, value_name = "CACHE", hide = true)]
    cache: Option<String>,
    /// Look even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
}

/// What `-r` repairs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum What {
    Leaks,
    All,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let reference = args.source.reference(&args.image)?.shared(args.force_share);
    let place = Place::of(context, &reference.path)?;
    let options = reference.options(args.source.trust);
    let result = match args.repair {
        Some(_) if args.force_share => {
            let message = "an image that is shared with other programs can only be checked";
            return Err(CommandError::new(ErrorKind::Usage, message));
        }
        Some(What::Leaks) => image::repair(place.location(), &options, Repair::Leaks),
        Some(What::All) => image::repair(place.location(), &options, Repair::All),
        None => image::check(place.location(), &options).map(|found| found.map(Repaired::unchanged)),
    };
    let done = result.map_err(|error| {
        let in_use = error.kind() == block::ErrorKind::InUse && !args.force_share && args.repair.is_none();
        let error = CommandError::from(error);
        if in_use { error.hint("`-U` looks at it all the same") } else { error }
    })?;
    let Some(done) = done else {
        let error = CommandError::new(ErrorKind::Unsupported, "this image format does not support checks");
        return Err(error.with_status(NOT_SUPPORTED));
    };
    say(context, &done.found.lines, done.found.further);
    say(context, &done.changes, 0);
    if done.is_changed() {
        if !args.quiet && args.output == Output::Human {
            let (leaks, corruptions) = (done.leaks, done.corruptions);
            let text = format!(
                "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    {corruptions} \
                 corruptions\n\nDouble checking the fixed image now...\n"
            );
            context.write_out(text.as_bytes())?;
        }
        say(context, &done.left.lines, done.left.further);
    }
    if !args.quiet {
        match args.output {
            Output::Human => context.write_out(text(&done.left).as_bytes())?,
            Output::Json => print_json(context, &Report::new(&done, &reference))?,
        }
    }
    match status(&done.left) {
        0 => Ok(()),
        status => Err(CommandError::answer(status)),
    }
}

/// Writes what is wrong, or was repaired, to standard error.
fn say(context: &Context, lines: &[String], further: u64) {
    let mut text = lines.join("\n");
    if !lines.is_empty() {
        text.push('\n');
    }
    if further > 0 {
        // A string takes everything.
        let _all = writeln!(text, "… and {further} more of the kind");
    }
    if !text.is_empty() {
        context.write_error(&text);
    }
}

fn status(found: &Check) -> u8 {
    match (found.errors, found.corruptions, found.leaks) {
        (0, 0, 0) => 0,
        (0, 0, _) => LEAKS,
        (0, _, _) => CORRUPT,
        _ => NOT_COMPLETED,
    }
}

/// Returns what qemu-img prints for people.
fn text(found: &Check) -> String {
    let mut text = String::new();
    if (found.errors, found.corruptions, found.leaks) == (0, 0, 0) {
        text.push_str("No errors were found on the image.\n");
    }
    // A string takes everything.
    let mut line = |count: u64, what: &str| {
        if count > 0 {
            let _all = writeln!(text, "\n{count} {what}");
        }
    };
    line(
        found.corruptions,
        "errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
    );
    line(found.leaks, "leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.");
    line(found.errors, "internal errors have occurred during the check.");
    let (total, allocated) = (found.total_clusters, found.allocated_clusters);
    if total > 0 && allocated > 0 {
        let _all = writeln!(
            text,
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            percent(allocated, total),
            percent(found.fragmented_clusters, allocated),
            percent(found.compressed_clusters, allocated),
        );
    }
    let _all = writeln!(text, "Image end offset: {}", found.image_end);
    text
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "two digits of it are shown")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// What qemu-img prints for programs: numbers that are 0 are left out, but for one.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    image_end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    compressed_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions_fixed: u64,
    check_errors: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks_fixed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    allocated_clusters: u64,
    filename: String,
    format: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    fragmented_clusters: u64,
}

impl Report {
    fn new(done: &Repaired, reference: &ImageReference) -> Self {
        let found = &done.left;
        Self {
            image_end_offset: found.image_end,
            compressed_clusters: found.compressed_clusters,
            total_clusters: found.total_clusters,
            corruptions: found.corruptions,
            corruptions_fixed: done.corruptions,
            check_errors: found.errors,
            leaks: found.leaks,
            leaks_fixed: done.leaks,
            allocated_clusters: found.allocated_clusters,
            filename: reference.path.display().to_string(),
            format: "qcow2",
            fragmented_clusters: found.fragmented_clusters,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde wants")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The check did not come to its end.
const NOT_COMPLETED: u8 = 1;
/// The image is corrupt.
const CORRUPT: u8 = 2;
/// The image has leaked clusters, and nothing worse.
const LEAKS: u8 = 3;
/// The format has nothing to check.
const NOT_SUPPORTED: u8 = 63;
