use super::error::{corrupt, refused};
use super::feature::{BIGALLOC, BIT64, FLEX_BG, GDT_CSUM, META_BG, METADATA_CSUM, SPARSE_SUPER, SPARSE_SUPER2};
use super::superblock::{FLAG_UNSIGNED_HASH, RawSuperblock};
use crate::fs::Error;

/// The checked geometry of a file system: what lies where.
///
/// ```text
/// block   | first_data_block ...                 | + blocks_per_group ...               |
/// group 0 | superblock | descriptors | reserved  | group 1: the same when it has a copy |
///         | block bitmap | inode bitmap | inode table | data ...
/// ```
///
/// With `flex_bg` the bitmaps and tables of several groups lie together, so their places come from the descriptors.
///
/// Spec: "Layout", "Block Groups".
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Bytes of a block: 1024 to 65536.
    pub(super) block_size: u32,
    pub(super) blocks_count: u64,
    pub(super) first_data_block: u32,
    pub(super) blocks_per_group: u32,
    /// Blocks of a cluster, which a bit of a block bitmap counts: a power of two, 1 without `bigalloc`.
    pub(super) cluster_blocks: u32,
    pub(super) inodes_count: u32,
    pub(super) inodes_per_group: u32,
    pub(super) first_inode: u32,
    /// Bytes of an inode: 128 to a block.
    pub(super) inode_size: u16,
    /// Bytes of a group descriptor: 32 to 1024.
    pub(super) desc_size: u16,
    pub(super) groups: u32,
    /// Groups whose bitmaps and tables lie together; at least 1.
    pub(super) groups_per_flex: u32,
    pub(super) reserved_gdt_blocks: u16,
    /// From this block of descriptors on, each lies in the groups that it describes. `None` without `meta_bg`.
    pub(super) first_meta_bg: Option<u32>,
    pub(super) checksums: Checksums,
    /// What every crc32c of metadata starts from.
    pub(super) seed: u32,
    pub(super) uuid: [u8; 16],
    pub(super) hash_seed: [u32; 4],
    pub(super) unsigned_hash: bool,
    backups: Backups,
}

/// How metadata is protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Checksums {
    /// Not at all.
    None,
    /// crc16 of group descriptors only.
    GroupDescriptors,
    /// crc32c of everything.
    Metadata,
}

/// Which groups have a copy of the superblock and the descriptors.
#[derive(Clone, Copy, Debug)]
enum Backups {
    Every,
    Powers,
    Two([u32; 2]),
}

impl Layout {
    /// Returns the geometry that a superblock states, checked against itself and the `size` of the device in bytes.
    pub(super) fn decode(raw: &RawSuperblock, size: u64) -> Result<Self, Error> {
        let bad = |rule: &str| corrupt("superblock", rule);
        let log = raw.s_log_block_size.get();
        let block_size = 1024_u32.checked_shl(log).filter(|_| log <= 6).ok_or_else(|| bad("a block has at most 64 KiB"))?;
        let (cluster_blocks, blocks_per_group) = cluster_geometry(raw, block_size)?;
        let blocks_count = raw.blocks_count();
        if size.checked_div(u64::from(block_size)).is_none_or(|blocks| blocks < blocks_count) {
            return Err(bad("the device holds all blocks"));
        }
        let first_data_block = raw.s_first_data_block.get();
        // Spec: "This must be at least 1 for 1k-block filesystems and is typically 0 for all other block sizes."
        // Where a cluster has several blocks, the first one begins at block 0.
        if first_data_block != u32::from(block_size == 1024 && cluster_blocks == 1) {
            return Err(bad("the first data block is 1 with 1 KiB blocks that are no parts of clusters, otherwise 0"));
        }
        let used = blocks_count.checked_sub(u64::from(first_data_block)).filter(|blocks| *blocks > 0);
        let groups = used.ok_or_else(|| bad("there are blocks"))?.div_ceil(u64::from(blocks_per_group));
        let groups = u32::try_from(groups).ok().filter(|groups| *groups <= MAX_GROUPS);
        let groups = groups.ok_or_else(|| refused(format!("has more than {MAX_GROUPS} block groups")))?;
        let (inodes_per_group, inode_size) = inode_geometry(raw, block_size)?;
        let inodes_count = raw.s_inodes_count.get();
        if Some(inodes_count) != inodes_per_group.checked_mul(groups) {
            return Err(bad("every group has the same number of inodes"));
        }
        let desc_size = if raw.has_incompat(BIT64) { raw.s_desc_size.get() } else { 32 };
        let fits = raw.has_incompat(BIT64) <= (desc_size >= 64);
        if !fits || !desc_size.is_power_of_two() || desc_size > 1024 {
            return Err(bad("a group descriptor has 64 to 1024 bytes with 64bit"));
        }
        let flex = raw.has_incompat(FLEX_BG) && raw.s_log_groups_per_flex > 0;
        let groups_per_flex = 1_u32.checked_shl(if flex { u32::from(raw.s_log_groups_per_flex) } else { 0 });
        let layout = Self {
            block_size,
            blocks_count,
            first_data_block,
            blocks_per_group,
            cluster_blocks,
            inodes_count,
            inodes_per_group,
            first_inode: raw.first_inode(),
            inode_size,
            desc_size,
            groups,
            groups_per_flex: groups_per_flex.ok_or_else(|| bad("a flexible group has at most 2^31 groups"))?,
            reserved_gdt_blocks: raw.s_reserved_gdt_blocks.get(),
            first_meta_bg: raw.has_incompat(META_BG).then_some(raw.s_first_meta_bg.get()),
            checksums: checksums(raw),
            seed: raw.checksum_seed(),
            uuid: raw.s_uuid,
            hash_seed: raw.s_hash_seed.map(zerocopy::little_endian::U32::get),
            unsigned_hash: raw.s_flags.get() & FLAG_UNSIGNED_HASH != 0,
            backups: backups(raw),
        };
        if layout.overhead_before_bitmaps(0) >= u64::from(layout.group_blocks(0)) {
            return Err(bad("the descriptors fit the first group"));
        }
        Ok(layout)
    }

    /// Returns the bytes of a block.
    pub(super) fn block_bytes(&self) -> usize {
        usize::try_from(self.block_size).unwrap_or(usize::MAX)
    }

    /// Returns whether everything has a crc32c.
    pub(super) fn has_metadata_csum(&self) -> bool {
        self.checksums == Checksums::Metadata
    }

    /// Returns the number of the first block of `group`.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        let before = u64::from(group).saturating_mul(u64::from(self.blocks_per_group));
        before.saturating_add(u64::from(self.first_data_block))
    }

    /// Returns the block in which the copy of the superblock in `group` lies, where it has one.
    pub(super) fn superblock_of(&self, group: u32) -> u64 {
        self.group_start(group).max(u64::from(self.block_size == 1024))
    }

    /// Returns the number of blocks in `group`; only the last may have fewer than the others.
    pub(super) fn group_blocks(&self, group: u32) -> u32 {
        let rest = self.blocks_count.saturating_sub(self.group_start(group));
        u32::try_from(rest).unwrap_or(u32::MAX).min(self.blocks_per_group)
    }

    /// Returns the group that holds `block` and the block's index in it, or `None` outside of all groups.
    pub(super) fn group_of_block(&self, block: u64) -> Option<(u32, u32)> {
        if block >= self.blocks_count {
            return None;
        }
        let inside = block.checked_sub(u64::from(self.first_data_block))?;
        let per_group = u64::from(self.blocks_per_group);
        let group = u32::try_from(inside.checked_div(per_group)?).ok()?;
        Some((group, u32::try_from(inside.checked_rem(per_group)?).ok()?))
    }

    /// Returns the number of clusters in a group, but for a last one that is shorter.
    pub(super) fn clusters_per_group(&self) -> u32 {
        self.blocks_per_group.checked_div(self.cluster_blocks).unwrap_or_default()
    }

    /// Returns the number of clusters in `group`.
    pub(super) fn group_clusters(&self, group: u32) -> u32 {
        self.group_blocks(group).checked_div(self.cluster_blocks).unwrap_or_default()
    }

    /// Returns the number of the first block of a cluster, given the cluster's group and its index there.
    pub(super) fn cluster_start(&self, group: u32, index: u32) -> u64 {
        let before = u64::from(index).saturating_mul(u64::from(self.cluster_blocks));
        self.group_start(group).saturating_add(before)
    }

    /// Returns the group that holds `block` and the index in it of the block's cluster, or `None` outside of all groups.
    pub(super) fn cluster_of_block(&self, block: u64) -> Option<(u32, u32)> {
        let (group, index) = self.group_of_block(block)?;
        Some((group, index.checked_div(self.cluster_blocks)?))
    }

    /// Returns the bytes of a cluster.
    pub(super) fn cluster_size(&self) -> u64 {
        u64::from(self.block_size).saturating_mul(u64::from(self.cluster_blocks))
    }

    /// Returns the group that holds `inode` and the inode's index in it, or `None` when there is no such inode.
    pub(super) fn group_of_inode(&self, inode: u32) -> Option<(u32, u32)> {
        let index = inode.checked_sub(1).filter(|_| inode <= self.inodes_count)?;
        Some((index.checked_div(self.inodes_per_group)?, index.checked_rem(self.inodes_per_group)?))
    }

    /// Returns the number of blocks of the descriptor table.
    pub(super) fn descriptor_blocks(&self) -> u32 {
        let bytes = u64::from(self.groups).saturating_mul(u64::from(self.desc_size));
        u32::try_from(bytes.div_ceil(u64::from(self.block_size))).unwrap_or(u32::MAX)
    }

    /// Returns the offset in bytes of the descriptor table's copy in `group`, without what `meta_bg` puts elsewhere.
    pub(super) fn descriptors_offset(&self, group: u32) -> u64 {
        self.superblock_of(group).saturating_add(1).saturating_mul(u64::from(self.block_size))
    }

    /// Returns how many descriptors a block has.
    pub(super) fn descriptors_per_block(&self) -> u32 {
        self.block_size.checked_div(u32::from(self.desc_size)).unwrap_or(1).max(1)
    }

    /// Returns the offset in bytes of the descriptor of `group` that counts, the primary one.
    ///
    /// Spec: "Meta Block Groups": as many groups as a block has descriptors share one block of them. It lies in the first of these
    /// groups, behind the copy of the superblock when there is one, with copies in the second and the last.
    pub(super) fn descriptor_offset(&self, group: u32) -> u64 {
        let per_block = self.descriptors_per_block();
        let index = group.checked_div(per_block).unwrap_or_default();
        let inside = group.checked_rem(per_block).unwrap_or_default();
        let block = if self.first_meta_bg.is_none_or(|first| index < first) {
            self.superblock_of(0).saturating_add(1).saturating_add(u64::from(index))
        } else {
            let first = index.saturating_mul(per_block);
            self.superblock_of(first).saturating_add(u64::from(self.has_superblock(first)))
        };
        let inside = u64::from(inside).saturating_mul(u64::from(self.desc_size));
        block.saturating_mul(u64::from(self.block_size)).saturating_add(inside)
    }

    /// Returns the number of blocks of a group's inode table.
    pub(super) fn inode_table_blocks(&self) -> u32 {
        let bytes = u64::from(self.inodes_per_group).saturating_mul(u64::from(self.inode_size));
        u32::try_from(bytes.div_ceil(u64::from(self.block_size))).unwrap_or(u32::MAX)
    }

    /// Returns whether `group` has a copy of the superblock and of the descriptors.
    ///
    /// Spec: "redundant copies of the superblock and group descriptors are kept only in the groups whose group number is either
    /// 0 or a power of 3, 5, or 7"
    pub(super) fn has_superblock(&self, group: u32) -> bool {
        match self.backups {
            _ if group <= 1 && !matches!(self.backups, Backups::Two(_)) => true,
            Backups::Every => true,
            Backups::Powers => [3, 5, 7].iter().any(|base| is_power(group, *base)),
            Backups::Two(groups) => group == 0 || groups.contains(&group),
        }
    }

    /// Returns the number of blocks at the start of `group` that the superblock, what lies before it, the descriptors and the
    /// space reserved for more of them take.
    pub(super) fn overhead_before_bitmaps(&self, group: u32) -> u64 {
        let unused = self.superblock_of(group).saturating_sub(self.group_start(group));
        let copy = u64::from(self.has_superblock(group));
        let per_block = self.descriptors_per_block();
        let index = group.checked_div(per_block).unwrap_or_default();
        let table = match self.first_meta_bg {
            Some(first) if index >= first => {
                let inside = group.checked_rem(per_block).unwrap_or_default();
                let table = u64::from(inside < 2 || inside == per_block.saturating_sub(1));
                return unused.saturating_add(copy).saturating_add(table);
            }
            Some(first) => first,
            None => self.descriptor_blocks(),
        };
        let table = u64::from(table).saturating_add(u64::from(self.reserved_gdt_blocks));
        copy.saturating_mul(table.saturating_add(1)).saturating_add(unused)
    }
}

/// Returns the blocks of a cluster, and those of a group.
///
/// Spec: "Super Block", `s_log_cluster_size`: "Cluster size is 2 ^ (10 + s_log_cluster_size) blocks if bigalloc is enabled."
fn cluster_geometry(raw: &RawSuperblock, block_size: u32) -> Result<(u32, u32), Error> {
    let bad = |rule: &str| corrupt("superblock", rule);
    let bits = block_size.saturating_mul(8);
    let blocks_per_group = raw.s_blocks_per_group.get();
    if !raw.has_ro_compat(BIGALLOC) {
        if blocks_per_group == 0 || blocks_per_group > bits || !blocks_per_group.is_multiple_of(8) {
            return Err(bad("one block of bits describes a group, and its blocks are a multiple of 8"));
        }
        return Ok((1, blocks_per_group));
    }
    let log = raw.s_log_cluster_size.get().checked_sub(raw.s_log_block_size.get());
    let log = log.filter(|_| raw.s_log_cluster_size.get() <= MAX_LOG_CLUSTER);
    let cluster_blocks = log.and_then(|log| 1_u32.checked_shl(log));
    let cluster_blocks = cluster_blocks.ok_or_else(|| bad("a cluster has from one block to 1 GiB"))?;
    let clusters = raw.s_clusters_per_group.get();
    if clusters == 0 || clusters > bits || !clusters.is_multiple_of(8) {
        return Err(bad("one block of bits describes a group, and its clusters are a multiple of 8"));
    }
    if clusters.checked_mul(cluster_blocks) != Some(blocks_per_group) {
        return Err(bad("the blocks of a group are those of its clusters"));
    }
    if !raw.blocks_count().is_multiple_of(u64::from(cluster_blocks)) {
        return Err(refused("ends inside a cluster, which is not supported"));
    }
    Ok((cluster_blocks, blocks_per_group))
}

fn inode_geometry(raw: &RawSuperblock, block_size: u32) -> Result<(u32, u16), Error> {
    let bad = |rule: &str| corrupt("superblock", rule);
    let inode_size = raw.inode_size();
    if inode_size < 128 || !inode_size.is_power_of_two() || u32::from(inode_size) > block_size {
        return Err(bad("an inode has a power of two bytes, at least 128 and at most a block"));
    }
    let inodes_per_group = raw.s_inodes_per_group.get();
    if inodes_per_group == 0 || inodes_per_group > block_size.saturating_mul(8) || !inodes_per_group.is_multiple_of(8) {
        return Err(bad("one block of bits describes a group's inodes, and they are a multiple of 8"));
    }
    if raw.first_inode() < 11 {
        return Err(bad("the first free inode is 11 or above"));
    }
    // Groups of 8 inodes have the reserved ones in the second group too.
    if raw.first_inode() > raw.s_inodes_count.get() {
        return Err(bad("no more inodes are reserved than there are"));
    }
    Ok((inodes_per_group, inode_size))
}

fn checksums(raw: &RawSuperblock) -> Checksums {
    if raw.has_ro_compat(METADATA_CSUM) {
        Checksums::Metadata
    } else if raw.has_ro_compat(GDT_CSUM) {
        Checksums::GroupDescriptors
    } else {
        Checksums::None
    }
}

fn backups(raw: &RawSuperblock) -> Backups {
    if raw.has_compat(SPARSE_SUPER2) {
        Backups::Two(raw.s_backup_bgs.map(zerocopy::little_endian::U32::get))
    } else if raw.has_ro_compat(SPARSE_SUPER) {
        Backups::Powers
    } else {
        Backups::Every
    }
}

/// Returns whether `value` is a power of `base`; 0 and 1 are.
pub(super) fn is_power(mut value: u32, base: u32) -> bool {
    while value > 1 && value.checked_rem(base) == Some(0) {
        value = value.checked_div(base).unwrap_or_default();
    }
    value == 1
}

/// The most groups that are taken: 32 TiB with 4 KiB blocks, 16 MiB of descriptors.
const MAX_GROUPS: u32 = 1 << 18;
/// The largest `s_log_cluster_size` that Linux takes.
const MAX_LOG_CLUSTER: u32 = 20;

#[cfg(test)]
mod tests {
    use super::is_power;

    #[test]
    fn backup_groups_are_the_powers_of_three_five_and_seven() {
        let has = |group| [3, 5, 7].iter().any(|base| is_power(group, *base));
        let groups: Vec<u32> = (2..130).filter(|group| has(*group)).collect();
        assert_eq!(groups, [3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }
}
