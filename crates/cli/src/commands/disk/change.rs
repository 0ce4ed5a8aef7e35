//! Changing an image: all at once or not at all.
//!
//! ```text
//! in place   devices and exports always, image files when their file system has a journal that takes the change
//! a copy     other image files: changed, read back and renamed over the original
//! with a log, as the user asks: the old contents beside the disk, then the change; `vmimg disk undo` takes it back
//! ```
//!
//! In place is the default: what it costs grows with the change, while a copy grows with the image, and both leave the old state
//! or the new one after a cut.

mod logged;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use imgcore::block::{BlockRead, Change, Changes, Joined, Resize, Staged};
use imgcore::image::{Disk, OpenOptions, WritableDisk};
use imgcore::partition::{self, Growth};
use imgcore::storage::Lock;
use seed::guest::VolumeId;

pub(super) use self::logged::about;
use super::volume::{VolumeArgs, choose, refuse_other, window};
use crate::context::Context;
use crate::draft::Draft;
use crate::error::{CommandError, ErrorKind};
use crate::in_place::{InPlace, NotInPlace};
use crate::layout::{Layout, not_grown};
use crate::open::{open, open_writable, options};
use crate::place::Place;

/// What is changed, and how.
#[derive(Debug, clap::Args)]
pub(super) struct ChangeArgs {
    /// Change the image itself, or fail; without it, a copy where it must be
    #[arg(long)]
    pub(super) in_place: bool,
    /// Change a copy of the image file, which then replaces it
    #[arg(long, conflicts_with = "in_place")]
    copy: bool,
    /// Keep what is overwritten in this new file, for `vmimg disk undo`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["in_place", "copy"])]
    pub(super) undo_log: Option<PathBuf>,
    #[command(flatten)]
    pub(super) volume: VolumeArgs,
}

impl ChangeArgs {
    /// Returns those that say no more of the way than where an undo log goes.
    pub(super) fn new(volume: VolumeArgs, undo_log: Option<PathBuf>) -> Self {
        Self { in_place: false, copy: false, undo_log, volume }
    }
}

/// What is to be done to a disk besides what is done to a file system.
#[derive(Clone, Debug, Default)]
pub(super) struct Task {
    /// The volume, partition 0 for the whole disk; otherwise the one that the arguments mean.
    pub(super) volume: Option<VolumeId>,
    /// The bytes that the disk gets first.
    pub(super) size: Option<u64>,
    /// Whether the partition takes up the space behind it then.
    pub(super) grow_partition: bool,
    /// Whether the file system is made anew, which its journal cannot hold.
    pub(super) anew: bool,
}

/// What has become of a disk.
#[derive(Debug)]
pub(super) struct Changed<T> {
    /// What the work returned.
    pub(super) outcome: T,
    /// The partition that was to grow, and its growth.
    pub(super) grown: Option<(u32, Growth)>,
}

/// A volume in memory, over its disk.
pub(super) type Part<'s, 'd> = Joined<&'s mut Staged<&'d dyn BlockRead>>;

/// Lets `work` change the volume that `args` and `task` name, then makes the image what came out of it.
///
/// Until everything has been changed in memory, nothing is written; afterwards everything is read back.
///
/// # Errors
///
/// What `work` fails with, [`NotInPlace`], and the failures of the files. The image is as it was then.
pub(super) fn change<T>(
    context: &Context,
    args: &ChangeArgs,
    task: Task,
    work: impl FnOnce(&mut Part<'_, '_>) -> Result<T, CommandError>,
) -> Result<Changed<T>, CommandError> {
    let way = Way::of(context, args, &task)?;
    let volume = &args.volume;
    if way == Way::Copy {
        let disk = open(context, &volume.image, &options(volume.format, volume.trust))?;
        let staged = stage(&disk, volume, task, work)?;
        if !staged.is_nothing(disk.size()) {
            let (path, options) = (disk.path().to_owned(), options(Some(disk.format()), volume.trust));
            copy(context, &path, disk.into_lock(), &options, &staged)?;
        }
        return Ok(staged.changed);
    }
    let mut disk = open_writable(context, &volume.image, &options(volume.format, volume.trust))?;
    let staged = stage(&disk, volume, task, work)?;
    if staged.is_nothing(disk.size()) {
        return Ok(staged.changed);
    }
    let changes = staged.changes.changes();
    context.interrupt().check()?;
    let is_alone = disk.qcow2().is_none_or(|image| image.data_file().is_none());
    let options = options(Some(disk.format()), volume.trust);
    if let Some(log) = &args.undo_log {
        let changed = logged::change(context, volume, &staged, disk, log);
        return changed.map(|()| staged.changed);
    }
    match InPlace::plan(&disk, staged.size, &changes, staged.changed.grown) {
        Ok(plan) => {
            plan.run(&mut disk)?;
            disk.close()?;
            drop(disk);
            let disk = open(context, &volume.image, &options)?;
            forget(&disk, &changes);
            plan.verify(&disk)?;
        }
        Err(NotInPlace::Unsupported(_)) if way == Way::Either && is_alone => {
            let path = disk.path().to_owned();
            copy(context, &path, disk.into_lock(), &options, &staged)?;
        }
        Err(NotInPlace::Unsupported(error)) => return Err(error.hint(WITH_LOG)),
        Err(NotInPlace::Failed(error)) => return Err(error),
    }
    Ok(staged.changed)
}

const WITH_LOG: &str = "`--undo-log FILE` keeps the old contents in a file, from which `vmimg disk undo` brings them back";

/// How an image is changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    InPlace,
    Copy,
    /// In place, or else a copy.
    Either,
}

impl Way {
    fn of(context: &Context, args: &ChangeArgs, task: &Task) -> Result<Self, CommandError> {
        let place = Place::of(context, &args.volume.image)?;
        let found = match &place {
            Place::File(path) => path.metadata().ok(),
            Place::Export(_) => None,
        };
        let is_file =
            matches!(place, Place::File(_)) && found.as_ref().is_none_or(|found| !found.file_type().is_block_device());
        let what = if found.is_some() { "a block device" } else { "an NBD export" };
        if let Some(log) = &args.undo_log {
            if context.absolute(log).symlink_metadata().is_ok() {
                let message = format!("`{}` exists already", log.display());
                return Err(CommandError::new(ErrorKind::Refused, message).hint("an undo log is a new file"));
            }
            return Ok(Self::InPlace);
        }
        match (is_file, args.in_place, args.copy) {
            (false, _, true) => {
                let message = format!("`{}` is {what}, which is changed in place", args.volume.image.display());
                Err(CommandError::new(ErrorKind::Usage, message).hint("leave `--copy` out"))
            }
            (false, ..) if task.anew => {
                let message =
                    format!("`{}` is {what}, where a new file system cannot be made at once", args.volume.image.display());
                Err(CommandError::new(ErrorKind::Unsupported, message).hint(WITH_LOG))
            }
            (false, ..) | (true, true, _) => Ok(Self::InPlace),
            (true, false, true) => Ok(Self::Copy),
            // Other names of the file would show the change too: that is for the user to say.
            (true, false, false) if task.anew || found.is_some_and(|found| found.nlink() > 1) => Ok(Self::Copy),
            (true, false, false) => Ok(Self::Either),
        }
    }
}

/// A disk that was changed in memory.
#[derive(Debug)]
struct Changing<T> {
    changed: Changed<T>,
    changes: Changes,
    /// Bytes of the disk.
    size: u64,
}

impl<T> Changing<T> {
    /// Returns whether the disk, of `size` bytes, stays as it is.
    fn is_nothing(&self, size: u64) -> bool {
        self.changes.changes().is_empty() && size == self.size
    }
}

/// Changes the disk in memory.
fn stage<T>(
    disk: &dyn BlockRead,
    args: &VolumeArgs,
    task: Task,
    work: impl FnOnce(&mut Part<'_, '_>) -> Result<T, CommandError>,
) -> Result<Changing<T>, CommandError> {
    let mut staged = Staged::new(disk);
    let id = match task.volume {
        Some(id) => id,
        None => choose(&staged, args.partition.as_ref())?,
    };
    Layout::read(&staged)?.refuse_read_only(&id)?;
    if let Some(size) = task.size {
        if size < disk.size() {
            let message = format!("the disk has {} bytes and is not made smaller", disk.size());
            return Err(CommandError::new(ErrorKind::Refused, message).hint("`vmimg image resize --shrink` cuts its end off"));
        }
        staged.resize(size)?;
    }
    let grown = match id {
        VolumeId::Partition(number @ 1..) if task.grow_partition => Some((number, partition::grow(&mut staged, number)?)),
        VolumeId::Logical { .. } if task.grow_partition => return Err(not_grown(&id)),
        _ => None,
    };
    let mut volume = window(&mut staged, &id)?;
    let outcome = match work(&mut volume) {
        Ok(outcome) => outcome,
        Err(error) if task.anew => return Err(error),
        Err(error) => {
            // That it is something else explains more than that it is a broken ext4.
            refuse_other(&volume, &id)?;
            return Err(error);
        }
    };
    let size = staged.size();
    Ok(Changing { changed: Changed { outcome, grown }, changes: staged.into_changes(), size })
}

/// Changes a private copy of the file at `path`, reads it back and renames it over the original, which was under `lock` since the
/// change was made in memory.
fn copy<T>(
    context: &Context,
    path: &Path,
    lock: Option<Lock>,
    options: &OpenOptions,
    staged: &Changing<T>,
) -> Result<(), CommandError> {
    let changes = staged.changes.changes();
    let draft = Draft::copy_of(context, path, lock)?;
    let mut copy = open_writable(context, draft.path(), options)?;
    copy.resize(staged.size)?;
    write(&mut copy, &changes)?;
    drop(copy);
    verify(context, draft.path(), options, &changes).map_err(|error| error.hint("the image is as it was"))?;
    context.interrupt().check()?;
    draft.publish()
}

/// Writes the changes one after the other, durably.
fn write(disk: &mut WritableDisk, changes: &[Change<'_>]) -> Result<(), CommandError> {
    for change in changes {
        change.write_to(disk)?;
    }
    Ok(disk.close()?)
}

/// Has what is read back come from the storage, and not from memory.
fn forget(disk: &Disk, changes: &[Change<'_>]) {
    match (disk.raw_file(), disk.storage().as_file()) {
        (Some(raw), _) => changes.iter().for_each(|change| raw.forget(change.range())),
        (None, Some(file)) => file.forget_all(),
        (None, None) => {}
    }
}

/// Reads every change back from the file.
fn verify(context: &Context, path: &Path, options: &OpenOptions, changes: &[Change<'_>]) -> Result<(), CommandError> {
    let disk = open(context, path, options)?;
    for change in changes {
        if !change.is_on(&disk)? {
            let offset = change.range().start();
            let message = format!("`{}` does not read back as it was written at offset {offset}", path.display());
            return Err(CommandError::new(ErrorKind::Storage, message));
        }
    }
    Ok(())
}
