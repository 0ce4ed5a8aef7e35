//! The journal, the orphan file and the blocks reserved for descriptors of a new file system.

use super::Editor;
use super::system::FILE;
use crate::block::BlockWrite;
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::create::journal;
use crate::fs::ext4::error::{corrupt, refused};
use crate::fs::ext4::extent::FileExtent;
use crate::fs::ext4::feature::RESIZE_INODE;
use crate::fs::ext4::grow::{RESIZE_INODE_NUMBER, double_block, set_meta_bg};
use crate::fs::ext4::inode::Inode;
use crate::fs::{Error, FileKind};

impl<D: BlockWrite> Editor<D> {
    /// Makes an empty journal of `blocks` blocks in the middle of the file system, where seeks are shortest.
    pub(in crate::fs::ext4) fn make_journal(&mut self, blocks: u32) -> Result<(), Error> {
        let layout = *self.volume.layout();
        let middle = layout.groups / 2;
        let group = middle.saturating_sub(middle.checked_rem(layout.groups_per_flex).unwrap_or_default());
        let all = self.make_system_file(JOURNAL_INODE, blocks, group)?;
        let first = all.first().ok_or_else(|| refused("cannot be made: its journal has no blocks"))?.physical;
        self.volume.store.write(first, journal::first_block(layout.block_size, blocks, layout.uuid));
        let inode = self.volume.inode(JOURNAL_INODE)?;
        let raw = &mut self.volume.raw;
        raw.s_journal_inum.set(JOURNAL_INODE);
        // Spec: "s_jnl_backup_type", 1: "the journal inode's i_block[] array and i_size are duplicated in the s_jnl_blocks field."
        raw.s_jnl_backup_type = 1;
        for (word, bytes) in raw.s_jnl_blocks.iter_mut().zip(inode.raw.i_block.chunks_exact(4)) {
            word.set(u32::from_le_bytes(bytes.try_into().unwrap_or_default()));
        }
        let [.., high, low] = &mut raw.s_jnl_blocks;
        (*high, *low) = (inode.raw.i_size_high, inode.raw.i_size_lo);
        let overhead = raw.s_overhead_blocks.get().saturating_add(blocks);
        raw.s_overhead_blocks.set(overhead);
        Ok(())
    }

    /// Makes the file that lists inodes which are deleted while they are in use; it lists none.
    ///
    /// Spec: "Orphan file", `struct ext4_orphan_block_tail`.
    pub(in crate::fs::ext4) fn make_orphan_file(&mut self) -> Result<(), Error> {
        let layout = *self.volume.layout();
        // As mke2fs chooses.
        let blocks = (layout.blocks_count / 4096).clamp(32, 512);
        let number = self.allocate_inode(0, FileKind::File)?.number;
        let all = self.make_system_file(number, u32::try_from(blocks).unwrap_or(512), 0)?;
        let seed = self.volume.inode(number)?.checksum_seed(&layout);
        let places =
            all.iter().flat_map(|extent: &FileExtent| extent.physical..extent.physical.saturating_add(u64::from(extent.len)));
        for block in places {
            let mut bytes = vec![0; layout.block_bytes().saturating_sub(8)];
            let sum = if layout.has_metadata_csum() { crc32c(crc32c(seed, &block.to_le_bytes()), &bytes) } else { 0 };
            bytes.extend_from_slice(&ORPHAN_MAGIC.to_le_bytes());
            bytes.extend_from_slice(&sum.to_le_bytes());
            self.volume.store.write(block, bytes);
        }
        self.volume.raw.s_orphan_file_inum.set(number);
        Ok(())
    }

    /// Makes inode 7, which holds the blocks that are reserved for group descriptors.
    ///
    /// ```text
    /// inode 7 -> double-indirect block | one entry for each reserved block of group 0, at its index in the descriptor table |
    ///                                    -> the reserved block itself | its copy in group 1 | in group 3 | in group 5 | ... |
    /// ```
    pub(in crate::fs::ext4) fn reserve_descriptors(&mut self) -> Result<(), Error> {
        let layout = *self.volume.layout();
        let per_block = u64::from(layout.block_size / 4);
        let copies: Vec<u32> = (1..layout.groups).filter(|number| layout.has_superblock(*number)).collect();
        let double = self.allocate_one(0)?;
        let mut double_bytes = vec![0; layout.block_bytes()];
        let start = u64::from(layout.descriptor_blocks());
        for index in start..start.saturating_add(u64::from(layout.reserved_gdt_blocks)) {
            let block = u64::from(layout.first_data_block).saturating_add(1).saturating_add(index);
            put(&mut double_bytes, index.checked_rem(per_block).unwrap_or_default(), block)?;
            let mut bytes = vec![0; layout.block_bytes()];
            for (place, number) in (0..).zip(&copies) {
                let before = u64::from(*number).saturating_mul(u64::from(layout.blocks_per_group));
                put(&mut bytes, place, before.saturating_add(block))?;
            }
            self.volume.store.write(block, bytes);
        }
        self.volume.store.write(double, double_bytes);
        let mut inode = self.new_inode(RESIZE_INODE_NUMBER, FILE | 0o600)?;
        if let Some(entry) = inode.raw.i_block.get_mut(DOUBLE_INDIRECT..DOUBLE_INDIRECT.saturating_add(4)) {
            entry.copy_from_slice(&u32::try_from(double).unwrap_or_default().to_le_bytes());
        }
        // All that direct, indirect and double-indirect blocks can list.
        let listed = per_block.saturating_mul(per_block).saturating_add(per_block).saturating_add(12);
        self.store_size(&mut inode, listed.saturating_mul(u64::from(layout.block_size)))?;
        let each = u64::try_from(copies.len()).unwrap_or(u64::MAX).saturating_add(1);
        let blocks = u64::from(layout.reserved_gdt_blocks).saturating_mul(each).saturating_add(1);
        inode.set_sectors(blocks.saturating_mul(u64::from(layout.block_size / 512)));
        self.save(&inode)
    }

    /// Lets descriptors from block `first` of their table on lie in the groups that they describe; those before it have the
    /// blocks that were reserved for them, and inode 7 holds none any more.
    pub(in crate::fs::ext4) fn turn_to_meta_bg(&mut self, first: u32) -> Result<(), Error> {
        self.empty_resize_inode()?;
        set_meta_bg(&mut self.volume.raw, first);
        self.changed = true;
        Ok(())
    }

    /// Frees the blocks that are reserved for descriptors, of which there are no more.
    pub(in crate::fs::ext4) fn release_descriptors(&mut self) -> Result<(), Error> {
        let layout = *self.volume.layout();
        self.empty_resize_inode()?;
        let before = u64::from(layout.descriptor_blocks()).saturating_add(1);
        for group in (0..layout.groups).filter(|group| layout.has_superblock(*group)) {
            let first = layout.superblock_of(group).saturating_add(before);
            self.release((first, layout.reserved_gdt_blocks.into()))?;
        }
        let features = self.volume.raw.s_feature_compat.get();
        self.volume.raw.s_feature_compat.set(features & !RESIZE_INODE);
        self.volume.raw.s_reserved_gdt_blocks.set(0);
        self.changed = true;
        Ok(())
    }

    fn empty_resize_inode(&mut self) -> Result<(), Error> {
        if self.volume.raw.has_compat(RESIZE_INODE) {
            let inode = self.volume.inode(RESIZE_INODE_NUMBER)?;
            if let Some(double) = double_block(&inode) {
                self.free((double, 1))?;
            }
            let mut empty = Inode::new(RESIZE_INODE_NUMBER, self.volume.layout(), 0);
            empty.extra.i_extra_isize.set(0);
            self.save(&empty)?;
        }
        Ok(())
    }
}

/// Writes the number of a block as entry `index` of a block of such numbers.
fn put(bytes: &mut [u8], index: u64, block: u64) -> Result<(), Error> {
    let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(4);
    let number = u32::try_from(block).ok().zip(bytes.get_mut(at..at.saturating_add(4)));
    let (number, place) = number.ok_or_else(|| corrupt("inode 7", "it lists blocks below 2^32"))?;
    place.copy_from_slice(&number.to_le_bytes());
    Ok(())
}

/// Spec: "Special inodes": 8, "Journal inode".
const JOURNAL_INODE: u32 = 8;
/// Where the number of the double-indirect block is in an inode's `i_block`, in bytes.
const DOUBLE_INDIRECT: usize = 13 * 4;
/// Spec: "ob_magic: Magic number, 0x0b10ca04".
const ORPHAN_MAGIC: u32 = 0x0B10_CA04;
