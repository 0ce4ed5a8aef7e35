//! What the kernel changes on a machine's disk, once that is a file in the hidden folder.

use imgcore::image::Format;

use super::Plan;
use super::stage::{DISK_FILE, StagedDisk};
use crate::attached::{Access, Attached};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::machine::Staging;
use crate::open::TrustArgs;

/// Has the kernel grow and edit the file systems that are left to it, and looks at them a second time.
pub(super) fn change(plan: &Plan, disk: &StagedDisk, staging: &Staging, context: &Context) -> Result<(), CommandError> {
    if disk.left.is_empty() {
        return Ok(());
    }
    let path = staging.path().join(DISK_FILE);
    // The overlay is our own, and the base that it names was opened trusting nothing.
    let new = |access| Attached::new(context, &path, Format::Qcow2, TrustArgs::OWN, access);
    let mut attached = new(Access::Writable)?;
    let mut sizes = Vec::new();
    for (target, grows, edits) in &disk.left {
        attached.add(context, &target.id)?;
        let files = attached.mount(target, true)?;
        sizes.push(if *grows { attached.grow(target, &files, None)? } else { 0 });
        files.apply(edits, plan.now, || context.interrupt().check())?;
        files.sync()?;
    }
    attached.close()?;
    let mut attached = new(Access::ReadOnly)?;
    for ((target, _, edits), old) in disk.left.iter().zip(sizes) {
        attached.add(context, &target.id)?;
        if attached.probe(&target.id)?.size < old {
            return Err(CommandError::new(ErrorKind::Storage, "the file system does not read back as it was grown"));
        }
        attached.mount(target, false)?.verify(edits)?;
    }
    attached.close()
}
