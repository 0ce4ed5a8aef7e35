//! File systems of an image that the kernel mounts, for `--via nbd`.

use std::path::Path;
use std::sync::Arc;

use imgcore::fs::{EditPlan, FileSystem};
use imgcore::image::{Disk, Format};
use imgcore::partition::{self, Growth};
use seed::guest::{Volume, VolumeContent, VolumeId};

use super::carry_out::look;
use super::change::ChangeArgs;
use super::volume::{VolumeArgs, check, looks_like_a_root, several};
use crate::attached::{Access, Attached, Kind, Target, expect, probe};
use crate::context::Context;
use crate::draft::Draft;
use crate::error::{CommandError, ErrorKind};
use crate::layout::{Layout, not_grown};
use crate::mounted::Mounted;
use crate::open::{open, open_writable, options};
use crate::place::Place;
use crate::volumes::{attach, volumes};

/// An image whose file systems are looked at, with the one that is meant.
pub(super) struct Looked {
    /// What each volume holds.
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
        let mut attached = Attached::new(context, &args.image, format, args.trust, Access::Private)?;
        let layout = Layout::read(&disk)?;
        let mut volumes = volumes(&disk, &layout)?;
        let _all = attach(context, &mut volumes, (&disk, &layout), &mut attached)?;
        let id = match &args.partition {
            Some(id) => id.clone(),
            None if layout.table.is_none() && layout.lvm.physical.is_empty() => VolumeId::Partition(0),
            None => match root(&volumes, &layout)? {
                Some(id) => id,
                None => return Err(nothing(&volumes, (&disk, &layout), &attached)),
            },
        };
        check(&layout, &id)?;
        expect(&layout.open(&disk, &id)?, &id)?;
        attached.add(context, &id)?;
        let target = attached.find(&id)?;
        Ok(Self { volumes, target, format, attached })
    }

    /// Returns the files of the file system that is meant, and what they are on.
    pub(super) fn files(self) -> Result<(Mounted, Attached), CommandError> {
        drop(self.volumes);
        Ok((self.attached.mount(&self.target, false)?, self.attached))
    }
}

/// Returns the volume with the guest's root, or the only one with a file system that can be read, if there is one.
fn root(volumes: &[Volume], layout: &Layout) -> Result<Option<VolumeId>, CommandError> {
    let readable: Vec<(&VolumeId, &dyn FileSystem)> = volumes
        .iter()
        .filter_map(|volume| match &volume.content {
            VolumeContent::Files(files) => Some((&volume.partition, &**files)),
            VolumeContent::Other(_) => None,
        })
        .collect();
    let roots: Vec<_> = readable.iter().filter(|(_, files)| looks_like_a_root(*files)).map(|(id, _)| *id).collect();
    match (roots.as_slice(), readable.as_slice()) {
        ([one], _) | ([], [(one, _)]) => Ok(Some((*one).clone())),
        ([], []) => Ok(None),
        _ => Err(several(layout)),
    }
}

/// Returns why nothing is mounted.
fn nothing(volumes: &[Volume], (disk, layout): (&Disk, &Layout), attached: &Attached) -> CommandError {
    let failed = volumes.iter().map(|volume| &volume.partition).find_map(|id| {
        let window = layout.open(disk, id).ok()?;
        probe(&window).ok()?.filter(|found| found.kind != Kind::Ext)?;
        expect(&window, id).and_then(|_| attached.find(id)).err()
    });
    let why = volumes.iter().filter_map(|volume| match &volume.content {
        VolumeContent::Other(reason) => Some(format!("{}: {reason}", volume.partition.described())),
        VolumeContent::Files(_) => None,
    });
    let why: Vec<String> = why.collect();
    let none = || {
        CommandError::new(ErrorKind::Unsupported, "no partition has ext4, XFS or btrfs")
            .with_source(why.join("; "))
            .hint(layout.names())
    };
    failed.unwrap_or_else(none)
}

/// Carries out `plan` on the file system that `args` name; returns its volume. The image is as it was after a failure.
pub(super) fn carry_out(context: &Context, args: &ChangeArgs, plan: &mut EditPlan) -> Result<VolumeId, CommandError> {
    let looked = Looked::open(context, &args.volume)?;
    let (target, format) = (looked.target, looked.format);
    look(context, &looked.volumes, &args.volume, &target.id, plan)?;
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
    Ok(change.target.id)
}

/// How large something was, and is, in bytes.
pub(super) type Sizes = (u64, u64);

/// Returns the volume that is meant.
pub(super) fn find(context: &Context, args: &VolumeArgs) -> Result<VolumeId, CommandError> {
    let looked = Looked::open(context, args)?;
    drop(looked.volumes);
    looked.attached.close()?;
    Ok(looked.target.id)
}

/// Gives the volume that `args` name, and the file system in it, the space that the disk has. The image is as it was after a
/// failure.
pub(super) fn grow(context: &Context, args: &ChangeArgs) -> Result<(Option<(u32, Growth)>, Sizes), CommandError> {
    let looked = Looked::open(context, &args.volume)?;
    let (target, format) = (looked.target, looked.format);
    drop(looked.volumes);
    looked.attached.close()?;
    if let VolumeId::Logical { .. } = target.id {
        return Err(not_grown(&target.id));
    }

    let change = Change { context, args, format, target };
    let draft = change.draft()?;
    let mut grown = None;
    if let VolumeId::Partition(number @ 1..) = change.target.id {
        let mut copy = open_writable(context, draft.path(), &options(Some(format), args.volume.trust))?;
        grown = Some((number, partition::grow(&mut copy, number)?));
        copy.close()?;
    }
    let sizes = change.grow(&draft, None)?;
    context.interrupt().check()?;
    draft.publish()?;
    Ok((grown, sizes))
}

/// Makes the file system that `args` name as large as `to` bytes. The image is as it was after a failure.
pub(super) fn resize(context: &Context, args: &ChangeArgs, to: u64) -> Result<Sizes, CommandError> {
    let looked = Looked::open(context, &args.volume)?;
    let (target, format) = (looked.target, looked.format);
    drop(looked.volumes);
    looked.attached.close()?;

    let change = Change { context, args, format, target };
    let draft = change.draft()?;
    let sizes = change.grow(&draft, Some(to))?;
    context.interrupt().check()?;
    draft.publish()?;
    Ok(sizes)
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
            Place::File(path) => Draft::copy_of(self.context, &path, None),
        }
    }

    /// Makes the file system on a copy larger, and looks at it a second time.
    fn grow(&self, draft: &Draft, to: Option<u64>) -> Result<Sizes, CommandError> {
        let old = self.attached(draft.path(), Access::Writable, |attached, files| {
            let old = attached.grow(&self.target, files, to)?;
            files.sync()?;
            Ok(old)
        })?;
        let new = self.attached(draft.path(), Access::ReadOnly, |attached, _| Ok(attached.probe(&self.target.id)?.size))?;
        if new < old {
            return Err(CommandError::new(ErrorKind::Storage, "the file system does not read back as it was grown"));
        }
        Ok((old, new))
    }

    /// Lets `work` have the file system, mounted from the image at `path`.
    fn attached<T>(
        &self,
        path: &Path,
        access: Access,
        work: impl FnOnce(&Attached, &Mounted) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let mut attached = Attached::new(self.context, path, self.format, self.args.volume.trust, access)?;
        attached.add(self.context, &self.target.id)?;
        let files = attached.mount(&self.target, access == Access::Writable)?;
        let outcome = work(&attached, &files)?;
        drop(files);
        attached.close()?;
        Ok(outcome)
    }
}
