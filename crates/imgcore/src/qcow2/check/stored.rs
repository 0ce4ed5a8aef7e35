//! The refcounts that an image has stored.

use std::sync::Arc;

use crate::block::{BlockRead, ByteRange};
use crate::qcow2::cache::Cache;
use crate::qcow2::error::Error;
use crate::qcow2::geometry::Geometry;
use crate::qcow2::header::Header;
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::refcount_block;
use crate::qcow2::table::{read_stored, read_words};

/// The refcount table, and blocks of it.
#[derive(Debug)]
pub(super) struct Stored<'a, S> {
    storage: &'a S,
    geometry: Geometry,
    pub(super) table: Vec<u64>,
    blocks: Cache<Block>,
    /// The block that was used last.
    last: Option<(u64, Block)>,
    holes: Holes,
}

/// A refcount block, as far as it can be read.
#[derive(Clone, Debug)]
pub(super) enum Block {
    /// There is none, or nothing but zeros.
    Zeros,
    /// Its offset is not the start of a cluster.
    Misaligned,
    Counts(Arc<Vec<u8>>),
}

impl<'a, S: BlockRead> Stored<'a, S> {
    pub(super) fn open(storage: &'a S, header: &Header) -> Result<Self, Error> {
        let geometry = header.geometry;
        let words = geometry.words(header.refcount_table_clusters);
        let offset = header.refcount_table_offset;
        let table = if offset.0 < storage.size() {
            read_words(storage, "refcount table", offset, words)?
        } else {
            vec![0; to_usize(words)]
        };
        let blocks = Cache::new(BLOCK_CACHE, geometry.cluster_len());
        Ok(Self { storage, geometry, table, blocks, last: None, holes: Holes::default() })
    }

    /// Returns where the block `index` is, 0 for none.
    pub(super) fn offset(&self, index: u64) -> u64 {
        self.table.get(to_usize(index)).copied().unwrap_or(0) & OFFSET
    }

    /// Returns the block `index`.
    pub(super) fn block(&mut self, index: u64) -> Result<Block, Error> {
        if let Some((last, block)) = &self.last
            && *last == index
        {
            return Ok(block.clone());
        }
        let offset = self.offset(index);
        let block = match self.blocks.get(offset) {
            Some(block) => block,
            None => {
                let block = self.read(HostOffset(offset))?;
                self.blocks.insert(offset, block.clone());
                block
            }
        };
        self.last = Some((index, block.clone()));
        Ok(block)
    }

    fn read(&mut self, offset: HostOffset) -> Result<Block, Error> {
        if !self.geometry.is_aligned(offset.0) {
            return Ok(Block::Misaligned);
        }
        let size = self.geometry.cluster_size();
        if offset.0 == 0 || offset.0 >= self.storage.size() || self.holes.cover(self.storage, offset.0, size)? {
            return Ok(Block::Zeros);
        }
        let mut bytes = vec![0; self.geometry.cluster_len()];
        read_stored(self.storage, "refcount block", offset, &mut bytes)?;
        Ok(Block::Counts(Arc::new(bytes)))
    }

    /// Returns the refcount of `cluster`, or `None` where it cannot be read.
    pub(super) fn count(&mut self, cluster: u64) -> Result<Option<u64>, Error> {
        let entries = self.geometry.refcount_block_entries();
        let index = cluster.wrapping_shr(entries.trailing_zeros());
        Ok(match self.block(index)? {
            Block::Zeros => Some(0),
            Block::Misaligned => None,
            Block::Counts(bytes) => {
                let place = to_usize(cluster & entries.saturating_sub(1));
                Some(refcount_block::get(&bytes, place, self.geometry.refcount_order))
            }
        })
    }

    /// Returns whether all of `count` clusters from `first` on have a refcount of 1.
    pub(super) fn all_ones(&mut self, first: u64, count: u64) -> Result<bool, Error> {
        let entries = self.geometry.refcount_block_entries();
        let (mut cluster, mut left) = (first, count);
        while left > 0 {
            let place = cluster & entries.saturating_sub(1);
            let here = left.min(entries.saturating_sub(place));
            let Block::Counts(bytes) = self.block(cluster.wrapping_shr(entries.trailing_zeros()))? else { return Ok(false) };
            if !are_ones(&bytes, to_usize(place), to_usize(here), self.geometry.refcount_order) {
                return Ok(false);
            }
            cluster = cluster.saturating_add(here);
            left = left.saturating_sub(here);
        }
        Ok(true)
    }
}

/// Returns whether `count` refcounts from `place` on are 1.
pub(super) fn are_ones(bytes: &[u8], place: usize, count: usize, order: u32) -> bool {
    if order == 4 {
        let start = place.saturating_mul(2);
        let part = bytes.get(start..start.saturating_add(count.saturating_mul(2)));
        return part.is_some_and(|part| part.chunks_exact(2).all(|pair| pair == [0, 1]));
    }
    (place..place.saturating_add(count)).all(|place| refcount_block::get(bytes, place, order) == 1)
}

/// The hole of a file that was found last.
#[derive(Clone, Debug, Default)]
pub(super) struct Holes(ByteRange);

impl Holes {
    /// Returns whether the `len` bytes at `offset`, which lies inside the file, have never been written.
    pub(super) fn cover<S: BlockRead>(&mut self, storage: &S, offset: u64, len: u64) -> Result<bool, Error> {
        let end = offset.saturating_add(len).min(storage.size());
        if !(self.0.contains(offset) && end <= self.0.end()) {
            let extent = storage.extent_at(offset)?;
            if !extent.reads_as_zeros() {
                return Ok(false);
            }
            self.0 = extent.range;
        }
        Ok(end <= self.0.end())
    }

    /// Returns the first byte from `offset` on, and before `end`, that may have been written.
    pub(super) fn skip<S: BlockRead>(&mut self, storage: &S, offset: u64, end: u64) -> Result<u64, Error> {
        let end = end.min(storage.size());
        let mut at = offset;
        while at < end && self.cover(storage, at, 1)? {
            at = self.0.end();
        }
        Ok(at)
    }
}

/// Returns the index of the last refcount that is not 0 in a block, and how many there are.
pub(super) fn tally(bytes: &[u8], order: u32, entries: u64) -> (u64, Option<u64>) {
    let mut used = (0_u64, None);
    let per_byte = 8_usize.wrapping_shr(order).max(1);
    for (word, at) in bytes.chunks(8).zip(0_usize..) {
        if word.iter().all(|byte| *byte == 0) {
            continue;
        }
        let (first, end) = match order {
            0..=2 => {
                (at.saturating_mul(8).saturating_mul(per_byte), at.saturating_add(1).saturating_mul(8).saturating_mul(per_byte))
            }
            _ => {
                let each = 8_usize.wrapping_shr(order.saturating_sub(3)).max(1);
                (at.saturating_mul(each), at.saturating_add(1).saturating_mul(each))
            }
        };
        for place in first..end.min(to_usize(entries)) {
            if refcount_block::get(bytes, place, order) != 0 {
                used = (used.0.saturating_add(1), Some(to_u64(place)));
            }
        }
    }
    used
}

/// Bits 9-63.
pub(super) const OFFSET: u64 = !511;
/// Bytes of blocks that are kept.
const BLOCK_CACHE: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::{are_ones, refcount_block, tally};

    #[test]
    fn a_block_is_counted_as_one_by_one() {
        for order in 0..=6 {
            let entries = (512 * 8) >> order;
            let mut block = vec![0; 512];
            for place in 0..entries {
                refcount_block::set(&mut block, place, order, 1);
            }
            assert!(are_ones(&block, 0, entries, order) && !are_ones(&block, 1, entries, order));
            assert_eq!(tally(&block, order, entries as u64), (entries as u64, Some(entries as u64 - 1)));
            for place in (0..entries).filter(|place| place % 7 != 3) {
                refcount_block::set(&mut block, place, order, 0);
            }
            assert!(!are_ones(&block, 0, entries, order) && are_ones(&block, 3, 1, order));
            let left: Vec<usize> = (0..entries).filter(|place| place % 7 == 3).collect();
            assert_eq!(tally(&block, order, entries as u64), (left.len() as u64, left.last().map(|last| *last as u64)));
        }
    }
}
