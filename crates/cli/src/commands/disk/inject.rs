//! `vmimg disk inject`: files, folders and links go into a guest, all of them or none.

use std::path::PathBuf;
use std::sync::Arc;

use imgcore::fs::EditPlan;
use imgcore::fs::ext4::{self, Editor, Timestamp};
use imgcore::partition::Table;
use seed::guest::Tree;

use super::change::change;
use super::manifest;
use super::volume::{VolumeArgs, choose, window};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{open, options};
use crate::output::printable;
use crate::volumes::volumes;

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
    volume: VolumeArgs,
    /// What to put into the guest
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let plan = manifest::read(context, &args.manifest)?;
    if args.volume.partition.is_none() {
        refuse_hidden(context, args, &plan)?;
    }
    let now = Timestamp { secs: context.unix_time(), nanos: 0 };
    change(context, &args.volume, |disk| {
        let number = choose(disk, args.volume.partition)?;
        let mut editor = Editor::open(window(&mut *disk, number)?, now)?;
        editor.apply(&plan)?;
        editor.finish()?;
        Ok(ext4::verify(&window(&*disk, number)?, &plan)?)
    })
}

/// Refuses what the guest would not see, as it mounts another file system there.
fn refuse_hidden(context: &Context, args: &Args, plan: &EditPlan) -> Result<(), CommandError> {
    let VolumeArgs { format, trust, image, .. } = &args.volume;
    let disk = Arc::new(open(context, image, &options(*format, *trust))?);
    let table = Table::read(&disk)?;
    // Without a guest that is understood, nothing is known about its mounts.
    let Ok(tree) = Tree::assemble(&volumes(&disk, table.as_ref())?, None) else { return Ok(()) };
    for path in plan.edits.iter().flat_map(|edit| [Some(edit.path()), edit.source()]).flatten() {
        let over = tree.mounts().filter(|(mount, _, _)| path != *mount && path.strip_prefix(mount).is_some());
        let over = over.max_by_key(|(mount, _, _)| mount.as_str().len());
        let Some((mount, device, partition)) = over.filter(|(_, _, partition)| *partition != Some(tree.root_partition()))
        else {
            continue;
        };
        let message = format!("`{path}` would be hidden: the guest mounts `{}` on `{mount}`", printable(device));
        let hint = match partition {
            Some(number) => format!("`--partition {number}` puts it there, with the path as that file system has it"),
            None => "`--partition` with the root's number puts it under the mount all the same".to_owned(),
        };
        return Err(CommandError::new(ErrorKind::Refused, message).hint(hint));
    }
    Ok(())
}
