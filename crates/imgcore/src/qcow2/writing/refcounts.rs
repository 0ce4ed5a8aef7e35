use std::collections::{BTreeMap, BTreeSet};

use crate::block::{BlockRead, BlockWrite};
use crate::qcow2::error::{Corrupt, Error, Unsupported};
use crate::qcow2::geometry::Geometry;
use crate::qcow2::header::{Header, MAX_REFCOUNT_TABLE};
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::refcount_block;
use crate::qcow2::table::{encode_words, read_stored, read_words, word_offset};

/// The refcounts of an image that is written: which clusters are free.
///
/// Changes stay in memory until [`Refcounts::store`].
#[derive(Debug)]
pub(super) struct Refcounts {
    geometry: Geometry,
    table: Vec<u64>,
    pub(super) offset: HostOffset,
    pub(super) clusters: u64,
    /// Entries of the table that are not stored yet.
    changed: BTreeSet<u64>,
    /// Whether the table is a new one, which the header does not name yet.
    moved: bool,
    /// New blocks and tables, and their bytes, without space on the host.
    unreserved: Vec<(HostOffset, u64)>,
    blocks: BTreeMap<u64, Block>,
    /// How many of the blocks are dirty.
    dirty: u64,
    /// No cluster before this one is free.
    first_free: u64,
    /// The block that was found to count every cluster: a table may name it very often.
    full: Option<u64>,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    dirty: bool,
}

impl Refcounts {
    pub(super) fn open<S: BlockRead>(storage: &S, header: &Header) -> Result<Self, Error> {
        let geometry = header.geometry;
        let words = geometry.words(header.refcount_table_clusters);
        Ok(Self {
            geometry,
            table: read_words(storage, "refcount table", header.refcount_table_offset, words)?,
            offset: header.refcount_table_offset,
            clusters: header.refcount_table_clusters,
            changed: BTreeSet::new(),
            moved: false,
            unreserved: Vec::new(),
            blocks: BTreeMap::new(),
            dirty: 0,
            first_free: 0,
            full: None,
        })
    }

    /// Returns the bytes of the changes that wait.
    pub(super) fn waiting(&self) -> u64 {
        self.dirty.saturating_mul(self.geometry.cluster_size())
    }

    fn split(&self, cluster: u64) -> (u64, usize) {
        let entries = self.geometry.refcount_block_entries();
        let block = cluster.checked_div(entries).unwrap_or(0);
        (block, to_usize(cluster.saturating_sub(block.saturating_mul(entries))))
    }

    /// Returns the block `index`, or `None` where there is none.
    fn block<S: BlockRead>(&mut self, storage: &S, index: u64) -> Result<Option<&mut Block>, Error> {
        if !self.blocks.contains_key(&index) {
            let offset = self.table.get(to_usize(index)).copied().unwrap_or(0) & OFFSET;
            if offset == 0 {
                return Ok(None);
            }
            // Spec: "Must be aligned to a cluster boundary."
            if !self.geometry.is_aligned(offset) {
                let at = word_offset(self.offset, index);
                return Err(Corrupt::new("refcount table entry", at, "the offset is not the start of a cluster").into());
            }
            let mut bytes = vec![0; self.geometry.cluster_len()];
            read_stored(storage, "refcount block", HostOffset(offset), &mut bytes)?;
            let most = BLOCK_CACHE.checked_div(self.geometry.cluster_len()).unwrap_or(0).max(4);
            if self.blocks.len() > most {
                self.blocks.retain(|_, block| block.dirty);
            }
            self.blocks.insert(index, Block { bytes, dirty: false });
        }
        Ok(self.blocks.get_mut(&index))
    }

    pub(super) fn get<S: BlockRead>(&mut self, storage: &S, cluster: u64) -> Result<u64, Error> {
        let (index, place) = self.split(cluster);
        let order = self.geometry.refcount_order;
        Ok(self.block(storage, index)?.map_or(0, |block| refcount_block::get(&block.bytes, place, order)))
    }

    fn set<S: BlockRead>(&mut self, storage: &S, cluster: u64, value: u64) -> Result<(), Error> {
        let (index, place) = self.split(cluster);
        let order = self.geometry.refcount_order;
        if let Some(block) = self.block(storage, index)? {
            refcount_block::set(&mut block.bytes, place, order, value);
            if !std::mem::replace(&mut block.dirty, true) {
                self.dirty = self.dirty.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Takes one reference from a cluster, and returns how many are left.
    pub(super) fn release<S: BlockRead>(&mut self, storage: &S, cluster: u64) -> Result<u64, Error> {
        let count = self.get(storage, cluster)?;
        let Some(less) = count.checked_sub(1) else {
            let offset = self.geometry.offset(cluster).unwrap_or(u64::MAX);
            return Err(Corrupt::new("refcount of the cluster", offset, "it is 0 although the cluster is used").into());
        };
        if less == 0 {
            self.first_free = self.first_free.min(cluster);
            self.full = None;
        }
        self.set(storage, cluster, less)?;
        Ok(less)
    }

    /// Adds a reference to a cluster, or returns that its refcount has no room for it.
    pub(super) fn share<S: BlockRead>(&mut self, storage: &S, cluster: u64) -> Result<bool, Error> {
        let count = self.get(storage, cluster)?;
        if count >= self.geometry.refcount_max() {
            return Ok(false);
        }
        self.set(storage, cluster, count.saturating_add(1))?;
        Ok(true)
    }

    /// Returns a cluster that was free, with a refcount of 1.
    pub(super) fn allocate<S: BlockRead>(&mut self, storage: &S) -> Result<HostOffset, Error> {
        let order = self.geometry.refcount_order;
        loop {
            let (index, place) = self.split(self.first_free);
            if index >= to_u64(self.table.len()) {
                self.claim(0)?;
            }
            if self.is_full(index) {
                self.first_free = index.saturating_add(1).saturating_mul(self.geometry.refcount_block_entries());
                continue;
            }
            self.ensure_block(storage, index)?;
            let entries = to_usize(self.geometry.refcount_block_entries());
            let Some(block) = self.block(storage, index)? else { continue };
            let free = (place..entries).find(|place| refcount_block::get(&block.bytes, *place, order) == 0);
            let block_start = index.saturating_mul(self.geometry.refcount_block_entries());
            let Some(free) = free else {
                if place == 0 {
                    self.full = self.table.get(to_usize(index)).copied();
                }
                refcount_block::refuse_behind(storage, self.geometry, block_start)?;
                self.first_free = block_start.saturating_add(self.geometry.refcount_block_entries());
                continue;
            };
            let cluster = block_start.saturating_add(to_u64(free));
            self.set(storage, cluster, 1)?;
            self.first_free = cluster.saturating_add(1);
            return self.host(cluster);
        }
    }

    /// Returns the first of `count` neighboring clusters that were free, each with a refcount of 1.
    pub(super) fn allocate_run<S: BlockRead>(&mut self, storage: &S, count: u64) -> Result<HostOffset, Error> {
        let (mut found, mut taken) = (0_u64, 0_u64);
        let entries = self.geometry.refcount_block_entries();
        let end = self.first_missing().saturating_mul(entries);
        let mut cluster = self.first_free;
        while cluster < end && found < count {
            let (index, place) = self.split(cluster);
            if place == 0 {
                taken = 0;
                if self.is_full(index) {
                    (cluster, found) = (cluster.saturating_add(entries), 0);
                    continue;
                }
            }
            if self.block(storage, index)?.is_none() {
                (cluster, found) = (index.saturating_add(1).saturating_mul(entries), 0);
                continue;
            }
            if self.get(storage, cluster)? != 0 {
                (found, taken) = (0, taken.saturating_add(1));
                if taken == entries {
                    self.full = self.table.get(to_usize(index)).copied();
                }
                refcount_block::refuse_behind(storage, self.geometry, cluster)?;
            } else {
                found = found.saturating_add(1);
            }
            cluster = cluster.saturating_add(1);
        }
        if found < count {
            return self.claim(count);
        }
        let first = cluster.saturating_sub(count);
        for cluster in first..cluster {
            self.set(storage, cluster, 1)?;
        }
        self.host(first)
    }

    /// Returns whether the block `index` is one that counts every cluster.
    fn is_full(&self, index: u64) -> bool {
        self.full.is_some() && self.table.get(to_usize(index)).copied() == self.full
    }

    fn host(&self, cluster: u64) -> Result<HostOffset, Error> {
        // An L1 or L2 entry has 56 bits.
        let offset = self.geometry.offset(cluster).filter(|offset| *offset < 1 << 56);
        offset.map(HostOffset).ok_or_else(|| Unsupported::TooLarge("image", 1 << 56).into())
    }

    /// Returns the index behind the last block.
    fn first_missing(&self) -> u64 {
        self.table.iter().rposition(|word| *word != 0).map_or(0, |last| to_u64(last).saturating_add(1))
    }

    /// Makes sure that there is a block `index`, within the table: a new one is its own first cluster.
    fn ensure_block<S: BlockRead>(&mut self, storage: &S, index: u64) -> Result<(), Error> {
        if self.block(storage, index)?.is_some() {
            return Ok(());
        }
        let first = index.saturating_mul(self.geometry.refcount_block_entries());
        self.add_block(index, first)?;
        self.set(storage, first, 1)
    }

    fn add_block(&mut self, index: u64, cluster: u64) -> Result<(), Error> {
        let host = self.host(cluster)?;
        if let Some(word) = self.table.get_mut(to_usize(index)) {
            *word = host.0;
        }
        self.changed.insert(index);
        self.unreserved.push((host, self.geometry.cluster_size()));
        self.dirty = self.dirty.saturating_add(1);
        self.blocks.insert(index, Block { bytes: vec![0; self.geometry.cluster_len()], dirty: true });
        Ok(())
    }

    /// Sets up the first area that has no refcounts yet: blocks for it, a larger table if need be, and `run` clusters.
    ///
    /// ```text
    /// | new blocks | new table | run |      each counted once by the new blocks
    /// ```
    ///
    /// Returns the start of the run. The old table's clusters stay taken until [`Refcounts::store`] has replaced it.
    fn claim(&mut self, run: u64) -> Result<HostOffset, Error> {
        let geometry = self.geometry;
        let entries = geometry.refcount_block_entries();
        let index = self.first_missing();
        let (mut blocks, mut table) = (1_u64, 0_u64);
        loop {
            let end = index.saturating_add(blocks);
            if end > to_u64(self.table.len()) {
                // Half as much again, so that a growing image does not move its table all the time.
                let words = end.saturating_add(end.wrapping_shr(1));
                table = table.max(geometry.clusters(words.saturating_mul(8)));
            }
            if table.saturating_mul(geometry.cluster_size()) > MAX_REFCOUNT_TABLE {
                return Err(Unsupported::TooLarge("refcount table", MAX_REFCOUNT_TABLE).into());
            }
            let needed = blocks.saturating_add(table).saturating_add(run).div_ceil(entries);
            if needed <= blocks {
                break;
            }
            blocks = needed;
        }
        let first = index.saturating_mul(entries);
        if table > 0 {
            self.table.resize(to_usize(geometry.words(table)), 0);
            self.offset = self.host(first.saturating_add(blocks))?;
            self.clusters = table;
            self.moved = true;
            self.unreserved.push((self.offset, table.saturating_mul(geometry.cluster_size())));
        }
        for step in 0..blocks {
            self.add_block(index.saturating_add(step), first.saturating_add(step))?;
        }
        let used = blocks.saturating_add(table).saturating_add(run);
        for cluster in first..first.saturating_add(used) {
            let (index, place) = self.split(cluster);
            if let Some(block) = self.blocks.get_mut(&index) {
                refcount_block::set(&mut block.bytes, place, geometry.refcount_order, 1);
            }
        }
        self.host(first.saturating_add(used).saturating_sub(run))
    }

    /// Returns where storage must reach for what [`Refcounts::store`] will write.
    pub(super) fn end(&self) -> u64 {
        let blocks = self.changed.iter().filter_map(|index| self.table.get(to_usize(*index)));
        let block = blocks.max().copied().unwrap_or(0).saturating_add(self.geometry.cluster_size());
        self.offset.plus(self.clusters.saturating_mul(self.geometry.cluster_size())).0.max(block)
    }

    /// Writes blocks, then the table, so that what is named is stored before its name.
    ///
    /// Returns whether the table is a new one: the header must name it next, after a flush.
    pub(super) fn store<S: BlockWrite>(&mut self, storage: &mut S) -> Result<bool, Error> {
        for (index, block) in &mut self.blocks {
            if block.dirty {
                let offset = self.table.get(to_usize(*index)).copied().unwrap_or(0) & OFFSET;
                storage.write_all_at(&block.bytes, offset)?;
                block.dirty = false;
                self.dirty = self.dirty.saturating_sub(1);
            }
        }
        if self.moved {
            storage.write_all_at(&encode_words(&self.table), self.offset.0)?;
        } else if !self.changed.is_empty() {
            storage.flush()?;
            for index in &self.changed {
                let word = self.table.get(to_usize(*index)).copied().unwrap_or(0);
                storage.write_all_at(&word.to_be_bytes(), word_offset(self.offset, *index))?;
            }
        }
        self.changed.clear();
        Ok(self.moved)
    }

    /// Takes note that the header names the table.
    pub(super) fn named(&mut self) {
        self.moved = false;
    }

    /// Returns where a new block or table is to have its space on the host, and its bytes.
    pub(super) fn unreserved(&self) -> Option<(HostOffset, u64)> {
        self.unreserved.last().copied()
    }

    /// Takes note that the last one has its space.
    pub(super) fn reserved(&mut self) {
        self.unreserved.pop();
    }

    /// Returns whether `host` is in the table.
    pub(super) fn is_table(&self, host: HostOffset) -> bool {
        let len = self.clusters.saturating_mul(self.geometry.cluster_size());
        (self.offset.0..self.offset.plus(len).0).contains(&host.0)
    }
}

/// Bits 9-63.
const OFFSET: u64 = !511;
/// Bytes of refcount blocks that are kept.
const BLOCK_CACHE: usize = 8 << 20;
