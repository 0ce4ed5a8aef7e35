//! A change with an undo log: the old contents are durable beside the disk before its first write.

use std::path::Path;

use imgcore::block::{BlockRead, BlockWrite, Change, Resize, UndoLog};
use imgcore::image::{Format, WritableDisk};
use imgcore::storage::Replacement;

use super::{Changing, VolumeArgs, forget, verify, write};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{open, options};
use crate::place::Place;

/// Writes the changes to `disk` behind a log of what they overwrite, and reads them back.
pub(super) fn change<T>(
    context: &Context,
    args: &VolumeArgs,
    staged: &Changing<T>,
    mut disk: WritableDisk,
    log: &Path,
) -> Result<(), CommandError> {
    let changes = staged.changes.changes();
    let options = options(Some(disk.format()), args.trust);
    if disk.size() != staged.size {
        // A longer disk shows the same as before, and stays.
        disk.resize(staged.size)?;
        disk.flush()?;
    }
    keep(context, &disk, &about(context, &args.image, disk.format())?, &changes, log)?;
    let written = write(&mut disk, &changes);
    drop(disk);
    let checked = written.and_then(|()| {
        forget(&open(context, &args.image, &options)?, &changes);
        verify(context, &args.image, &options, &changes)
    });
    let undo = format!("`vmimg disk undo {} {}` puts the old contents back", args.image.display(), log.display());
    checked.map_err(|error| error.hint(undo))
}

/// Makes the log, whole and durable.
fn keep(context: &Context, disk: &WritableDisk, about: &str, changes: &[Change<'_>], path: &Path) -> Result<(), CommandError> {
    // What it holds was in files that not everybody may read.
    let file = Replacement::create_private(&context.absolute(path), context.entropy(None).next_u64())?;
    let file = UndoLog::record(disk, about, changes, file)?.into_inner();
    UndoLog::open(file.reopen()?)?;
    Ok(file.publish_new()?)
}

/// Returns what a log says of its disk: format, and path or address.
///
/// # Errors
///
/// [`ErrorKind::NotFound`] without such a file.
pub(in crate::commands::disk) fn about(context: &Context, image: &Path, format: Format) -> Result<String, CommandError> {
    let place = match Place::of(context, image)? {
        Place::File(path) => path.canonicalize().map_err(|error| {
            CommandError::new(ErrorKind::NotFound, format!("cannot find `{}`", path.display())).with_source(error)
        })?,
        Place::Export(uri) => uri.as_str().into(),
    };
    Ok(format!("{format} {}", place.display()))
}
