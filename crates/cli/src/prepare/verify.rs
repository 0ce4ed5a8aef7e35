//! Everything that was written, read back from the files.

use std::thread::{self, ScopedJoinHandle};

use imgcore::block::{BlockRead, ByteRange, Change, Joined, Staged, extents};
use imgcore::fs::ext4;
use imgcore::image::{self, Disk, Format, OpenOptions, OpenPolicy};
use imgcore::partition::Table;
use imgcore::storage::{Access, FileDisk};
use seed::iso::{self, VolumeLabel};

use super::Plan;
use super::stage::{DISK_FILE, SEED_FILE, StagedDisk};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::machine::{Machine, Staging};

/// Reads the machine's files back and compares them with what was staged, while they are being synced.
pub(super) fn files(
    plan: &Plan,
    staged: &StagedDisk,
    machine: &Machine,
    staging: &Staging,
    context: &Context,
) -> Result<(), CommandError> {
    // The overlay names the base that it was made on, by the path that was resolved for it.
    let options = OpenOptions { format: Some(Format::Qcow2), policy: OpenPolicy::PlainPaths, ..OpenOptions::default() };
    let disk = match &plan.target {
        Some(target) => target.open(context)?,
        None => image::open(&staging.path().join(DISK_FILE), &options)?,
    };
    if plan.target.is_none() {
        same_base(&disk, machine)?;
    }
    if disk.size() != plan.size {
        return Err(differs(format!("the disk has {} bytes, not {}", disk.size(), plan.size)));
    }
    thread::scope(|scope| {
        let synced = scope.spawn(|| staging.sync());
        let bytes = scope.spawn(|| match &plan.target {
            Some(_) => everything(&disk, staged),
            None => changes(&disk, &staged.disk),
        });
        meaning(plan, &disk, staged, staging)?;
        joined(bytes)?;
        joined(synced)
    })
}

/// Reads the partition table, the file systems with every planned path, the data disks, and the seed.
fn meaning(plan: &Plan, disk: &Disk, staged: &StagedDisk, staging: &Staging) -> Result<(), CommandError> {
    let _sound: Option<Table> = Table::read(disk)?;
    for (place, edits) in &staged.edited {
        ext4::verify(&Joined::open(disk, place)?, edits)?;
    }
    for data in &plan.data {
        let disk = data.open(staging.path())?;
        if disk.size() != data.staged().size() {
            return Err(differs(format!("a data disk has {} bytes, not {}", disk.size(), data.staged().size())));
        }
        changes(&disk, data.staged())?;
        data.check(&disk)?;
    }
    if let Some(seed) = &plan.seed {
        let file = FileDisk::open(&staging.path().join(SEED_FILE), Access::Read)?;
        iso::verify(&file, &VolumeLabel::new(seed.label)?, &seed.tree)?;
    }
    Ok(())
}

fn joined(thread: ScopedJoinHandle<'_, Result<(), CommandError>>) -> Result<(), CommandError> {
    thread.join().unwrap_or_else(|_| Err(CommandError::new(ErrorKind::Unexpected, "the verification was cut short")))
}

fn same_base(disk: &Disk, machine: &Machine) -> Result<(), CommandError> {
    let below = disk.backing().map(|backing| backing.path().to_owned());
    if below.as_ref() == Some(&machine.base.path) {
        Ok(())
    } else {
        Err(differs(format!("the overlay is not on `{}`", machine.base.path.display())))
    }
}

/// Compares every changed byte.
fn changes<D>(disk: &Disk, staged: &Staged<D>) -> Result<(), CommandError> {
    for change in staged.changes() {
        let range = change.range();
        if let Change::Zeroes(_) = change {
            zeroed(disk, range)?;
        } else if !change.is_on(disk)? {
            return Err(differs(format!("bytes {range} of the disk are not what was staged")));
        }
    }
    Ok(())
}

/// Compares every byte.
fn everything(disk: &Disk, staged: &StagedDisk) -> Result<(), CommandError> {
    let (mut ours, mut theirs) = (vec![0; LONG_PIECE], vec![0; LONG_PIECE]);
    for extent in extents(&staged.disk, ByteRange::new(0, staged.disk.size()).unwrap_or_default()) {
        let extent = extent?;
        if extent.reads_as_zeros() {
            zeroed(disk, extent.range)?;
            continue;
        }
        let mut offset = extent.range.start();
        while offset < extent.range.end() {
            let left = usize::try_from(extent.range.end().saturating_sub(offset)).unwrap_or(usize::MAX).min(LONG_PIECE);
            let (ours, theirs) = (ours.get_mut(..left).unwrap_or_default(), theirs.get_mut(..left).unwrap_or_default());
            staged.disk.read_exact_at(ours, offset)?;
            disk.read_exact_at(theirs, offset)?;
            if ours != theirs {
                return Err(differs(format!("bytes from {offset} on of the disk are not what was staged")));
            }
            offset = offset.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}

/// Reads a run that must be zeros; what is known to be needs no reading.
fn zeroed(disk: &Disk, range: ByteRange) -> Result<(), CommandError> {
    let mut buf = vec![0; PIECE];
    for extent in extents(disk, range) {
        let extent = extent?;
        let mut offset = extent.range.start();
        while !extent.reads_as_zeros() && offset < extent.range.end() {
            let left = usize::try_from(extent.range.end().saturating_sub(offset)).unwrap_or(usize::MAX);
            let part = buf.get_mut(..left.min(PIECE)).unwrap_or_default();
            disk.read_exact_at(part, offset)?;
            if part.iter().any(|byte| *byte != 0) {
                return Err(differs(format!("bytes {range} of the disk are not zeros")));
            }
            offset = offset.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}

fn differs(message: String) -> CommandError {
    CommandError::new(ErrorKind::Corrupt, "what was written does not read back as it was planned")
        .with_source(CommandError::new(ErrorKind::Corrupt, message))
        .hint("nothing was published; the storage below may be failing")
}

/// Bytes that are read at a time.
const PIECE: usize = 1 << 16;

/// Bytes that are read at a time from an export, where they are under way together.
const LONG_PIECE: usize = 4 << 20;
