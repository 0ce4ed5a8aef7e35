use crate::block::BlockRead;
use crate::fs::Error;
use crate::fs::ext4::error::{corrupt, refused};
use crate::fs::ext4::feature::{BIT64, META_BG, RESIZE_INODE, SPARSE_SUPER2};
use crate::fs::ext4::layout::Layout;
use crate::fs::ext4::superblock::{RawSuperblock, halves, join};
use crate::fs::ext4::volume::Volume;

/// What a grown file system will be.
#[derive(Debug)]
pub(super) struct Plan {
    /// The new superblock; what is free and the overhead are still the old ones.
    pub(super) raw: RawSuperblock,
    /// The geometry that it states.
    pub(super) layout: Layout,
    /// From this block of descriptors on, each lies in the groups that it describes, where that is not so yet.
    pub(super) first_meta_bg: Option<u32>,
}

impl Plan {
    /// Returns what the file system will be on `size` bytes, or `None` when it cannot become larger.
    pub(super) fn make<D: BlockRead>(volume: &Volume<D>, size: u64) -> Result<Option<Self>, Error> {
        let (mut raw, old) = (volume.raw, volume.layout());
        let Some((blocks, groups)) = target(&raw, old, size) else { return Ok(None) };
        if raw.has_compat(SPARSE_SUPER2) {
            return Err(refused("has the feature `sparse_super2`, with which growing it is not supported"));
        }
        let needed = groups.div_ceil(old.descriptors_per_block());
        let first_meta_bg = (needed > room(&raw, old)).then(|| room(&raw, old));
        let more = needed.saturating_sub(old.descriptor_blocks());
        if old.first_meta_bg.is_none() && first_meta_bg.is_none() {
            // That many are reserved.
            let left = old.reserved_gdt_blocks.saturating_sub(u16::try_from(more).unwrap_or(u16::MAX));
            raw.s_reserved_gdt_blocks.set(left);
        }
        if let Some(first) = first_meta_bg {
            set_meta_bg(&mut raw, first);
        }
        set_blocks(&mut raw, old.blocks_count, blocks)?;
        // The target has no more inodes than their number can be stored.
        raw.s_inodes_count.set(old.inodes_per_group.saturating_mul(groups));
        let layout = Layout::decode(&raw, size)?;
        Ok(Some(Self { raw, layout, first_meta_bg }))
    }
}

/// Returns the number of blocks and of groups on a device of `size` bytes, or `None` when that is not more than now.
fn target(raw: &RawSuperblock, old: &Layout, size: u64) -> Option<(u64, u32)> {
    let first = u64::from(old.first_data_block);
    let per_group = u64::from(old.blocks_per_group);
    let most_groups = u64::from(u32::MAX.checked_div(old.inodes_per_group)?);
    let mut blocks = size.checked_div(u64::from(old.block_size))?.min(most_groups.saturating_mul(per_group));
    if !raw.has_incompat(BIT64) {
        blocks = blocks.min(u64::from(u32::MAX));
    }
    let cluster = u64::from(old.cluster_blocks);
    blocks = blocks.saturating_sub(blocks.checked_rem(cluster)?);
    let rest = blocks.checked_sub(first)?.checked_rem(per_group)?;
    let last = u32::try_from(blocks.saturating_sub(first).checked_div(per_group)?).ok()?;
    // Descriptors and what is reserved for more of them take the same space together, however it is divided.
    let mut after = *old;
    if last.checked_div(old.descriptors_per_block())? >= room(raw, old) {
        (after.first_meta_bg, after.reserved_gdt_blocks) = (Some(room(raw, old)), 0);
    }
    let used = after.overhead_before_bitmaps(last).saturating_add(u64::from(old.inode_table_blocks())).saturating_add(2);
    if last >= old.groups && rest < used.saturating_add(WORTH).next_multiple_of(cluster) {
        blocks = blocks.saturating_sub(rest);
    }
    let groups = u32::try_from(blocks.saturating_sub(first).div_ceil(per_group)).ok()?;
    (blocks > old.blocks_count).then_some((blocks, groups))
}

/// Returns how many blocks of descriptors fit at the start of the file system: with `meta_bg` any number.
fn room(raw: &RawSuperblock, layout: &Layout) -> u32 {
    let reserved = if raw.has_compat(RESIZE_INODE) { layout.reserved_gdt_blocks } else { 0 };
    match layout.first_meta_bg {
        Some(_) => u32::MAX,
        None => layout.descriptor_blocks().saturating_add(u32::from(reserved)),
    }
}

/// Puts the blocks of descriptors from `first` on into the groups that they describe.
///
/// Spec: "Meta Block Groups": the feature takes the place of `resize_inode`.
pub(in crate::fs::ext4) fn set_meta_bg(raw: &mut RawSuperblock, first: u32) {
    raw.s_feature_compat.set(raw.s_feature_compat.get() & !RESIZE_INODE);
    raw.s_feature_incompat.set(raw.s_feature_incompat.get() | META_BG);
    raw.s_first_meta_bg.set(first);
    raw.s_reserved_gdt_blocks.set(0);
}

/// Stores the number of blocks, and keeps the share that is reserved for root.
fn set_blocks(raw: &mut RawSuperblock, before: u64, blocks: u64) -> Result<(), Error> {
    let is_wide = raw.has_incompat(BIT64);
    let kept = join(raw.s_r_blocks_count_lo.get(), if is_wide { raw.s_r_blocks_count_hi.get() } else { 0 });
    if kept > before {
        return Err(corrupt("superblock", "no more blocks are reserved than there are"));
    }
    let kept = u128::from(kept).saturating_mul(u128::from(blocks)).checked_div(u128::from(before)).unwrap_or_default();
    let kept = halves(u64::try_from(kept).unwrap_or_default());
    let blocks = halves(blocks);
    raw.s_blocks_count_lo.set(blocks.0);
    raw.s_r_blocks_count_lo.set(kept.0);
    if is_wide {
        raw.s_blocks_count_hi.set(blocks.1);
        raw.s_r_blocks_count_hi.set(kept.1);
    }
    Ok(())
}

/// Blocks of contents that make a last group worth having.
const WORTH: u64 = 50;
