//! How groups are added in place.
//!
//! Linux counts the groups by the superblock that it finds, and only then replays the journal. So it must never find the old number
//! before a replay that brings the new one. It looks at all descriptors before the replay as well:
//!
//! ```text
//! new groups, and their descriptors                      written where they belong, where the old state has nothing
//! all else                                               into the journal
//! journal superblock: the log begins here                nobody replays it, as the superblock says: unmounted    flushed
//! superblock: the new size, to be replayed               the commit point, one sector                            flushed
//! ```
//!
//! Blocks that are reserved for descriptors list their copies until they have descriptors. So where some are needed, all are given up
//! before, in a transaction of its own: what lies in them is nothing then. The one behind it reserves them again.

use super::super::Timestamp;
use super::super::edit::Editor;
use super::super::error::refused;
use super::super::feature::RESIZE_INODE;
use super::super::layout::Layout;
use super::super::superblock::{RawSuperblock, SUPERBLOCK_OFFSET};
use super::sort::put;
use crate::block::{BlockRead, BlockWrite, ByteRange, Change};
use crate::fs::Error;

/// A file system gets more groups.
#[derive(Debug)]
pub(super) struct Grown {
    /// Their descriptors that share a block with those of the old groups, and where in it they are.
    descriptors: (u64, Vec<u8>),
    /// Whether more descriptors need blocks that are reserved for them.
    pub(super) needs_reserved: bool,
}

impl Grown {
    /// Returns how `changes` to the file system `old` on `disk` add groups, or `None` when they add none.
    pub(super) fn find<D: BlockRead>(old: &RawSuperblock, disk: &D, changes: &[Change<'_>]) -> Result<Option<Self>, Error> {
        let new = RawSuperblock::decode(&changed(disk, changes, SUPERBLOCK_OFFSET, 1024)?)?;
        let (old_layout, new_layout) = (Layout::decode(old, disk.size())?, Layout::decode(&new, disk.size())?);
        let Some(added) = new_layout.groups.checked_sub(old_layout.groups).filter(|added| *added > 0) else { return Ok(None) };
        let together = |layout: &Layout| layout.descriptor_blocks().min(layout.first_meta_bg.unwrap_or(u32::MAX));
        let needs_reserved = old.has_compat(RESIZE_INODE) && together(&new_layout) > together(&old_layout);
        if needs_reserved && old_layout.cluster_blocks > 1 {
            return Err(refused(
                "has clusters of descriptors and of blocks that are reserved for more, so it is not grown in place",
            ));
        }
        let per_block = old_layout.descriptors_per_block();
        let taken = old_layout.groups.checked_rem(per_block).unwrap_or_default();
        let shared = if taken == 0 { 0 } else { per_block.saturating_sub(taken).min(added) };
        let offset = new_layout.descriptor_offset(old_layout.groups);
        let len = u64::from(shared).saturating_mul(u64::from(new_layout.desc_size));
        let descriptors = (offset, changed(disk, changes, offset, if shared == 0 { 0 } else { len })?);
        Ok(Some(Self { descriptors, needs_reserved }))
    }

    /// Writes the descriptors behind those of the old state, which does not look at them.
    pub(super) fn write_descriptors<D: BlockWrite>(&self, disk: &mut D) -> Result<(), Error> {
        let (offset, bytes) = &self.descriptors;
        Ok(disk.write_all_at(bytes, *offset)?)
    }
}

/// Gives up the blocks that are reserved for descriptors.
pub(super) fn release<D: BlockWrite>(disk: &mut D) -> Result<(), Error> {
    let now = Timestamp { secs: RawSuperblock::read(disk)?.s_wtime.get().into(), nanos: 0 };
    let mut editor = Editor::open(disk, now)?;
    editor.release_descriptors()?;
    editor.finish()?;
    Ok(())
}

/// Returns `len` bytes at `offset` as they are with the changes.
pub(super) fn changed<D: BlockRead>(disk: &D, changes: &[Change<'_>], offset: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    if let Some(range) = ByteRange::at(offset, len).filter(|range| !range.is_empty()) {
        disk.read_exact_at(&mut bytes, range.start())?;
    }
    changes.iter().try_for_each(|change| put(&mut bytes, offset, change))?;
    Ok(bytes)
}
