use std::mem::offset_of;
use std::sync::OnceLock;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{crc16, crc32c};
use super::error::corrupt;
use super::layout::{Checksums, Layout};
use super::superblock::{halves, halves16, join};
use crate::block::BlockRead;
use crate::fs::Error;

/// A group descriptor as stored. One of 32 bytes ends before `bg_block_bitmap_hi`.
///
/// Spec: "Block Group Descriptors", `struct ext4_group_desc`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawGroupDescriptor {
    pub(super) bg_block_bitmap_lo: U32,
    pub(super) bg_inode_bitmap_lo: U32,
    pub(super) bg_inode_table_lo: U32,
    pub(super) bg_free_blocks_count_lo: U16,
    pub(super) bg_free_inodes_count_lo: U16,
    pub(super) bg_used_dirs_count_lo: U16,
    pub(super) bg_flags: U16,
    pub(super) bg_exclude_bitmap_lo: U32,
    pub(super) bg_block_bitmap_csum_lo: U16,
    pub(super) bg_inode_bitmap_csum_lo: U16,
    pub(super) bg_itable_unused_lo: U16,
    pub(super) bg_checksum: U16,
    pub(super) bg_block_bitmap_hi: U32,
    pub(super) bg_inode_bitmap_hi: U32,
    pub(super) bg_inode_table_hi: U32,
    pub(super) bg_free_blocks_count_hi: U16,
    pub(super) bg_free_inodes_count_hi: U16,
    pub(super) bg_used_dirs_count_hi: U16,
    pub(super) bg_itable_unused_hi: U16,
    pub(super) bg_exclude_bitmap_hi: U32,
    pub(super) bg_block_bitmap_csum_hi: U16,
    pub(super) bg_inode_bitmap_csum_hi: U16,
    pub(super) bg_reserved: U32,
}

// Offsets as printed in the specification.
const _: () = {
    assert!(size_of::<RawGroupDescriptor>() == 64);
    assert!(offset_of!(RawGroupDescriptor, bg_flags) == 0x12);
    assert!(offset_of!(RawGroupDescriptor, bg_itable_unused_lo) == 0x1C);
    assert!(offset_of!(RawGroupDescriptor, bg_checksum) == 0x1E);
    assert!(offset_of!(RawGroupDescriptor, bg_block_bitmap_hi) == 0x20);
    assert!(offset_of!(RawGroupDescriptor, bg_block_bitmap_csum_hi) == 0x38);
};

impl RawGroupDescriptor {
    /// Returns the fields of a descriptor that may be shorter or longer.
    fn from_stored(bytes: &[u8]) -> Self {
        let mut whole = [0; 64];
        let known = bytes.len().min(64);
        if let (Some(to), Some(from)) = (whole.get_mut(..known), bytes.get(..known)) {
            to.copy_from_slice(from);
        }
        zerocopy::transmute!(whole)
    }
}

fn wide(low: U16, high: U16) -> u32 {
    u32::from(high.get()) << 16 | u32::from(low.get())
}

/// A group descriptor: where a group's bitmaps and table lie, and what is free. Checked on decoding.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    /// Clusters, which are blocks without `bigalloc`.
    pub(super) free_clusters: u32,
    pub(super) free_inodes: u32,
    pub(super) used_dirs: u32,
    /// Inodes at the end of the table that were never used.
    pub(super) itable_unused: u32,
    pub(super) flags: u16,
    pub(super) block_bitmap_csum: u32,
    pub(super) inode_bitmap_csum: u32,
    /// The bytes as stored, for the fields that are kept.
    stored: Vec<u8>,
}

impl Group {
    /// Returns the descriptor of a new group, nothing in it known yet.
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            block_bitmap: 0,
            inode_bitmap: 0,
            inode_table: 0,
            free_clusters: 0,
            free_inodes: 0,
            used_dirs: 0,
            itable_unused: 0,
            flags: 0,
            block_bitmap_csum: 0,
            inode_bitmap_csum: 0,
            stored: vec![0; usize::from(layout.desc_size)],
        }
    }

    /// Decodes the descriptor of group `number` from its bytes, and checks its checksum, places and counts.
    pub(super) fn decode(bytes: &[u8], number: u32, layout: &Layout) -> Result<Self, Error> {
        let group = Self::decode_places(bytes, number, layout)?;
        let bad = |rule: &str| corrupt(format!("group descriptor {number}"), rule);
        if group.free_inodes > layout.inodes_per_group || group.itable_unused > layout.inodes_per_group {
            return Err(bad("it has no more free inodes than inodes"));
        }
        if group.free_clusters > layout.group_clusters(number) {
            return Err(bad("it has no more free blocks than blocks"));
        }
        Ok(group)
    }

    /// Decodes the descriptor of group `number` as [`Group::decode`] does, but for its counts: before the journal is replayed, they
    /// can be those of a file system that has grown.
    pub(super) fn decode_places(bytes: &[u8], number: u32, layout: &Layout) -> Result<Self, Error> {
        let bad = |rule: &str| corrupt(format!("group descriptor {number}"), rule);
        let raw = RawGroupDescriptor::from_stored(bytes);
        if layout.checksums != Checksums::None && raw.bg_checksum.get() != checksum(bytes, number, layout) {
            return Err(bad("its checksum matches its bytes"));
        }
        // What the feature left behind that nobody heeds any more.
        let has_flags = layout.checksums != Checksums::None;
        let group = Self {
            block_bitmap: join(raw.bg_block_bitmap_lo.get(), raw.bg_block_bitmap_hi.get()),
            inode_bitmap: join(raw.bg_inode_bitmap_lo.get(), raw.bg_inode_bitmap_hi.get()),
            inode_table: join(raw.bg_inode_table_lo.get(), raw.bg_inode_table_hi.get()),
            free_clusters: wide(raw.bg_free_blocks_count_lo, raw.bg_free_blocks_count_hi),
            free_inodes: wide(raw.bg_free_inodes_count_lo, raw.bg_free_inodes_count_hi),
            used_dirs: wide(raw.bg_used_dirs_count_lo, raw.bg_used_dirs_count_hi),
            itable_unused: if has_flags { wide(raw.bg_itable_unused_lo, raw.bg_itable_unused_hi) } else { 0 },
            flags: if has_flags { raw.bg_flags.get() } else { 0 },
            block_bitmap_csum: wide(raw.bg_block_bitmap_csum_lo, raw.bg_block_bitmap_csum_hi),
            inode_bitmap_csum: wide(raw.bg_inode_bitmap_csum_lo, raw.bg_inode_bitmap_csum_hi),
            stored: bytes.to_vec(),
        };
        let table_end = group.inode_table.checked_add(u64::from(layout.inode_table_blocks()));
        let first = u64::from(layout.first_data_block);
        let inside = |block: u64| block > first && block < layout.blocks_count;
        if !inside(group.block_bitmap) || !inside(group.inode_bitmap) || !inside(group.inode_table) {
            return Err(bad("the bitmaps and the inode table lie inside the file system"));
        }
        if table_end.is_none_or(|end| end > layout.blocks_count) {
            return Err(bad("the inode table ends inside the file system"));
        }
        Ok(group)
    }

    /// Returns the bytes to store for group `number`, with the right checksum.
    pub(super) fn encode(&self, number: u32, layout: &Layout) -> Vec<u8> {
        let mut raw = RawGroupDescriptor::from_stored(&self.stored);
        let set_wide = |value: u64, low: &mut U32, high: &mut U32| {
            let (below, above) = halves(value);
            low.set(below);
            high.set(above);
        };
        set_wide(self.block_bitmap, &mut raw.bg_block_bitmap_lo, &mut raw.bg_block_bitmap_hi);
        set_wide(self.inode_bitmap, &mut raw.bg_inode_bitmap_lo, &mut raw.bg_inode_bitmap_hi);
        set_wide(self.inode_table, &mut raw.bg_inode_table_lo, &mut raw.bg_inode_table_hi);
        let set = |value: u32, low: &mut U16, high: &mut U16| {
            let (below, above) = halves16(value);
            low.set(below);
            high.set(above);
        };
        set(self.free_clusters, &mut raw.bg_free_blocks_count_lo, &mut raw.bg_free_blocks_count_hi);
        set(self.free_inodes, &mut raw.bg_free_inodes_count_lo, &mut raw.bg_free_inodes_count_hi);
        set(self.used_dirs, &mut raw.bg_used_dirs_count_lo, &mut raw.bg_used_dirs_count_hi);
        set(self.itable_unused, &mut raw.bg_itable_unused_lo, &mut raw.bg_itable_unused_hi);
        set(self.block_bitmap_csum, &mut raw.bg_block_bitmap_csum_lo, &mut raw.bg_block_bitmap_csum_hi);
        set(self.inode_bitmap_csum, &mut raw.bg_inode_bitmap_csum_lo, &mut raw.bg_inode_bitmap_csum_hi);
        raw.bg_flags.set(self.flags);
        let mut bytes = self.stored.clone();
        let known = bytes.len().min(64);
        if let (Some(to), Some(from)) = (bytes.get_mut(..known), raw.as_bytes().get(..known)) {
            to.copy_from_slice(from);
        }
        if layout.checksums != Checksums::None {
            let sum = checksum(&bytes, number, layout);
            if let Some(place) = bytes.get_mut(CHECKSUM..CHECKSUM_END) {
                place.copy_from_slice(&sum.to_le_bytes());
            }
        }
        bytes
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Returns the crc32c of a bitmap's `bytes` in the width that a descriptor stores.
    pub(super) fn bitmap_csum(layout: &Layout, bytes: &[u8]) -> u32 {
        let sum = crc32c(layout.seed, bytes);
        if layout.desc_size >= 64 { sum } else { sum & 0xFFFF }
    }
}

/// The group descriptors of a file system, the primary ones: read and checked when one of them is asked for, with those beside it.
#[derive(Debug)]
pub(super) struct Groups {
    /// Those of each block of descriptors.
    blocks: Vec<OnceLock<Vec<Group>>>,
    per_block: u32,
}

impl Groups {
    /// Returns those of a file system of this layout, none read.
    pub(super) fn of(layout: &Layout) -> Self {
        let per_block = layout.descriptors_per_block();
        let blocks = usize::try_from(layout.groups.div_ceil(per_block)).unwrap_or_default();
        Self { blocks: std::iter::repeat_with(OnceLock::new).take(blocks).collect(), per_block }
    }

    /// Returns the first one alone.
    pub(super) fn first(group: Group) -> Self {
        Self { blocks: vec![vec![group].into()], per_block: u32::MAX }
    }

    /// Returns that of group `number`.
    pub(super) fn get<D: BlockRead + ?Sized>(&self, number: u32, disk: &D, layout: &Layout) -> Result<&Group, Error> {
        let missing = || corrupt(format!("group {number}"), "it exists");
        let (block, index) = self.place(number);
        let cell = self.blocks.get(block).ok_or_else(missing)?;
        let groups = match cell.get() {
            Some(groups) => groups,
            None => {
                let groups = read_block(disk, number.saturating_sub(index), layout)?;
                cell.get_or_init(|| groups)
            }
        };
        usize::try_from(index).ok().and_then(|index| groups.get(index)).ok_or_else(missing)
    }

    /// Returns that of group `number`, to be changed.
    pub(super) fn get_mut<D: BlockRead + ?Sized>(
        &mut self,
        number: u32,
        disk: &D,
        layout: &Layout,
    ) -> Result<&mut Group, Error> {
        self.get(number, disk, layout)?;
        let (block, index) = self.place(number);
        let groups = self.blocks.get_mut(block).and_then(OnceLock::get_mut);
        let group = groups.and_then(|groups| groups.get_mut(usize::try_from(index).ok()?));
        group.ok_or_else(|| corrupt(format!("group {number}"), "it exists"))
    }

    /// Returns the block of descriptors that has that of group `number`, and its place there.
    fn place(&self, number: u32) -> (usize, u32) {
        let block = number.checked_div(self.per_block).and_then(|block| usize::try_from(block).ok());
        (block.unwrap_or(usize::MAX), number.checked_rem(self.per_block).unwrap_or_default())
    }
}

/// Reads all group descriptors, the primary ones.
pub(super) fn read_groups<D: BlockRead + ?Sized>(disk: &D, layout: &Layout) -> Result<Vec<Group>, Error> {
    let per_block = usize::try_from(layout.descriptors_per_block()).unwrap_or(usize::MAX);
    let mut groups = Vec::new();
    for first in (0..layout.groups).step_by(per_block) {
        groups.extend(read_block(disk, first, layout)?);
    }
    Ok(groups)
}

/// Returns how many clusters and inodes are free in all groups, as the descriptors say; these are not checked.
pub(super) fn sum_free<D: BlockRead + ?Sized>(disk: &D, layout: &Layout) -> Result<(u64, u64), Error> {
    let (mut clusters, mut inodes) = (0_u64, 0_u64);
    let per_block = layout.descriptors_per_block();
    let mut block = vec![0; layout.block_bytes()];
    for first in (0..layout.groups).step_by(usize::try_from(per_block).unwrap_or(usize::MAX)) {
        disk.read_exact_at(&mut block, layout.descriptor_offset(first))?;
        let stored = block.chunks_exact(usize::from(layout.desc_size));
        for (_, bytes) in (first..first.saturating_add(per_block).min(layout.groups)).zip(stored) {
            let raw = RawGroupDescriptor::from_stored(bytes);
            clusters = clusters.saturating_add(wide(raw.bg_free_blocks_count_lo, raw.bg_free_blocks_count_hi).into());
            inodes = inodes.saturating_add(wide(raw.bg_free_inodes_count_lo, raw.bg_free_inodes_count_hi).into());
        }
    }
    Ok((clusters, inodes))
}

/// Reads the block of descriptors of which the first is that of group `first`.
fn read_block<D: BlockRead + ?Sized>(disk: &D, first: u32, layout: &Layout) -> Result<Vec<Group>, Error> {
    let mut block = vec![0; layout.block_bytes()];
    disk.read_exact_at(&mut block, layout.descriptor_offset(first))?;
    let numbers = first..first.saturating_add(layout.descriptors_per_block()).min(layout.groups);
    let stored = numbers.zip(block.chunks_exact(usize::from(layout.desc_size)));
    stored.map(|(number, bytes)| Group::decode(bytes, number, layout)).collect()
}

fn checksum(bytes: &[u8], number: u32, layout: &Layout) -> u16 {
    let before = bytes.get(..CHECKSUM).unwrap_or_default();
    let behind = bytes.get(CHECKSUM_END..).unwrap_or_default();
    // Spec: "The bg_checksum field in bg_desc is skipped when calculating crc16 checksum, and set to zero if crc32c checksum is
    // used."
    if layout.has_metadata_csum() {
        let sum = |bytes: &[u8]| halves16(crc32c(layout.seed, bytes)).0;
        let parts = [&number.to_le_bytes(), before, &[0, 0], behind];
        // One piece of a known length is much faster than four.
        let mut usual = [0; 4 + 64];
        if bytes.len() == 64 {
            let places = usual.iter_mut().zip(parts.into_iter().flatten());
            places.for_each(|(to, from)| *to = *from);
            return sum(&usual);
        }
        sum(&parts.concat())
    } else {
        let start = crc16(crc16(u16::MAX, &layout.uuid), &number.to_le_bytes());
        crc16(crc16(start, before), behind)
    }
}

const CHECKSUM: usize = 0x1E;
const CHECKSUM_END: usize = 0x20;

/// The inode bitmap was never written: no inode is in use.
pub(super) const INODE_UNINIT: u16 = 1;
/// The block bitmap was never written: only the metadata of the layout is in use.
pub(super) const BLOCK_UNINIT: u16 = 2;
/// The inode table was zeroed.
pub(super) const INODE_ZEROED: u16 = 4;
