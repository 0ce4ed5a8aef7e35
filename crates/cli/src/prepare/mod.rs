//! Prepare: from a base image to a machine that is ready to boot, as a transaction.
//!
//! ```text
//! resolve   Base       the image opened read-only and locked, its partitions, the guest inside        (shared by a fleet)
//! plan      Plan       sizes, identity, edits of the guest, seed documents, domain: all as data        (--dry-run stops here)
//! stage     Staged     partition and file system grown and edited in memory
//!           ROOT/.NAME.XXXXXX/   disk.qcow2 in one pass, data disks, seed.iso, domain.xml, machine.json
//! attached  what the kernel is to change on that disk, for `--via nbd`: XFS and btrfs
//! verify               everything read back from those files: each changed byte, the file systems, every planned path, the seed
//! publish   ROOT/NAME  synced and renamed
//! ```
//!
//! With a target, the disk is written into an NBD export in place of an overlay, its first bytes last (`target`).
//!
//! Nothing exists under the machine's name before the last step, and nothing but the hidden folder is ever written.

mod attached;
mod base;
mod data;
mod fleet;
mod manifest;
mod master;
mod plan;
mod report;
mod settings;
mod stage;
mod target;
mod verify;

pub use data::{DataDisk, Ephemeral};
pub use fleet::{Fleet, Outcome};
pub use manifest::read as read_manifest;
pub use plan::Plan;
pub use report::{Report, describe};
pub use settings::{Datasource, Link, Nic, Request, Settings};

use base::Base;
use master::AcceptedKey;
use target::Target;

use crate::context::Context;
use crate::error::CommandError;
use crate::machine::{Machine, RECORD_FILE, Root, Staging};

/// Prepares one machine on an opened base: stages, verifies and publishes what `plan` says.
fn execute(plan: &Plan, base: &Base, root: &Root, context: &Context) -> Result<Machine, CommandError> {
    context.interrupt().check()?;
    let disk = stage::disk(plan, base, context)?;
    let staging = Staging::create(root, &plan.name)?;
    let machine = stage::files(plan, base, &disk, &staging, context)?;
    context.interrupt().check()?;
    attached::change(plan, &disk, &staging, context)?;
    verify::files(plan, &disk, &machine, &staging, context)?;
    stage::write_record(&staging.path().join(RECORD_FILE), &machine)?;
    let unique = plan.identity.uuid.as_u64_pair().1;
    let accepted = match (&plan.master_keys, &plan.planned.minion) {
        (Some(folder), Some(key)) => Some(AcceptedKey::accept(folder, key, unique)?),
        _ => None,
    };
    // The last moment at which a signal still undoes everything.
    context.interrupt().check()?;
    staging.publish()?;
    if let Some(accepted) = accepted {
        accepted.keep();
    }
    Ok(machine)
}
