//! Files whose blocks are listed one by one, as ext2 and ext3 keep all of them.
//!
//! ```text
//! inode  | 12 block numbers | indirect | double | triple |
//!                               |          |        '-> | double | double | ...
//!                               |          '-> | indirect | indirect | ...
//!                               '-> | block number | block number | ... a block of them
//! ```
//!
//! A number of 0 is a hole. Numbers have 32 bits and no checksum.
//!
//! Spec: "Direct/Indirect Block Addressing".

use std::collections::BTreeSet;

use super::error::{corrupt, refused};
use super::extent::{ExtentTree, FileExtent, MAX_NODES, MAX_PIECES};
use super::inode::Inode;
use super::store::Store;
use crate::block::BlockRead;
use crate::fs::Error;

/// Reads the block map of `inode`.
///
/// The map may be anything: the depth is that of the place, no block of numbers is read twice, and no more blocks are listed than
/// the file system has.
pub(super) fn read_map<D: BlockRead>(store: &Store<D>, inode: &Inode) -> Result<ExtentTree, Error> {
    let per_block = store.layout().block_size / 4;
    let mut reader = MapReader { store, inode: inode.number, seen: BTreeSet::new(), blocks: 0, tree: ExtentTree::default() };
    for (root, index) in roots(&inode.raw.i_block).zip(0_u8..) {
        let (start, depth) = place(index, per_block);
        reader.entry(root, start, depth)?;
    }
    Ok(reader.tree)
}

struct MapReader<'a, D> {
    store: &'a Store<D>,
    inode: u32,
    seen: BTreeSet<u32>,
    /// Blocks of contents that were found.
    blocks: u64,
    tree: ExtentTree,
}

impl<D: BlockRead> MapReader<'_, D> {
    fn bad(&self, rule: &str) -> Error {
        corrupt(format!("block map of inode {}", self.inode), rule)
    }

    /// Reads what the number of a block lists: `depth` levels of numbers above contents that begin at block `logical`.
    fn entry(&mut self, block: u32, logical: u64, depth: u8) -> Result<(), Error> {
        if block == 0 {
            return Ok(());
        }
        let layout = self.store.layout();
        if block <= layout.first_data_block || u64::from(block) >= layout.blocks_count {
            return Err(self.bad("a block lies inside the file system"));
        }
        let Some(below) = depth.checked_sub(1) else { return self.data(block, logical) };
        if !self.seen.insert(block) {
            return Err(self.bad("a block of numbers is listed once"));
        }
        if self.tree.nodes.len() >= MAX_NODES {
            return Err(refused(format!("scatters inode {} over too many pieces", self.inode)));
        }
        self.tree.nodes.push(u64::from(block));
        let each = span(layout.block_size / 4, below);
        let bytes = self.store.block(u64::from(block))?;
        for (entry, index) in roots(&bytes).zip(0_u64..).filter(|(entry, _)| *entry != 0) {
            self.entry(entry, logical.saturating_add(index.saturating_mul(each)), below)?;
        }
        Ok(())
    }

    fn data(&mut self, block: u32, logical: u64) -> Result<(), Error> {
        self.blocks = self.blocks.saturating_add(1);
        if self.blocks > self.store.layout().blocks_count {
            return Err(self.bad("a file has no more blocks than the file system"));
        }
        let logical = u32::try_from(logical).map_err(|_| self.bad("a file has fewer than 2^32 blocks"))?;
        let physical = u64::from(block);
        if let Some(last) = self.tree.extents.last_mut()
            && last.logical_end() == u64::from(logical)
            && last.physical.saturating_add(u64::from(last.len)) == physical
        {
            last.len = last.len.saturating_add(1);
            return Ok(());
        }
        if self.tree.extents.len() >= MAX_PIECES {
            return Err(refused(format!("scatters inode {} over too many pieces", self.inode)));
        }
        self.tree.extents.push(FileExtent { logical, physical, len: 1, unwritten: false });
        Ok(())
    }
}

/// Returns how many blocks a file with a block map has at most.
pub(super) fn most_blocks(block_size: u32) -> u64 {
    let per_block = block_size / 4;
    let (start, depth) = place(TRIPLE, per_block);
    start.saturating_add(span(per_block, depth)).min(u64::from(u32::MAX))
}

/// Returns how many blocks of numbers the map of `extents`, which ascend, takes.
pub(super) fn map_nodes_needed(extents: &[FileExtent], block_size: u32) -> usize {
    let per_block = block_size / 4;
    let mut total = 0_usize;
    for index in SINGLE..=TRIPLE {
        let (start, depth) = place(index, per_block);
        for level in 1..=depth {
            let each = span(per_block, level);
            let mut next = 0;
            for (first, end) in extents.iter().filter_map(|extent| inside(extent, start, span(per_block, depth))) {
                let from = first.checked_div(each).unwrap_or_default().max(next);
                next = end.div_ceil(each).max(next);
                total = total.saturating_add(usize::try_from(next.saturating_sub(from)).unwrap_or(usize::MAX));
            }
        }
    }
    total
}

/// The bytes of a new map: what goes into the inode, and what goes into the blocks that were given.
#[derive(Debug)]
pub(super) struct EncodedMap {
    pub(super) root: [u8; 60],
    pub(super) nodes: Vec<(u64, Vec<u8>)>,
}

/// Builds the map of `extents`, which ascend, into `blocks`, of which there are [`map_nodes_needed`].
///
/// Returns `None` when a block has a number of more than 32 bits.
pub(super) fn encode_map(extents: &[FileExtent], blocks: &[u64], block_size: u32) -> Option<EncodedMap> {
    let per_block = block_size / 4;
    let mut map = EncodedMap { root: [0; 60], nodes: Vec::new() };
    let mut free = blocks.iter().copied();
    for index in 0..=TRIPLE {
        let (start, depth) = place(index, per_block);
        let parts = extents.iter().filter_map(|extent| {
            let (first, end) = inside(extent, start, span(per_block, depth))?;
            let skipped = first.saturating_add(start).saturating_sub(u64::from(extent.logical));
            Some((first..end).zip(extent.physical.saturating_add(skipped)..))
        });
        let mut entries: Vec<(u64, u64)> = parts.flatten().collect();
        for _ in 0..depth {
            let mut above = Vec::new();
            for chunk in entries.chunk_by(|a, b| a.0.checked_div(per_block.into()) == b.0.checked_div(per_block.into())) {
                let block = free.next()?;
                above.push((chunk.first()?.0.checked_div(per_block.into())?, block));
                map.nodes.push((block, encode_numbers(chunk, per_block)?));
            }
            entries = above;
        }
        let place = map.root.chunks_exact_mut(4).nth(index.into())?;
        if let Some((_, block)) = entries.first() {
            place.copy_from_slice(&u32::try_from(*block).ok()?.to_le_bytes());
        }
    }
    Some(map)
}

/// Returns the block of numbers that holds `entries` at their indexes.
fn encode_numbers(entries: &[(u64, u64)], per_block: u32) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(per_block).ok()?.checked_mul(4)?];
    for (logical, block) in entries {
        let at = usize::try_from(logical.checked_rem(per_block.into())?).ok()?.checked_mul(4)?;
        bytes.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&u32::try_from(*block).ok()?.to_le_bytes());
    }
    Some(bytes)
}

/// Returns the part of an extent in the `len` blocks from `start` on, relative to `start`: first and the one behind the last.
fn inside(extent: &FileExtent, start: u64, len: u64) -> Option<(u64, u64)> {
    let first = u64::from(extent.logical).max(start).saturating_sub(start);
    let end = extent.logical_end().min(start.saturating_add(len)).saturating_sub(start);
    (first < end).then_some((first, end))
}

fn roots(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|entry| entry.first_chunk::<4>().map_or(0, |entry| u32::from_le_bytes(*entry)))
}

/// Returns the first block of contents under the root at `index`, and how many levels of numbers are above it.
fn place(index: u8, per_block: u32) -> (u64, u8) {
    let depth = index.saturating_sub(SINGLE.saturating_sub(1));
    let before = (1..depth).map(|depth| span(per_block, depth));
    (before.fold(u64::from(index.min(SINGLE)), u64::saturating_add), depth)
}

/// Returns how many blocks of contents are under a number with `depth` levels below it.
fn span(per_block: u32, depth: u8) -> u64 {
    u64::from(per_block).saturating_pow(depth.into())
}

/// Spec: "Direct/Indirect Block Addressing": `i.i_block[12]` is the indirect block, 13 the double, 14 the triple.
const SINGLE: u8 = 12;
const TRIPLE: u8 = 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{FileExtent, encode_map, map_nodes_needed, most_blocks, place};

    #[test]
    fn places_are_those_of_the_specification() {
        assert_eq!([0, 11, 12, 13, 14].map(|index| place(index, 256)), [(0, 0), (11, 0), (12, 1), (268, 2), (65804, 3)]);
        assert_eq!(most_blocks(1024), 16_843_020);
    }

    proptest! {
        #[test]
        fn a_map_takes_as_many_blocks_as_were_counted(gaps in proptest::collection::vec((0_u32..70_000, 1_u32..700), 0..12)) {
            let mut logical = 0;
            let extents: Vec<FileExtent> = gaps.iter().map(|(gap, len)| {
                let extent = FileExtent { logical: logical + gap, physical: u64::from(logical + gap) + 1000, len: *len, unwritten: false };
                logical += gap + len;
                extent
            }).collect();
            let needed = map_nodes_needed(&extents, 1024);
            let blocks: Vec<u64> = (1..=needed as u64).collect();
            prop_assert_eq!(encode_map(&extents, &blocks, 1024).unwrap().nodes.len(), needed);
        }
    }
}
