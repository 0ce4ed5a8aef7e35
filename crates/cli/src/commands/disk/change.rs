//! Changing an image in place: all at once or not at all.

use std::path::Path;

use imgcore::block::{BlockRead, BlockWrite, Change, Hole, Staged};
use imgcore::image::{Disk, OpenOptions};

use super::volume::VolumeArgs;
use crate::context::Context;
use crate::draft::Draft;
use crate::error::{CommandError, ErrorKind};
use crate::open::{open, open_writable, options};

/// Lets `change` work on the disk in the image that `args` name, then makes the image what came out of it.
///
/// Until everything has been changed in memory, nothing is written; then a private copy of the file is changed, read back and
/// renamed over the original.
///
/// # Errors
///
/// What `change` fails with, and the failures of the files. The image is as it was then.
pub(super) fn change<T>(
    context: &Context,
    args: &VolumeArgs,
    change: impl FnOnce(&mut Staged<Disk>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let disk = open(context, &args.image, &options(args.format, args.trust))?;
    let options = options(Some(disk.format()), args.trust);
    let mut staged = Staged::new(disk);
    let outcome = change(&mut staged)?;
    context.interrupt().check()?;
    let changes = staged.changes();
    if changes.is_empty() {
        return Ok(outcome);
    }
    let file = staged.base().storage().as_file().ok_or_else(|| {
        let message = format!("`{}` is an NBD export, and changing one in place is not supported", args.image.display());
        CommandError::new(ErrorKind::Unsupported, message)
            .hint("`vmimg image convert` makes a file of it, and with `-n` writes the changed file back")
    })?;
    let draft = Draft::copy_of(context, file)?;
    let mut copy = open_writable(context, draft.path(), &options)?;
    for change in &changes {
        match change {
            Change::Data(offset, bytes) => copy.write_all_at(bytes, *offset)?,
            Change::Zeroes(range) => copy.write_zeroes_at(*range, Hole::Allow)?,
        }
    }
    copy.close()?;
    drop(copy);
    verify(context, draft.path(), &options, &changes)?;
    context.interrupt().check()?;
    draft.publish()?;
    Ok(outcome)
}

/// Reads every change back from the file.
fn verify(context: &Context, path: &Path, options: &OpenOptions, changes: &[Change<'_>]) -> Result<(), CommandError> {
    let disk = open(context, path, options)?;
    let mut buf = Vec::new();
    for change in changes {
        let Change::Data(offset, bytes) = change else { continue };
        buf.resize(bytes.len(), 0);
        disk.read_exact_at(&mut buf, *offset)?;
        if buf != *bytes {
            let message = format!("`{}` does not read back as it was written at offset {offset}", path.display());
            return Err(CommandError::new(ErrorKind::Storage, message).hint("the image is as it was"));
        }
    }
    Ok(())
}
