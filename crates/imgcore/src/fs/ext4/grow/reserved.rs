use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;
use crate::fs::ext4::error::{corrupt, refused};
use crate::fs::ext4::feature::RESIZE_INODE;
use crate::fs::ext4::inode::Inode;
use crate::fs::ext4::layout::Layout;
use crate::fs::ext4::volume::Volume;

/// The blocks that are reserved for group descriptors, as inode 7 holds them.
///
/// ```text
/// inode 7 -> double-indirect block | one entry for each reserved block of group 0, at its index in the descriptor table |
///                                    -> the reserved block itself | its copy in group 1 | in group 3 | in group 5 | ... |
/// ```
///
/// Spec: "Special inodes", inode 7; "Layout", reserved GDT blocks.
#[derive(Debug)]
pub(super) struct ReservedBlocks {
    inode: Inode,
    /// Where the inode is stored, in bytes.
    inode_offset: u64,
    double: u64,
    double_bytes: Vec<u8>,
    /// Number of the first block that stays reserved.
    first: u64,
    /// The new bytes of those; none when no copy is added.
    entries: Vec<u8>,
}

impl ReservedBlocks {
    /// Returns what inode 7 will hold with the `new` geometry, or `None` when that does not change.
    pub(super) fn read<D: BlockRead>(volume: &Volume<D>, new: &Layout) -> Result<Option<Self>, Error> {
        let old = volume.layout();
        let copies = |layout: &Layout| (1..layout.groups).filter(|number| layout.has_superblock(*number)).collect::<Vec<_>>();
        let (before, after) = (copies(old), copies(new));
        let taken = old.reserved_gdt_blocks.saturating_sub(new.reserved_gdt_blocks);
        let same = taken == 0 && before == after;
        if same || !volume.raw.has_compat(RESIZE_INODE) || old.reserved_gdt_blocks == 0 {
            return Ok(None);
        }
        // The entries have 32 bits.
        if new.blocks_count > 1 << 32 {
            return Err(refused("has the feature `resize_inode`, with which it cannot have more than 2^32 blocks"));
        }
        let bad = |rule: &str| corrupt("inode 7", rule);
        let mut inode = volume.inode(RESIZE_INODE_NUMBER)?;
        let (place, at) = volume.inode_place(RESIZE_INODE_NUMBER)?;
        let inode_offset = volume.store.offset(place)?.saturating_add(u64::try_from(at).unwrap_or(u64::MAX));
        let double = double_block(&inode).filter(|block| *block < old.blocks_count);
        let double = double.ok_or_else(|| bad("it has a double-indirect block and no other"))?;
        let mut double_bytes = volume.store.block(double)?.to_vec();
        let per_block = u64::from(old.block_size / 4);
        if u64::from(old.reserved_gdt_blocks) > per_block {
            return Err(bad("one block lists all that are reserved"));
        }
        let start = u64::from(old.descriptor_blocks());
        let first_block = old.superblock_of(0).saturating_add(1);
        for index in start..start.saturating_add(u64::from(old.reserved_gdt_blocks)) {
            let entry = entry_mut(&mut double_bytes, index.checked_rem(per_block).unwrap_or_default());
            let entry = entry.ok_or_else(|| bad("one block lists all that are reserved"))?;
            if u64::from(u32::from_le_bytes(*entry)) != first_block.saturating_add(index) {
                return Err(bad("it holds the blocks that are reserved for group descriptors"));
            }
            if index < start.saturating_add(u64::from(taken)) {
                *entry = [0; 4];
            }
        }
        let first = first_block.saturating_add(start).saturating_add(u64::from(taken));
        let entries = if before == after { Vec::new() } else { entries(volume, new, first, &before, &after)? };
        let each = u64::try_from(after.len()).unwrap_or(u64::MAX).saturating_add(1);
        let blocks = u64::from(new.reserved_gdt_blocks).saturating_mul(each).saturating_add(1);
        // Each of them counts as a cluster.
        inode.set_sectors(blocks.saturating_mul(new.cluster_size() / 512));
        Ok(Some(Self { inode, inode_offset, double, double_bytes, first, entries }))
    }

    pub(super) fn write<D: BlockWrite>(&self, disk: &mut D, layout: &Layout) -> Result<(), Error> {
        let size = u64::from(layout.block_size);
        disk.write_all_at(&self.inode.encode(layout), self.inode_offset)?;
        disk.write_all_at(&self.double_bytes, self.double.saturating_mul(size))?;
        Ok(disk.write_all_at(&self.entries, self.first.saturating_mul(size))?)
    }
}

/// Returns the new bytes of the blocks from `first` on that stay reserved: the places of their copies `after` the growth, which
/// begin with those of `before`.
fn entries<D: BlockRead>(
    volume: &Volume<D>,
    new: &Layout,
    first: u64,
    before: &[u32],
    after: &[u32],
) -> Result<Vec<u8>, Error> {
    let block_bytes = new.block_bytes();
    let mut bytes = vec![0; block_bytes.saturating_mul(usize::from(new.reserved_gdt_blocks))];
    volume.store.disk().read_exact_at(&mut bytes, volume.store.offset(first)?)?;
    for (block, stored) in (first..).zip(bytes.chunks_exact_mut(block_bytes)) {
        let mut places = stored.chunks_exact_mut(4);
        for (index, number) in after.iter().enumerate() {
            let copy = u64::from(*number).saturating_mul(u64::from(new.blocks_per_group)).saturating_add(block);
            let copy = u32::try_from(copy).unwrap_or_default().to_le_bytes();
            let known = before.get(index).map_or([0; 4], |_| copy);
            let place = places.next().filter(|place| **place == known);
            let rule = "it holds the copies of a reserved block in ascending order";
            place.ok_or_else(|| corrupt("inode 7", rule))?.copy_from_slice(&copy);
        }
    }
    Ok(bytes)
}

/// Returns the number of the double-indirect block, when there is one and nothing else.
pub(in crate::fs::ext4) fn double_block(inode: &Inode) -> Option<u64> {
    let mut found = None;
    for (index, entry) in inode.raw.i_block.chunks_exact(4).enumerate() {
        let block = u32::from_le_bytes(entry.try_into().ok()?);
        match (index, block) {
            (DOUBLE_INDIRECT, block) if block > 0 => found = Some(u64::from(block)),
            (_, 0) => {}
            _ => return None,
        }
    }
    found
}

fn entry_mut(bytes: &mut [u8], index: u64) -> Option<&mut [u8; 4]> {
    let at = usize::try_from(index).ok()?.checked_mul(4)?;
    bytes.get_mut(at..)?.first_chunk_mut()
}

/// Spec: "Special inodes": 7, "Reserved group descriptors inode".
pub(in crate::fs::ext4) const RESIZE_INODE_NUMBER: u32 = 7;
/// Spec: "Direct/Indirect Block Addressing": `i.i_block[13]`, "double indirect block".
const DOUBLE_INDIRECT: usize = 13;
