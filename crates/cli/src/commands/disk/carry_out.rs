//! Edits of a guest's files: all of them, with the guest's own labels, read back; or none.

use std::sync::Arc;

use imgcore::fs::ext4::{self, Editor, Timestamp};
use imgcore::fs::{Edit, EditPlan, GuestPath};
use seed::guest::{self, Selinux, Tree, Volume, VolumeId};
use seed::plan::{Step, label_new_files};

use super::attached;
use super::change::{ChangeArgs, Task, change};
use super::volume::{Via, VolumeArgs, choose};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::layout::Layout;
use crate::open::{open, options};
use crate::output::{ReportArgs, print_json, printable, warn};
use crate::volumes::volumes;

/// Carries out `plan` on the file system that `args` name, and prints its steps when JSON is wanted.
///
/// # Errors
///
/// [`ErrorKind::Refused`] for a path that the guest hides under a mount, and the failures of the file system and of the files. The
/// image is as it was then.
pub(super) fn carry_out(
    context: &Context,
    args: &ChangeArgs,
    report: ReportArgs,
    mut plan: EditPlan,
) -> Result<(), CommandError> {
    if args.volume.via == Via::Nbd {
        let id = attached::carry_out(context, args, &mut plan)?;
        return print(context, report, &id, &plan);
    }
    let id = prepare(context, &args.volume, &mut plan)?;
    let now = Timestamp { secs: context.unix_time(), nanos: 0 };
    change(context, args, Task { volume: Some(id.clone()), ..Task::default() }, |part| {
        let mut editor = Editor::open(&mut *part, now)?;
        editor.apply(&plan)?;
        editor.finish()?;
        Ok(ext4::verify(part, &plan)?)
    })?;
    print(context, report, &id, &plan)
}

/// Prints the steps when JSON is wanted.
fn print(context: &Context, report: ReportArgs, id: &VolumeId, plan: &EditPlan) -> Result<(), CommandError> {
    if !report.json {
        return Ok(());
    }
    let steps: Vec<Step> = plan.edits.iter().map(|edit| Step::of(id, edit)).collect();
    print_json(context, &steps)
}

/// Looks at the guest: refuses what it hides, and adds its labels. Returns the volume.
fn prepare(context: &Context, args: &VolumeArgs, plan: &mut EditPlan) -> Result<VolumeId, CommandError> {
    let disk = Arc::new(open(context, &args.image, &options(args.format, args.trust))?);
    let id = choose(&disk, args.partition.as_ref())?;
    look(context, &volumes(&disk, &Layout::read(&disk)?)?, args, &id, plan)?;
    Ok(id)
}

/// Looks at the guest that `volumes` hold, as [`prepare`].
pub(super) fn look(
    context: &Context,
    volumes: &[Volume],
    args: &VolumeArgs,
    id: &VolumeId,
    plan: &mut EditPlan,
) -> Result<(), CommandError> {
    // Without a guest that is understood, nothing is known about its mounts and labels.
    let tree = match Tree::assemble(volumes, None) {
        Ok(tree) => tree,
        Err(error @ guest::Error::TooManyMounts) if args.partition.is_none() => {
            return Err(CommandError::from(error).hint("`--partition` with the root's number changes it all the same"));
        }
        Err(_) => return Ok(()),
    };
    if args.partition.is_none() {
        refuse_hidden(&tree, plan)?;
    }
    let Ok(selinux) = Selinux::inspect(&tree) else { return Ok(()) };
    if !label_new_files(&tree, selinux.as_ref(), id, plan, || context.interrupt().check())? {
        warn(
            context,
            "the guest's SELinux policy has no label for some of the new files: have it label them, as by `/.autorelabel`",
        );
    }
    Ok(())
}

/// Refuses what the guest would not see, as it mounts another file system there.
fn refuse_hidden(tree: &Tree, plan: &EditPlan) -> Result<(), CommandError> {
    let paths = |edit| [Some((Edit::path(edit), Edit::follows(edit))), Edit::source(edit).map(|from| (from, false))];
    for (path, follows) in plan.edits.iter().flat_map(paths).flatten() {
        let Some(point) = hiding(tree, path, follows) else { continue };
        let Some((mount, device, partition)) = tree.mounts().filter(|(mount, ..)| **mount == point).last() else { continue };
        let message = format!("`{path}` would be hidden: the guest mounts `{}` on `{mount}`", printable(device));
        let hint = match partition {
            Some(id) => format!("`--partition {id}` puts it there, with the path as that file system has it"),
            None => "`--partition` with the root's number puts it under the mount all the same".to_owned(),
        };
        return Err(CommandError::new(ErrorKind::Refused, message).hint(hint));
    }
    Ok(())
}

/// Returns the mount point under which `path` of the root's file system lies, links of the guest followed.
fn hiding(tree: &Tree, path: &GuestPath, follows: bool) -> Option<GuestPath> {
    let resolved = if follows { tree.resolve(path) } else { tree.resolve_parent(path) };
    let real = match resolved {
        Ok(resolved) => resolved.path,
        // The folder that the guest mounts on is the root's, and what is below is not.
        Err(guest::Error::Mounted { mount_point, .. }) => {
            let above = path.parent().and_then(|above| tree.resolve(&above).ok());
            let point = above.zip(path.name()).and_then(|(above, name)| above.path.join(name).ok());
            if point.as_ref() != Some(&mount_point) {
                return Some(mount_point);
            }
            mount_point
        }
        Err(_) => path.clone(),
    };
    let over = tree.mounts().filter(|(mount, _, _)| real != **mount && real.strip_prefix(mount).is_some());
    let over = over.max_by_key(|(mount, _, _)| mount.as_str().len())?;
    Some(over.0.clone()).filter(|_| over.2 != Some(&tree.root_partition()))
}
