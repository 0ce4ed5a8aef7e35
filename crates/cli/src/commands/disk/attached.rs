//! File systems of an image that the kernel mounts, for `--via nbd`.

use std::path::Path;
use std::sync::Arc;

use imgcore::fs::{EditPlan, FileSystem};
use imgcore::image::Format;
use imgcore::partition::{self, Growth, Table};
use imgcore::storage::{self, FileDisk};
use seed::guest::{Volume, VolumeContent};

use super::carry_out::look;
use super::change::ChangeArgs;
use super::volume::{VolumeArgs, looks_like_a_root, those_of};
use crate::attached::{Access, Attached, Target};
use crate::context::Context;
use crate::draft::Draft;
use crate::error::{CommandError, ErrorKind};
use crate::mounted::Mounted;
use crate::open::{open, open_writable, options};
use crate::place::Place;
use crate::volumes::{attach, volumes};

/// An image whose file systems are looked at, with the one that is meant.
pub(super) struct Looked {
    /// What each partition holds.
    pub(super) volumes: Vec<Volume>,
    pub(super) target: Target,
    format: Format,
    /// What is mounted is gone before the device.
    attached: Attached,
}

impl Looked {
    /// Attaches the image that `args` name, mounts what it has, and finds the file system that is meant. The image stays as it is.
    pub(super) fn open(context: &Context, args: &VolumeArgs) -> Result<Self, CommandError> {
        let disk = Arc::new(open(context, &args.image, &options(args.format, args.trust))?);
        let format = disk.format();
        let attached = Attached::open(context, &args.image, format, args.trust, Access::Private)?;
        let table = Table::read(&disk)?;
        let mut volumes = volumes(&disk, table.as_ref())?;
        let _all = attach(&mut volumes, &attached);
        let number = match (args.partition, &table) {
            (Some(number), _) => number,
            (None, None) => 0,
            (None, Some(table)) => match root(&volumes, table)? {
                Some(number) => number,
                None => return Err(nothing(&volumes, &attached, table)),
            },
        };
        let target = attached.find(number)?;
        Ok(Self { volumes, target, format, attached })
    }

    /// Returns the files of the file system that is meant, and what they are on.
    pub(super) fn files(self) -> Result<(Mounted, Attached), CommandError> {
        drop(self.volumes);
        Ok((self.attached.mount(self.target, false)?, self.attached))
    }
}

/// Returns the partition with the guest's root, or the only one with a file system that can be read, if there is one.
fn root(volumes: &[Volume], table: &Table) -> Result<Option<u32>, CommandError> {
    let readable: Vec<(u32, &dyn FileSystem)> = volumes
        .iter()
        .filter_map(|volume| match &volume.content {
            VolumeContent::Files(files) => Some((volume.partition, &**files)),
            VolumeContent::Other(_) => None,
        })
        .collect();
    let roots: Vec<u32> = readable.iter().filter(|(_, files)| looks_like_a_root(*files)).map(|(number, _)| *number).collect();
    match (roots.as_slice(), readable.as_slice()) {
        ([one], _) | ([], [(one, _)]) => Ok(Some(*one)),
        ([], []) => Ok(None),
        _ => Err(CommandError::new(ErrorKind::Usage, "more than one partition could be the root")
            .hint(those_of(table))
            .hint("`--partition N` chooses one")),
    }
}

/// Returns why nothing is mounted.
fn nothing(volumes: &[Volume], attached: &Attached, table: &Table) -> CommandError {
    let known = volumes.iter().filter(|volume| attached.probe(volume.partition).is_ok());
    let failed = known.map(|volume| attached.find(volume.partition)).find_map(Result::err);
    let none = || CommandError::new(ErrorKind::Unsupported, "no partition has ext4, XFS or btrfs").hint(those_of(table));
    failed.unwrap_or_else(none)
}

/// Carries out `plan` on the file system that `args` name; returns its partition. The image is as it was after a failure.
pub(super) fn carry_out(context: &Context, args: &ChangeArgs, plan: &mut EditPlan) -> Result<u32, CommandError> {
    let looked = Looked::open(context, &args.volume)?;
    let (target, format) = (looked.target, looked.format);
    look(context, &looked.volumes, &args.volume, target.number, plan)?;
    drop(looked.volumes);
    looked.attached.close()?;

    let change = Change { context, args, format, target };
    let draft = change.draft()?;
    let now = context.unix_time();
    change.attached(draft.path(), Access::Writable, |_, files| {
        files.apply(plan, now, || context.interrupt().check())?;
        Ok(files.sync()?)
    })?;
    change.attached(draft.path(), Access::ReadOnly, |_, files| Ok(files.verify(plan)?))?;
    context.interrupt().check()?;
    draft.publish()?;
    Ok(target.number)
}

/// How large something was, and is, in bytes.
pub(super) type Sizes = (u64, u64);

/// Gives the partition that `args` name, and the file system in it, the space that the disk has. The image is as it was after a
/// failure.
pub(super) fn grow(context: &Context, args: &ChangeArgs) -> Result<(Option<(u32, Growth)>, Sizes), CommandError> {
    let looked = Looked::open(context, &args.volume)?;
    let (target, format) = (looked.target, looked.format);
    drop(looked.volumes);
    looked.attached.close()?;

    let change = Change { context, args, format, target };
    let draft = change.draft()?;
    let mut grown = None;
    if target.number > 0 {
        let mut copy = open_writable(context, draft.path(), &options(Some(format), args.volume.trust))?;
        grown = Some((target.number, partition::grow(&mut copy, target.number)?));
        copy.close()?;
    }
    let old = change.attached(draft.path(), Access::Writable, |attached, files| {
        let old = attached.grow(target, files)?;
        files.sync()?;
        Ok(old)
    })?;
    let new = change.attached(draft.path(), Access::ReadOnly, |attached, _| Ok(attached.probe(target.number)?.size))?;
    if new < old {
        return Err(CommandError::new(ErrorKind::Storage, "the file system does not read back as it was grown"));
    }
    context.interrupt().check()?;
    draft.publish()?;
    Ok((grown, (old, new)))
}

/// A change of one file system of an image, by way of a copy.
struct Change<'a> {
    context: &'a Context,
    args: &'a ChangeArgs,
    format: Format,
    target: Target,
}

impl Change<'_> {
    /// Returns a private copy of the image.
    fn draft(&self) -> Result<Draft, CommandError> {
        let refused = |message: String| Err(CommandError::new(ErrorKind::Unsupported, message));
        if self.args.in_place || self.args.undo_log.is_some() {
            return refused("`--via nbd` changes a copy, and then puts it into the place of the image".to_owned());
        }
        match Place::of(self.context, &self.args.volume.image)? {
            Place::Export(uri) => refused(format!("`{uri}` is an NBD export, which is not changed at once by way of a device")),
            Place::File(path) => Draft::copy_of(self.context, &FileDisk::open(&path, storage::Access::Read)?),
        }
    }

    /// Lets `work` have the file system, mounted from the image at `path`.
    fn attached<T>(
        &self,
        path: &Path,
        access: Access,
        work: impl FnOnce(&Attached, &Mounted) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let attached = Attached::open(self.context, path, self.format, self.args.volume.trust, access)?;
        let files = attached.mount(self.target, access == Access::Writable)?;
        let outcome = work(&attached, &files)?;
        drop(files);
        attached.close()?;
        Ok(outcome)
    }
}
