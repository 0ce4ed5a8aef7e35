//! `vmimg remove`: removes machines with their disks.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use imgcore::block;
use imgcore::storage::{Access, FileDisk, Lock, LockKind};

use super::running::Running;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::hypervisor::{Booted, Hypervisor as _, Qemu, occupy};
use crate::machine::{MachineName, Root, RootArgs};

/// The arguments of `vmimg remove`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg remove web1
  vmimg remove web1 web2 --force

The disks go, too; the base image stays.")]
pub struct Args {
    /// The machines
    #[arg(value_name = "NAME", required = true)]
    names: Vec<MachineName>,
    /// Switch off what runs, and remove what is broken
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    root: RootArgs,
}

/// Runs `vmimg remove`.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when a machine runs or its disk is in use.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    args.names.iter().try_for_each(|name| remove(context, &root, name, args.force))
}

fn remove(context: &Context, root: &Root, name: &MachineName, force: bool) -> Result<(), CommandError> {
    match root.load(name) {
        Err(error) if !force || error.kind() != ErrorKind::Corrupt => return Err(error),
        // What cannot be read can still be removed.
        _ => {}
    }
    let folder = root.folder(name);
    let _lock = occupy(&folder)?;
    if force && Booted::load(&folder).is_err_and(|error| error.kind() == ErrorKind::Corrupt) {
        // What cannot be read is taken for a machine that QEMU runs directly; one of libvirt's holds its disk.
        Booted::forget(&folder);
        Qemu::new(context, &folder).destroy()?;
    }
    let running = Running::find(context, root, name)?;
    if running.state()?.is_active() {
        if !force {
            let error = CommandError::new(ErrorKind::Refused, format!("the machine `{name}` runs"));
            return Err(error.hint(format!("`vmimg stop {name}` ends it; `--force` switches it off")));
        }
        running.active()?.1.destroy()?;
    }
    refuse_used(&folder, name)?;
    if let Some(hypervisor) = running.hypervisor() {
        hypervisor.undefine()?;
    }
    let cannot = |error| CommandError::io(format!("cannot remove the machine `{name}`"), error);
    // Made as a preparation's folder, so that a removal that is killed is completed by the next preparation.
    let hidden = tempfile::Builder::new().prefix(&format!(".{name}.")).tempdir_in(root.path()).map_err(cannot)?;
    // The machine is there as a whole or not at all.
    fs::rename(&folder, hidden.path()).map_err(cannot)?;
    hidden.close().map_err(cannot)
}

/// Refuses to remove a machine of whose disks another program has one open for writing.
fn refuse_used(folder: &Path, name: &MachineName) -> Result<(), CommandError> {
    let cannot = |error| CommandError::io(format!("cannot look into `{}`", folder.display()), error);
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        // `disk.qcow2`, `disk.eph0`, `disk.swap`, whatever the record says.
        if !entry.file_name().as_bytes().starts_with(b"disk.") {
            continue;
        }
        let locked = FileDisk::open(&entry.path(), Access::ReadWrite);
        match locked.and_then(|disk| Lock::acquire(&disk, LockKind::Write).map(drop)) {
            Err(error) if error.kind() == block::ErrorKind::InUse => {
                let error = CommandError::from(error).context(format!("the disk of `{name}` is in use"));
                let hint = "another program has it open, perhaps a virtual machine that was not started by `vmimg boot`";
                return Err(error.hint(hint));
            }
            // What cannot be opened for another reason is no obstacle to its removal.
            _ => {}
        }
    }
    Ok(())
}
