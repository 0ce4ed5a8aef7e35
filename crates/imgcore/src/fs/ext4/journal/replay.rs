use super::super::error::{corrupt, refused};
use super::super::feature::{HAS_JOURNAL, RECOVER, check_known};
use super::super::group::read_groups;
use super::super::layout::Layout;
use super::super::superblock::{RawSuperblock, SUPERBLOCK_OFFSET};
use super::block::MAGIC;
use super::log::Journal;
use super::scan::{Copy, Found, scan};
use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;

/// Writes what the journal has to where it belongs, empties the journal and marks the file system so.
///
/// Nothing happens when it was unmounted. Otherwise the device then holds what a mount would have shown; files that wait to be
/// deleted still do. A failure of the device in the middle leaves a part of it, so `disk` is a [`crate::block::Staged`] or a copy.
///
/// # Errors
///
/// [`Error::Refused`] names the feature in the way, [`Error::Corrupt`] the broken rule: nothing has been written then.
pub(in crate::fs::ext4) fn replay<D: BlockWrite>(disk: &mut D) -> Result<(), Error> {
    let raw = RawSuperblock::read(disk)?;
    if !raw.has_incompat(RECOVER) {
        return Ok(());
    }
    write_log(disk, &raw)?;
    let mut raw = RawSuperblock::read(disk)?;
    raw.s_feature_incompat.set(raw.s_feature_incompat.get() & !RECOVER);
    // A mounted file system counts in its groups alone.
    let layout = Layout::decode(&raw, disk.size())?;
    let groups = read_groups(disk, &layout)?;
    let clusters: u64 = groups.iter().map(|group| u64::from(group.free_clusters)).sum();
    raw.set_free_blocks_count(clusters.saturating_mul(u64::from(layout.cluster_blocks)));
    raw.s_free_inodes_count.set(groups.iter().map(|group| group.free_inodes).fold(0, u32::saturating_add));
    Ok(disk.write_all_at(&raw.encode(), SUPERBLOCK_OFFSET)?)
}

/// Writes the complete transactions home, makes that durable, and empties the log.
pub(in crate::fs::ext4) fn write_log<D: BlockWrite>(disk: &mut D, raw: &RawSuperblock) -> Result<(), Error> {
    if !raw.has_compat(HAS_JOURNAL) {
        return Err(corrupt("superblock", "a file system without a journal needs no replay"));
    }
    check_known(raw)?;
    let mut journal = Journal::open(disk, raw)?;
    if journal.is_empty() {
        return Ok(());
    }
    let found = scan(&journal, disk)?;
    let next = journal.raw.s_sequence.get().wrapping_add(found.transactions);
    journal.check_fast_commits(disk, next)?;
    check_copies(&journal, disk, &found)?;
    let size = journal.block_size;
    let mut block = vec![0; journal.format.block_size];
    // The superblock comes last: before they replay, others look at all descriptors that it counts.
    let first_block = raw.home_block();
    for is_first in [false, true] {
        for (home, copy) in found.copies.iter().filter(|(home, _)| (**home == first_block) == is_first) {
            read_copy(&journal, disk, copy, &mut block)?;
            disk.write_all_at(&block, home.saturating_mul(size))?;
        }
        disk.flush()?;
    }
    // What was not complete has this number: it is not to be taken for part of what comes.
    journal.write_start(disk, 0, next.wrapping_add(1))?;
    Ok(disk.flush()?)
}

/// Checks that the copies have places, and are not more than memory is given to.
fn check_copies<D: BlockRead>(journal: &Journal, disk: &D, found: &Found) -> Result<(), Error> {
    let size = journal.block_size;
    let blocks = disk.size().checked_div(size).unwrap_or_default();
    if let Some((home, _)) = found.copies.last_key_value().filter(|(home, _)| **home >= blocks) {
        return Err(corrupt(format!("journal, block {home}"), "it lies inside the file system"));
    }
    let bytes = u64::try_from(found.copies.len()).unwrap_or(u64::MAX).saturating_mul(size.max(4096));
    if bytes > MOST_BYTES {
        return Err(refused("has more than 1 GiB of changes in its journal: mount it once, or run e2fsck"));
    }
    Ok(())
}

fn read_copy<D: BlockRead + ?Sized>(journal: &Journal, disk: &D, copy: &Copy, block: &mut [u8]) -> Result<(), Error> {
    journal.read(disk, copy.index, block)?;
    // Spec: "if the first four bytes of the block match the jbd2 magic number then those four bytes are replaced with zeroes and the
    // “escaped” flag is set in the descriptor block tag."
    if let Some(start) = block.get_mut(..4).filter(|_| copy.is_escaped) {
        start.copy_from_slice(&MAGIC.to_be_bytes());
    }
    Ok(())
}

/// Refuses a file system that says that it was unmounted, but whose journal is not empty.
///
/// The kernel would drop the journal, and e2fsck would replay it over what is written now.
pub(in crate::fs::ext4) fn check_idle<D: BlockRead>(disk: &D, raw: &RawSuperblock) -> Result<(), Error> {
    let is_external = raw.s_journal_inum.get() == 0 || raw.s_journal_dev.get() != 0;
    if !raw.has_compat(HAS_JOURNAL) || is_external || Journal::open(disk, raw)?.is_empty() {
        return Ok(());
    }
    Err(refused("says that it was unmounted, but its journal has changes: run e2fsck first"))
}

/// The most bytes that a journal may change.
const MOST_BYTES: u64 = 1 << 30;
