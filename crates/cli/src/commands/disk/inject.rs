//! `vmimg disk inject`: files, folders and links go into a guest, all of them or none.

use std::path::PathBuf;

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use super::manifest;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::ReportArgs;

/// The arguments of `vmimg disk inject`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The manifest is a JSON list of objects, carried out in their order:
  op       write    a host file becomes the contents of a file
           append   a host file goes behind the end of a file
           line     a line goes behind the end of a file without it
           mkdir    a folder      symlink  a symbolic link
           link     one more name of a file
           node     a device node, FIFO or socket
           rename   another name  remove   a file, or a folder and all in it
           set      mode, owner, time or attributes alone
  path     the path in the guest; folders above it are made when missing
  src      for write and append: the file, relative to the manifest's folder
  line     for line: its text
  target   for symlink: its text; for link: a name that the file has
  from     for rename: the name until now
  type     for node: char, block, fifo or socket; with major and minor
  mode     permission bits: a number, or octal digits as in \"0644\"
  uid, gid the owner's and the group's number
  mtime    modification time in seconds since 1970
  xattrs   extended attributes: {\"user.name\": \"hexadecimal digits\"}
A file that exists gets new contents and keeps what the object does not say.

[{\"op\": \"mkdir\", \"path\": \"/srv/www\", \"mode\": \"0755\", \"uid\": 33, \"gid\": 33},
 {\"op\": \"write\", \"path\": \"/srv/www/index.html\", \"src\": \"index.html\"}]

Examples:
  vmimg disk inject --manifest files.json web1.qcow2
  vmimg disk inject -f raw --partition 1 --manifest files.json disk.raw")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// What to put into the guest
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let plan = manifest::read(context, &args.manifest, &args.change.volume.image)?;
    carry_out(context, &args.change, args.report, plan)
}
