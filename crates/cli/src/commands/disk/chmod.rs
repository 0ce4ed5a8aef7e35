//! `vmimg disk chmod`: permissions of files of a guest.

use imgcore::fs::{Attributes, Edit, EditPlan, FileKind, GuestPath};

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use super::volume::Volume;
use super::walk::walk;
use crate::context::Context;
use crate::error::CommandError;
use crate::error::ErrorKind;
use crate::output::ReportArgs;

/// The arguments of `vmimg disk chmod`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg disk chmod web1.qcow2 0600 /etc/ssh/ssh_host_rsa_key
  vmimg disk chmod -R web1.qcow2 0755 /srv/www")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// Go down into folders; links in them are left alone
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The permission bits, in octal
    #[arg(value_name = "MODE", value_parser = octal)]
    mode: u32,
    /// The files in the guest
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<GuestPath>,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let mut edits = Vec::new();
    let volume = Volume::open(context, &args.change.volume)?;
    for path in &args.paths {
        if volume.file_system().symlink_metadata(path)?.kind == FileKind::Symlink {
            let message = format!("`{path}` is a link, which has no permissions");
            return Err(CommandError::new(ErrorKind::Refused, message).hint("name the file that it leads to"));
        }
        let attributes = Attributes { mode: Some(args.mode), ..Attributes::default() };
        walk(context, volume.file_system(), path, args.recursive, |path, found| {
            if found.kind != FileKind::Symlink {
                edits.push(Edit::SetAttributes { path, attributes: attributes.clone() });
            }
            Ok(())
        })?
        .check()?;
    }
    drop(volume);
    carry_out(context, &args.change, args.report, EditPlan { edits })
}

/// Reads permission bits from octal digits.
pub(super) fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| "permission bits are octal digits, at most 7777, as in 0644".to_owned())
}
