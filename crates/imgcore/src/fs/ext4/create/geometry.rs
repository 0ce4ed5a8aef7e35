use zerocopy::FromZeros;

use super::super::checksum::{CHECKSUM_START, crc32c};
use super::super::error::refused;
use super::super::feature::{
    BIT64, CSUM_SEED, EXTENTS, FLEX_BG, HAS_JOURNAL, METADATA_CSUM, ORPHAN_FILE, RESIZE_INODE, SPARSE_SUPER,
};
use super::super::layout::{Layout, is_power};
use super::super::superblock::{FLAG_SIGNED_HASH, MAGIC, RawSuperblock, STATE_VALID, halves};
use super::{CreateOptions, too_small};
use crate::fs::Error;

/// Returns the superblock of a new file system on `size` bytes, nothing in it used or free yet, and the geometry that it states.
pub(super) fn plan(options: &CreateOptions, size: u64) -> Result<(RawSuperblock, Layout), Error> {
    check(options)?;
    let shape = Shape::fit(options, size)?;
    let mut raw = RawSuperblock::new_zeroed();
    raw.s_magic.set(MAGIC);
    raw.s_rev_level.set(1);
    raw.s_state.set(STATE_VALID);
    // Spec: "s_errors: Behaviour when detecting errors", 1: "Continue".
    raw.s_errors.set(1);
    raw.s_max_mnt_count.set(u16::MAX);
    set_blocks(&mut raw, &shape, options.reserved);
    raw.s_first_data_block.set(shape.first);
    let log = options.block_size.trailing_zeros().saturating_sub(10);
    raw.s_log_block_size.set(log);
    raw.s_log_cluster_size.set(log);
    raw.s_blocks_per_group.set(shape.per_group);
    raw.s_clusters_per_group.set(shape.per_group);
    raw.s_inodes_per_group.set(shape.inodes_per_group);
    raw.s_inodes_count.set(shape.inodes_per_group.saturating_mul(shape.groups));
    raw.s_first_ino.set(FIRST_INODE);
    raw.s_inode_size.set(options.inode_size);
    set_features(&mut raw, options, &shape);
    raw.s_uuid = options.uuid;
    if let Some(place) = raw.s_volume_name.get_mut(..options.label.len()) {
        place.copy_from_slice(options.label.as_bytes());
    }
    if raw.has_incompat(CSUM_SEED) {
        raw.s_checksum_seed.set(crc32c(CHECKSUM_START, &options.uuid));
    }
    set_times(&mut raw, options)?;
    // Spec: "s_def_hash_version": 1, "Half MD4."
    raw.s_def_hash_version = 1;
    for (word, bytes) in raw.s_hash_seed.iter_mut().zip(options.hash_seed.chunks_exact(4)) {
        word.set(u32::from_le_bytes(bytes.try_into().unwrap_or_default()));
    }
    raw.s_flags.set(FLAG_SIGNED_HASH);
    // Spec: "s_default_mount_opts": 0x4 user_xattr, 0x8 acl.
    raw.s_default_mount_opts.set(0xC);
    if options.inode_size > 128 {
        raw.s_min_extra_isize.set(EXTRA_BYTES);
        raw.s_want_extra_isize.set(EXTRA_BYTES);
    }
    let layout = Layout::decode(&raw, size)?;
    Ok((raw, layout))
}

/// Sizes that fit together.
struct Shape {
    /// The first block that belongs to a group.
    first: u32,
    blocks: u64,
    per_group: u32,
    groups: u32,
    inodes_per_group: u32,
    reserved_gdt: u16,
    /// The blocks of the journal, if there is one.
    journal: Option<u32>,
}

impl Shape {
    /// Returns the largest shape on `size` bytes, as mke2fs finds it: a last group with fewer than 50 blocks for contents is left
    /// out.
    fn fit(options: &CreateOptions, size: u64) -> Result<Self, Error> {
        let block = u64::from(options.block_size);
        let bytes = size.checked_next_multiple_of(PAGE).filter(|up| *up == size).unwrap_or(size & !(PAGE - 1));
        let mut blocks = bytes.checked_div(block).unwrap_or_default();
        if blocks > u64::from(u32::MAX) {
            return Err(refused("cannot be made: more than 2^32 blocks are not supported"));
        }
        let first = u32::from(options.block_size == 1024);
        // One block of bits describes a group, and its free blocks are counted in 16 bits.
        let per_group = options.block_size.saturating_mul(8).min(MOST_PER_GROUP);
        let of_ratio = blocks.saturating_mul(block).checked_div(options.inode_ratio).unwrap_or_default();
        let inodes = options.inodes.unwrap_or(of_ratio).clamp(FEWEST_INODES, u64::from(u32::MAX));
        loop {
            let used = blocks.checked_sub(u64::from(first)).filter(|used| *used > 0).ok_or_else(|| too_small(size))?;
            let groups = u32::try_from(used.div_ceil(u64::from(per_group))).unwrap_or(u32::MAX);
            let inodes_per_group = inodes_per_group(options, inodes, groups);
            let each = inodes.div_ceil(u64::from(groups));
            let bytes = inodes.saturating_mul(u64::from(options.inode_size));
            if options.inodes.is_some() && (each > most_inodes(block) || bytes >= blocks.saturating_mul(block)) {
                return Err(refused("cannot be made: it has no room for so many inodes"));
            }
            let table = u64::from(inodes_per_group).saturating_mul(u64::from(options.inode_size)).div_ceil(block);
            let journal = options.journal_blocks(blocks);
            let reserved_gdt = reserved_gdt(options, blocks, groups);
            if journal.is_some_and(|journal| u64::from(journal) > blocks / 2) {
                return Err(refused("cannot be made: its journal would take more than half of it"));
            }
            let shape = Self { first, blocks, per_group, groups, inodes_per_group, reserved_gdt, journal };
            let rest = used.checked_rem(u64::from(per_group)).unwrap_or_default();
            let needed = shape.head(options, groups.saturating_sub(1)).saturating_add(table).saturating_add(2);
            if groups == 1 && used <= needed.saturating_add(WORTH_ALONE) {
                return Err(too_small(size));
            }
            if groups == 1 || rest == 0 || rest >= needed.saturating_add(WORTH) {
                return Ok(shape);
            }
            blocks = blocks.saturating_sub(rest);
        }
    }

    /// Returns the blocks that the superblock, the descriptors and those reserved for more of them take in a group.
    fn head(&self, options: &CreateOptions, group: u32) -> u64 {
        let has_copy =
            group <= 1 || options.ro_compat & SPARSE_SUPER == 0 || [3, 5, 7].iter().any(|base| is_power(group, *base));
        let bytes = u64::from(self.groups).saturating_mul(descriptor_size(options));
        let table = bytes.div_ceil(u64::from(options.block_size));
        u64::from(has_copy).saturating_mul(table.saturating_add(u64::from(self.reserved_gdt)).saturating_add(1))
    }
}

/// Returns the inodes of each group: their table fills whole blocks, and their number is a multiple of 8.
fn inodes_per_group(options: &CreateOptions, inodes: u64, groups: u32) -> u32 {
    let (block, inode) = (u64::from(options.block_size), u64::from(options.inode_size));
    let most = most_inodes(block);
    let wanted = inodes.div_ceil(u64::from(groups)).clamp(FEWEST_INODES, most);
    let table = wanted.saturating_mul(inode).div_ceil(block);
    let filled = table.saturating_mul(block).checked_div(inode).unwrap_or_default();
    u32::try_from((filled & !7).clamp(8, most)).unwrap_or(u32::MAX)
}

/// Returns the most inodes of a group, whose bits fill one block.
fn most_inodes(block: u64) -> u64 {
    block.saturating_mul(8).min(u64::from(MOST_PER_GROUP))
}

/// Returns the blocks to reserve for more descriptors.
///
/// Spec: mke2fs(8), `-E resize`, "resize_inode": so much that the file system can become 1024 times as large.
fn reserved_gdt(options: &CreateOptions, blocks: u64, groups: u32) -> u16 {
    if options.compat & RESIZE_INODE == 0 {
        return 0;
    }
    let block = u64::from(options.block_size);
    let most = options.most_blocks.unwrap_or_else(|| blocks.saturating_mul(1024)).min(u64::from(u32::MAX));
    let first = u64::from(options.block_size == 1024);
    let per_group = u64::from(options.block_size.saturating_mul(8).min(MOST_PER_GROUP));
    let descriptors = block.checked_div(descriptor_size(options)).unwrap_or(1);
    let wanted = most.saturating_sub(first).div_ceil(per_group).div_ceil(descriptors);
    let have = u64::from(groups).div_ceil(descriptors);
    // One block of 32-bit numbers lists them all.
    let reserved = wanted.saturating_sub(have).min(block / 4);
    u16::try_from(reserved).unwrap_or(u16::MAX)
}

fn descriptor_size(options: &CreateOptions) -> u64 {
    if options.incompat & BIT64 != 0 { 64 } else { 32 }
}

fn check(options: &CreateOptions) -> Result<(), Error> {
    let bad = |rule: String| Err(refused(format!("cannot be made: {rule}")));
    let (block, inode) = (options.block_size, options.inode_size);
    if !block.is_power_of_two() || !(1024..=65536).contains(&block) {
        return bad(format!("a block of {block} bytes is not a power of two from 1024 to 65536"));
    }
    if !inode.is_power_of_two() || inode < 128 || u32::from(inode) > block {
        return bad(format!("an inode of {inode} bytes is not a power of two from 128 to a block"));
    }
    if !(1024..=67_108_864).contains(&options.inode_ratio) || options.inode_ratio < u64::from(block) {
        return bad(format!("an inode for every {} bytes: that is not from a block to 64 MiB", options.inode_ratio));
    }
    if options.inodes == Some(0) {
        return bad("it has one inode at least".to_owned());
    }
    if options.reserved > 5000 {
        return bad("at most half of it can be reserved".to_owned());
    }
    if options.label.len() > 16 || options.label.contains('\0') {
        return bad(format!("a label has at most 16 bytes, and `{}` has {}", options.label, options.label.len()));
    }
    if let Some(size) = options.journal_size {
        let blocks = size.checked_div(u64::from(block)).unwrap_or_default();
        if !(1024..=10_240_000).contains(&blocks) || options.compat & HAS_JOURNAL == 0 {
            return bad("a journal has 1024 to 10240000 blocks, where the file system has one".to_owned());
        }
    }
    if options.incompat & BIT64 != 0 && options.incompat & EXTENTS == 0 {
        return bad("the feature `64bit` needs the feature `extent`".to_owned());
    }
    if options.compat & RESIZE_INODE != 0 && options.ro_compat & SPARSE_SUPER == 0 {
        return bad("the feature `resize_inode` needs the feature `sparse_super`".to_owned());
    }
    Ok(())
}

fn set_blocks(raw: &mut RawSuperblock, shape: &Shape, reserved: u32) {
    let kept = u128::from(shape.blocks).saturating_mul(u128::from(reserved)).checked_div(10_000).unwrap_or_default();
    let kept = halves(u64::try_from(kept).unwrap_or_default());
    let blocks = halves(shape.blocks);
    (raw.s_blocks_count_lo, raw.s_blocks_count_hi) = (blocks.0.into(), blocks.1.into());
    (raw.s_r_blocks_count_lo, raw.s_r_blocks_count_hi) = (kept.0.into(), kept.1.into());
}

fn set_features(raw: &mut RawSuperblock, options: &CreateOptions, shape: &Shape) {
    raw.s_feature_compat.set(options.compat);
    raw.s_feature_incompat.set(options.incompat);
    raw.s_feature_ro_compat.set(options.ro_compat);
    if shape.journal.is_none() {
        // The orphan file is for what a journal protects.
        raw.s_feature_compat.set(options.compat & !HAS_JOURNAL & !ORPHAN_FILE);
    }
    raw.s_reserved_gdt_blocks.set(shape.reserved_gdt);
    if raw.has_incompat(BIT64) {
        raw.s_desc_size.set(64);
    }
    if raw.has_incompat(FLEX_BG) {
        raw.s_log_groups_per_flex = LOG_GROUPS_PER_FLEX;
    }
    if raw.has_ro_compat(METADATA_CSUM) {
        // Spec: "s_checksum_type: Metadata checksum algorithm type. The only valid value is 1 (crc32c)."
        raw.s_checksum_type = 1;
    }
}

fn set_times(raw: &mut RawSuperblock, options: &CreateOptions) -> Result<(), Error> {
    let secs = u64::try_from(options.now.secs).map_err(|_| refused("cannot be made: the clock is before 1970"))?;
    let (low, high) = halves(secs);
    raw.s_wtime.set(low);
    raw.s_lastcheck.set(low);
    raw.s_mkfs_time.set(low);
    // The high bytes of the times of writing, mounting, making, checking.
    let [high, ..] = high.to_le_bytes();
    raw.s_time_hi = [high, 0, high, high, 0, 0];
    Ok(())
}

/// Spec: "s_first_ino: First non-reserved inode", 11.
const FIRST_INODE: u32 = 11;
/// The fewest inodes of a group: the reserved ones lie in the first.
const FEWEST_INODES: u64 = 16;
/// Spec: "s_want_extra_isize": what this version of the format defines.
const EXTRA_BYTES: u16 = 32;
/// What a file system is a multiple of, in bytes.
const PAGE: u64 = 4096;
/// The most blocks or inodes of a group: they are counted in 16 bits, by eights.
const MOST_PER_GROUP: u32 = 65528;
/// Blocks of contents that make a last group worth having.
const WORTH: u64 = 50;
/// Blocks that the root and `lost+found` need.
const WORTH_ALONE: u64 = 16;
/// 16 groups have their bitmaps and tables together.
const LOG_GROUPS_PER_FLEX: u8 = 4;
