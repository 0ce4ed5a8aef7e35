use crate::block::{BlockRead, BlockWrite, ByteRange, Hole};
use crate::fs::Error;
use crate::fs::ext4::bitmap::Bitmap;
use crate::fs::ext4::edit::{bytes_of, fresh_block_map, load_block_map};
use crate::fs::ext4::error::refused;
use crate::fs::ext4::group::{BLOCK_UNINIT, Group, INODE_UNINIT, INODE_ZEROED};
use crate::fs::ext4::layout::{Checksums, Layout};
use crate::fs::ext4::volume::Volume;

/// What was the last group, with the blocks that it gained.
#[derive(Debug)]
pub(super) struct LastGroup {
    pub(super) group: Group,
    /// Clusters.
    pub(super) gained: u32,
    map: Bitmap,
}

impl LastGroup {
    /// Returns the last group as it will be with the `new` geometry, or `None` when it has all its blocks already.
    pub(super) fn read<D: BlockRead>(volume: &Volume<D>, new: &Layout) -> Result<Option<Self>, Error> {
        let old = volume.layout();
        let number = old.groups.saturating_sub(1);
        let (before, after) = (old.group_clusters(number), new.group_clusters(number));
        if before == after {
            return Ok(None);
        }
        let mut map = load_block_map(volume, number)?;
        let mut group = volume.group(number)?.clone();
        let gained = after.saturating_sub(before);
        map.set(before..after, false);
        group.free_clusters = group.free_clusters.saturating_add(gained);
        group.flags &= !BLOCK_UNINIT;
        seal(&mut group, &map, new);
        Ok(Some(Self { group, gained, map }))
    }

    pub(super) fn write<D: BlockWrite>(&self, disk: &mut D, layout: &Layout) -> Result<(), Error> {
        Ok(disk.write_all_at(self.map.bytes(), offset(layout, self.group.block_bitmap))?)
    }
}

/// A group that is added, with nothing in it.
#[derive(Debug)]
pub(super) struct NewGroup {
    pub(super) group: Group,
    /// Clusters that its layout takes.
    pub(super) used: u32,
    /// `None` when the descriptor says that it was never written.
    block_map: Option<Bitmap>,
    /// `None` when the descriptor says that it was never written.
    inode_map: Option<Bitmap>,
}

impl NewGroup {
    /// Returns group `number`, with its bitmaps and its inode table in itself.
    pub(super) fn make(number: u32, layout: &Layout) -> Result<Self, Error> {
        let before = layout.overhead_before_bitmaps(number);
        let mut group = Group::new(layout);
        group.block_bitmap = layout.group_start(number).saturating_add(before);
        group.inode_bitmap = group.block_bitmap.saturating_add(1);
        group.inode_table = group.inode_bitmap.saturating_add(1);
        let used = before.saturating_add(2).saturating_add(u64::from(layout.inode_table_blocks()));
        let used = u32::try_from(used.div_ceil(u64::from(layout.cluster_blocks))).unwrap_or(u32::MAX);
        let free = layout.group_clusters(number).checked_sub(used).filter(|free| *free > 0);
        group.free_clusters = free.ok_or_else(|| refused("has groups that are too small to add one"))?;
        group.free_inodes = layout.inodes_per_group;
        let mut new = Self { group, used, block_map: None, inode_map: None };
        if layout.checksums == Checksums::None {
            new.inode_map = Some(Bitmap::empty(layout.block_bytes(), layout.inodes_per_group));
        } else {
            new.group.itable_unused = layout.inodes_per_group;
            new.group.flags = INODE_UNINIT | INODE_ZEROED;
        }
        // The last group has blocks behind its end that only a written bitmap can exclude.
        let is_last = number.saturating_add(1) == layout.groups;
        if layout.checksums == Checksums::None || is_last {
            let map = fresh_block_map(layout, &new.group, number);
            seal(&mut new.group, &map, layout);
            new.block_map = Some(map);
        } else {
            new.group.flags |= BLOCK_UNINIT;
        }
        Ok(new)
    }

    /// Zeroes the bitmaps and the inode table, and writes the bitmaps that are not left out.
    pub(super) fn write<D: BlockWrite>(&self, disk: &mut D, layout: &Layout) -> Result<(), Error> {
        let end = self.group.inode_table.saturating_add(u64::from(layout.inode_table_blocks()));
        let range = ByteRange::new(offset(layout, self.group.block_bitmap), offset(layout, end)).unwrap_or_default();
        disk.write_zeroes_at(range, Hole::Allow)?;
        if let Some(map) = &self.block_map {
            disk.write_all_at(map.bytes(), offset(layout, self.group.block_bitmap))?;
        }
        if let Some(map) = &self.inode_map {
            disk.write_all_at(map.bytes(), offset(layout, self.group.inode_bitmap))?;
        }
        Ok(())
    }
}

/// Puts the checksum of a block bitmap into its descriptor.
fn seal(group: &mut Group, map: &Bitmap, layout: &Layout) {
    if layout.has_metadata_csum() {
        let covered = map.bytes().get(..bytes_of(layout.clusters_per_group())).unwrap_or_default();
        group.block_bitmap_csum = Group::bitmap_csum(layout, covered);
    }
}

fn offset(layout: &Layout, block: u64) -> u64 {
    block.saturating_mul(u64::from(layout.block_size))
}
