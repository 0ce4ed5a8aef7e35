//! The refcounts of a new image, in blocks that are complete one after the other.

use std::collections::BTreeMap;

use super::error::{Error, Unsupported};
use super::geometry::Geometry;
use super::header::MAX_REFCOUNT_TABLE;
use super::offset::{HostOffset, to_u64, to_usize};
use super::refcount_block;

/// The refcounts of a new image whose clusters are given out in ascending order.
///
/// Memory is that of a block or two: what is complete is stored, and its place kept.
#[derive(Debug)]
pub(super) struct Counts {
    geometry: Geometry,
    /// The blocks that may still change, by their index.
    open: BTreeMap<u64, Vec<u8>>,
    /// The places of those before.
    placed: Vec<u64>,
}

impl Counts {
    pub(super) fn new(geometry: Geometry) -> Self {
        Self { geometry, open: BTreeMap::new(), placed: Vec::new() }
    }

    /// Returns the refcount of a cluster whose block is open.
    pub(super) fn refcount(&self, cluster: u64) -> u64 {
        let (block, index) = self.place(cluster);
        self.open.get(&block).map_or(0, |bytes| refcount_block::get(bytes, index, self.geometry.refcount_order))
    }

    /// Counts one reference more to each of `count` clusters from `first` on.
    pub(super) fn add(&mut self, first: u64, count: u64) {
        let geometry = self.geometry;
        let mut cluster = first;
        let end = first.saturating_add(count);
        while cluster < end {
            let (block, index) = self.place(cluster);
            let last = block.saturating_add(1).saturating_mul(geometry.refcount_block_entries()).min(end);
            let bytes = self.open.entry(block).or_insert_with(|| vec![0; geometry.cluster_len()]);
            for index in index..index.saturating_add(to_usize(last.saturating_sub(cluster))) {
                let count = refcount_block::get(bytes, index, geometry.refcount_order).saturating_add(1);
                refcount_block::set(bytes, index, geometry.refcount_order, count);
            }
            cluster = last;
        }
    }

    /// Takes the next block if only clusters before `next` are counted in it, which nothing refers to any more; it goes to
    /// `place`.
    pub(super) fn take_complete(&mut self, next: u64, place: HostOffset) -> Result<Option<Vec<u8>>, Error> {
        let complete =
            to_u64(self.placed.len()).saturating_add(1).saturating_mul(self.geometry.refcount_block_entries()) <= next;
        if complete { self.take(place).map(Some) } else { Ok(None) }
    }

    /// Takes the next block, which goes to `place`.
    pub(super) fn take(&mut self, place: HostOffset) -> Result<Vec<u8>, Error> {
        if to_u64(self.placed.len()).saturating_mul(8) >= MAX_REFCOUNT_TABLE {
            return Err(Unsupported::TooLarge("refcount table", MAX_REFCOUNT_TABLE).into());
        }
        let index = to_u64(self.placed.len());
        self.placed.push(place.0);
        Ok(self.open.remove(&index).unwrap_or_else(|| vec![0; self.geometry.cluster_len()]))
    }

    /// Returns how many clusters of blocks and of the refcount table are still to be placed, when they go behind `next`.
    pub(super) fn missing(&self, next: u64) -> (u64, u64) {
        let (mut blocks, mut table) = (0_u64, 0_u64);
        // Each round only adds; the sums grow by less than an eighth per round, so this ends after a few.
        loop {
            let end = next.saturating_add(blocks).saturating_add(table);
            let all = end.div_ceil(self.geometry.refcount_block_entries());
            let more = all.saturating_sub(to_u64(self.placed.len()));
            let clusters = self.geometry.clusters(all.saturating_mul(8));
            if more <= blocks && clusters <= table {
                return (blocks, table);
            }
            (blocks, table) = (blocks.max(more), table.max(clusters));
        }
    }

    /// Returns the places of the blocks.
    pub(super) fn placed(&self) -> &[u64] {
        &self.placed
    }

    /// Returns the block of a cluster, and the index in it.
    fn place(&self, cluster: u64) -> (u64, usize) {
        let entries = self.geometry.refcount_block_entries();
        let block = cluster.checked_div(entries).unwrap_or(0);
        (block, to_usize(cluster.saturating_sub(block.saturating_mul(entries))))
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Geometry, HostOffset};

    #[test]
    fn the_blocks_count_every_cluster_and_themselves() {
        for cluster_bits in [9, 12, 16, 21] {
            for refcount_order in [0, 4, 6] {
                let geometry = Geometry { cluster_bits, extended_l2: false, refcount_order };
                for next in [1, 63, 64, 65, 4000, 100_000] {
                    let mut counts = Counts::new(geometry);
                    let mut end = next;
                    counts.add(0, next);
                    while counts.take_complete(end, HostOffset(end << cluster_bits)).unwrap().is_some() {
                        counts.add(end, 1);
                        end += 1;
                    }
                    let placed = counts.placed().len() as u64;
                    let (blocks, table) = counts.missing(end);
                    let entries = geometry.refcount_block_entries();
                    assert!((placed + blocks) * entries >= end + blocks + table);
                    assert!((placed + blocks - 1) * entries < end + blocks + table, "no more than is needed");
                    assert_eq!(table, geometry.clusters((placed + blocks) * 8));
                }
            }
        }
        let mut counts = Counts::new(Geometry { cluster_bits: 9, extended_l2: false, refcount_order: 6 });
        counts.placed = vec![512; 1 << 20];
        counts.take(HostOffset(512)).unwrap_err();
    }

    #[test]
    fn references_add_up_until_the_block_is_taken() {
        let mut counts = Counts::new(Geometry { cluster_bits: 9, extended_l2: false, refcount_order: 6 });
        counts.add(60, 10);
        counts.add(64, 1);
        assert_eq!((counts.refcount(63), counts.refcount(64), counts.refcount(70)), (1, 2, 0));
        assert_eq!(counts.take_complete(63, HostOffset(0)).unwrap(), None);
        let block = counts.take_complete(64, HostOffset(512)).unwrap().unwrap();
        assert_eq!((block[60 * 8 - 1], block[60 * 8 + 7]), (0, 1));
        assert_eq!((counts.placed(), counts.refcount(64)), (&[512][..], 2));
    }
}
