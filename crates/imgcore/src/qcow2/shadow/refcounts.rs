//! Refcounts as they will be: blocks that change are copied to free clusters, and so is their table.

mod width;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::block::{BlockRead, ByteRange, Resize};
use crate::qcow2::error::{Corrupt, Error, Unsupported};
use crate::qcow2::geometry::Geometry;
use crate::qcow2::header::{Header, MAX_REFCOUNT_TABLE};
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::refcount_block;
use crate::qcow2::table::{encode_words, read_stored, read_words, word_offset};

pub(super) struct NewRefcounts<'a> {
    /// The units of the old state; those of the new one differ in the width of refcounts alone.
    old: Geometry,
    new: Geometry,
    old_table: Vec<u64>,
    old_place: (HostOffset, u64),
    /// Which clusters have references, when no stored refcount counts.
    in_use: Option<&'a (dyn Fn(u64) -> bool + Sync)>,
    /// What is never given out: the header and the tables that it names.
    taken: Vec<ByteRange>,
    /// The table as it will be.
    table: Vec<u64>,
    /// The blocks that have a new place.
    moved: BTreeSet<u64>,
    /// Some of them.
    blocks: BTreeMap<u64, Block>,
    /// The stored block that was looked at last.
    looked_at: Option<(u64, Vec<u8>)>,
    /// The stored block that was found to count every cluster: a table may name it very often.
    full: Option<HostOffset>,
    /// No cluster from here on has been given out.
    next: u64,
    /// Runs of clusters that lost their last reference.
    freed: Vec<ByteRange>,
}

struct Block {
    bytes: Vec<u8>,
    dirty: bool,
}

impl fmt::Debug for NewRefcounts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewRefcounts").field("moved", &self.moved).field("next", &self.next).finish_non_exhaustive()
    }
}

impl<'a> NewRefcounts<'a> {
    /// Begins with the refcounts that are stored.
    pub(super) fn open<S: BlockRead>(storage: &S, header: &Header) -> Result<Self, Error> {
        let words = header.geometry.words(header.refcount_table_clusters);
        let table = read_words(storage, "refcount table", header.refcount_table_offset, words)?;
        Ok(Self { old_table: table.clone(), table, ..Self::new(header, None) })
    }

    /// Begins with refcounts of 0.
    pub(super) fn recounted(header: &Header, in_use: &'a (dyn Fn(u64) -> bool + Sync)) -> Self {
        Self::new(header, Some(in_use))
    }

    fn new(header: &Header, in_use: Option<&'a (dyn Fn(u64) -> bool + Sync)>) -> Self {
        let size = header.geometry.cluster_size();
        let taken = [
            (HostOffset(0), size),
            (header.l1_offset, header.l1_entries.saturating_mul(8)),
            (header.refcount_table_offset, header.refcount_table_clusters.saturating_mul(size)),
        ];
        Self {
            old: header.geometry,
            new: header.geometry,
            old_table: Vec::new(),
            old_place: (header.refcount_table_offset, header.refcount_table_clusters),
            in_use,
            taken: taken.iter().filter_map(|(start, len)| ByteRange::at(start.0, *len)).collect(),
            table: Vec::new(),
            moved: BTreeSet::new(),
            blocks: BTreeMap::new(),
            looked_at: None,
            full: None,
            next: 1,
            freed: Vec::new(),
        }
    }

    /// Gives refcounts `1 << order` bits. Must come before anything else.
    pub(super) fn set_order(&mut self, order: u32) {
        if order != self.new.refcount_order {
            self.new.refcount_order = order;
            self.table.clear();
        }
    }

    /// Returns the refcount of a cluster as it is stored.
    fn stored<S: BlockRead>(&mut self, storage: &S, cluster: u64) -> Result<u64, Error> {
        let (index, place) = split(self.old, cluster);
        let order = self.old.refcount_order;
        Ok(self.look_at(storage, index)?.map_or(0, |bytes| refcount_block::get(bytes, place, order)))
    }

    /// Returns a block as it is stored.
    fn look_at<S: BlockRead>(&mut self, storage: &S, index: u64) -> Result<Option<&[u8]>, Error> {
        let Some(offset) = self.block_offset(&self.old_table, index)? else { return Ok(None) };
        if self.looked_at.as_ref().is_none_or(|(last, _)| *last != index) {
            let mut bytes = self.looked_at.take().map_or_else(|| vec![0; self.old.cluster_len()], |(_, bytes)| bytes);
            read_stored(storage, "refcount block", offset, &mut bytes)?;
            self.looked_at = Some((index, bytes));
        }
        Ok(self.looked_at.as_ref().map(|(_, bytes)| bytes.as_slice()))
    }

    fn block_offset(&self, table: &[u64], index: u64) -> Result<Option<HostOffset>, Error> {
        let offset = table.get(to_usize(index)).copied().unwrap_or(0) & OFFSET;
        // Spec: "Must be aligned to a cluster boundary."
        if !self.old.is_aligned(offset) {
            let at = word_offset(self.old_place.0, index);
            return Err(Corrupt::new("refcount table entry", at, "the offset is not the start of a cluster").into());
        }
        Ok((offset != 0).then_some(HostOffset(offset)))
    }

    fn is_free<S: BlockRead>(&mut self, storage: &S, cluster: u64) -> Result<bool, Error> {
        let offset = self.host(cluster)?.0;
        if self.taken.iter().any(|range| range.contains(offset)) {
            return Ok(false);
        }
        match self.in_use {
            Some(in_use) => Ok(!in_use(cluster)),
            None => Ok(self.stored(storage, cluster)? == 0),
        }
    }

    fn host(&self, cluster: u64) -> Result<HostOffset, Error> {
        // An L1 or L2 entry has 56 bits.
        let offset = self.old.offset(cluster).filter(|offset| *offset < 1 << 56);
        offset.map(HostOffset).ok_or_else(|| Unsupported::TooLarge("image", 1 << 56).into())
    }

    /// Returns the first of `count` neighboring clusters that neither state has used so far.
    fn find<S: BlockRead>(&mut self, storage: &S, count: u64) -> Result<u64, Error> {
        let entries = self.old.refcount_block_entries();
        let (mut first, mut found, mut taken) = (self.next, 0_u64, 0_u64);
        while found < count {
            let cluster = first.saturating_add(found);
            let (index, place) = split(self.old, cluster);
            let block = if self.in_use.is_none() { self.block_offset(&self.old_table, index)? } else { None };
            if place == 0 {
                taken = 0;
                if block.is_some() && block == self.full {
                    (first, found) = (cluster.saturating_add(entries), 0);
                    continue;
                }
            }
            if self.is_free(storage, cluster)? {
                found = found.saturating_add(1);
                continue;
            }
            taken = taken.saturating_add(1);
            if taken == entries {
                self.full = block;
            }
            (first, found) = (cluster.saturating_add(1), 0);
            refcount_block::refuse_behind(storage, self.old, first)?;
        }
        self.next = first.saturating_add(count);
        Ok(first)
    }

    /// Gives out `count` neighboring clusters and counts them once each.
    pub(super) fn allocate<S: Resize>(&mut self, storage: &mut S, count: u64) -> Result<HostOffset, Error> {
        let first = self.find(storage, count)?;
        for cluster in first..first.saturating_add(count) {
            self.change(storage, cluster, 1)?;
        }
        self.host(first)
    }

    /// Returns the refcount of a cluster as it will be.
    pub(super) fn get<S: Resize>(&mut self, storage: &mut S, cluster: u64) -> Result<u64, Error> {
        let (index, place) = split(self.new, cluster);
        if self.moved.contains(&index) {
            let order = self.new.refcount_order;
            return Ok(refcount_block::get(&self.block(storage, index)?.bytes, place, order));
        }
        if self.in_use.is_some() { Ok(0) } else { self.stored(storage, cluster) }
    }

    /// Adds `change` to the refcount of a cluster.
    pub(super) fn change<S: Resize>(&mut self, storage: &mut S, cluster: u64, change: i64) -> Result<(), Error> {
        self.change_run(storage, cluster, cluster.saturating_add(1), change)
    }

    /// Adds references to the clusters from `first` to before `end`, which have references already, or takes some away.
    pub(super) fn refer<S: Resize>(&mut self, storage: &mut S, first: u64, end: u64, change: i64) -> Result<(), Error> {
        let mut first = first;
        while first < end {
            let (_, place) = split(self.new, first);
            let stop = end.min(first.saturating_add(self.new.refcount_block_entries()).saturating_sub(to_u64(place)));
            if self.in_use.is_none() {
                self.refuse_uncounted(storage, first, stop)?;
            }
            self.change_run(storage, first, stop, change)?;
            first = stop;
        }
        Ok(())
    }

    /// Fails for a cluster without a reference; they are counted in one block. What no block counts gets none.
    fn refuse_uncounted<S: Resize>(&mut self, storage: &mut S, first: u64, end: u64) -> Result<(), Error> {
        let old = self.old;
        let refused = |cluster: u64| {
            let at = old.offset(cluster).unwrap_or(u64::MAX);
            Corrupt::new("refcount of the cluster", at, "it is 0, and the cluster is referred to")
        };
        if self.get(storage, first)? == 0 {
            return Err(refused(first).into());
        }
        // The block is about to be copied anyway.
        self.change(storage, first, 0)?;
        let (index, place) = split(self.new, first);
        let order = self.new.refcount_order;
        let block = self.block(storage, index)?;
        let mut counts = (place..).zip(first..end);
        match counts.find(|(place, _)| refcount_block::get(&block.bytes, *place, order) == 0) {
            Some((_, cluster)) => Err(refused(cluster).into()),
            None => Ok(()),
        }
    }

    /// Adds `change` to the refcounts of the clusters from `first` to before `end`.
    fn change_run<S: Resize>(&mut self, storage: &mut S, first: u64, end: u64, change: i64) -> Result<(), Error> {
        // Copying a block changes the counts of two more clusters, those of its old and of its new place.
        let mut waiting = vec![(first, end, change)];
        while let Some((first, end, change)) = waiting.pop() {
            let (index, place) = split(self.new, first);
            let rest = self.new.refcount_block_entries().saturating_sub(to_u64(place));
            let stop = end.min(first.saturating_add(rest));
            if stop < end {
                waiting.push((stop, end, change));
            }
            if !self.moved.contains(&index) {
                // What is wrong is found before there is a table for it.
                self.check_change(storage, first, change)?;
                self.copy_block(storage, index, &mut waiting)?;
            }
            self.change_in_block(storage, first, stop, change)?;
        }
        Ok(())
    }

    /// As [`NewRefcounts::change_run`], for clusters whose refcounts are in one block that has a new place.
    fn change_in_block<S: Resize>(&mut self, storage: &mut S, first: u64, end: u64, change: i64) -> Result<(), Error> {
        let (old, order, max) = (self.old, self.new.refcount_order, self.new.refcount_max());
        let too_narrow = || Unsupported::References(1_u32.wrapping_shl(order));
        let (index, place) = split(self.new, first);
        let block = self.block(storage, index)?;
        let mut freed = Vec::new();
        for (place, cluster) in (place..).zip(first..end) {
            let count = refcount_block::get(&block.bytes, place, order);
            let offset = old.offset(cluster).unwrap_or(u64::MAX);
            let below = || Corrupt::new("refcount of the cluster", offset, "it is less than the references to the cluster");
            let new = count.checked_add_signed(change).filter(|new| *new <= max);
            let new = new.ok_or_else(|| if change < 0 { Error::from(below()) } else { too_narrow().into() })?;
            if new != count {
                refcount_block::set(&mut block.bytes, place, order, new);
                block.dirty = true;
            }
            if new == 0 && change < 0 {
                if offset == 0 {
                    // Spec: "The first cluster of a qcow2 image contains the file header."
                    return Err(below().into());
                }
                freed.push(offset);
            }
        }
        freed.into_iter().for_each(|offset| self.note_free(offset));
        Ok(())
    }

    /// Fails for a cluster that loses more references than it has, and for one that no table can count.
    fn check_change<S: Resize>(&mut self, storage: &mut S, cluster: u64, change: i64) -> Result<(), Error> {
        let (index, _) = split(self.new, cluster);
        if change < 0 && self.get(storage, cluster)?.checked_add_signed(change).is_none() {
            let offset = self.old.offset(cluster).unwrap_or(u64::MAX);
            let rule = "it is less than the references to the cluster";
            return Err(Corrupt::new("refcount of the cluster", offset, rule).into());
        }
        if index.saturating_mul(8) >= MAX_REFCOUNT_TABLE {
            return Err(Unsupported::TooLarge("refcount table", MAX_REFCOUNT_TABLE).into());
        }
        Ok(())
    }

    fn note_free(&mut self, offset: u64) {
        let range = ByteRange::at(offset, self.old.cluster_size()).unwrap_or_default();
        let count = self.freed.len();
        match self.freed.last_mut() {
            Some(last) if last.end() == range.start() => *last = ByteRange::new(last.start(), range.end()).unwrap_or(*last),
            // Space in very many pieces is free for the image, and not given back to the host.
            _ if count >= MOST_FREED => {}
            _ => self.freed.push(range),
        }
    }

    /// Copies a block to a new place, or makes one.
    fn copy_block<S: Resize>(&mut self, storage: &mut S, index: u64, waiting: &mut Vec<(u64, u64, i64)>) -> Result<(), Error> {
        let place = self.find(storage, 1)?;
        let mut bytes = vec![0; self.new.cluster_len()];
        let same_width = self.old.refcount_order == self.new.refcount_order;
        if !same_width {
            self.convert_block(storage, index, &mut bytes)?;
        } else if let Some(old) = self.block_offset(&self.old_table, index)? {
            read_stored(storage, "refcount block", old, &mut bytes)?;
            let old = self.old.index(old.0);
            waiting.push((old, old.saturating_add(1), -1));
        }
        if self.table.len() <= to_usize(index) {
            self.table.resize(to_usize(index).saturating_add(1), 0);
        }
        let host = self.host(place)?;
        if let Some(word) = self.table.get_mut(to_usize(index)) {
            *word = host.0;
        }
        waiting.push((place, place.saturating_add(1), 1));
        self.moved.insert(index);
        self.blocks.insert(index, Block { bytes, dirty: true });
        Ok(())
    }

    /// Returns a block that has a new place.
    fn block<S: Resize>(&mut self, storage: &mut S, index: u64) -> Result<&mut Block, Error> {
        if !self.blocks.contains_key(&index) {
            let mut bytes = vec![0; self.new.cluster_len()];
            let offset = HostOffset(self.table.get(to_usize(index)).copied().unwrap_or(0));
            read_stored(storage, "refcount block", offset, &mut bytes)?;
            self.blocks.insert(index, Block { bytes, dirty: false });
        }
        let most = MOST_BLOCKS.checked_div(self.new.cluster_len()).unwrap_or(0).max(4);
        if self.blocks.len() > most {
            self.write_blocks(storage)?;
            self.blocks.retain(|other, _| *other == index);
        }
        let missing = || Corrupt::new("refcount table entry", self.old_place.0.0, "the block is missing");
        self.blocks.get_mut(&index).ok_or_else(|| missing().into())
    }

    /// Writes the blocks in memory to their new places.
    fn write_blocks<S: Resize>(&mut self, storage: &mut S) -> Result<(), Error> {
        for (index, block) in self.blocks.iter_mut().filter(|(_, block)| block.dirty) {
            let offset = self.table.get(to_usize(*index)).copied().unwrap_or(0);
            let end = offset.saturating_add(self.new.cluster_size());
            if end > storage.size() {
                storage.resize(end)?;
            }
            storage.write_all_at(&block.bytes, offset)?;
            block.dirty = false;
        }
        Ok(())
    }

    /// Writes blocks and table beside the old ones; nothing is flushed.
    ///
    /// Returns the table's place and its clusters, or `None` when no refcount has changed.
    pub(super) fn store<S: Resize>(&mut self, storage: &mut S) -> Result<Option<(HostOffset, u64)>, Error> {
        if self.old.refcount_order != self.new.refcount_order {
            self.convert_all(storage)?;
        }
        if self.moved.is_empty() {
            return Ok(None);
        }
        if self.in_use.is_none() {
            let (offset, clusters) = self.old_place;
            let first = self.old.index(offset.0);
            for cluster in first..first.saturating_add(clusters) {
                self.change(storage, cluster, -1)?;
            }
        }
        let (offset, clusters) = self.place_table(storage)?;
        self.write_blocks(storage)?;
        let mut table = encode_words(&self.table);
        let len = clusters.saturating_mul(self.new.cluster_size());
        table.resize(to_usize(len), 0);
        let end = offset.plus(len).0;
        if end > storage.size() {
            storage.resize(end)?;
        }
        storage.write_all_at(&table, offset.0)?;
        Ok(Some((offset, clusters)))
    }

    /// Finds a place for the table, whose clusters may need one more block.
    fn place_table<S: Resize>(&mut self, storage: &mut S) -> Result<(HostOffset, u64), Error> {
        let mut clusters = 0;
        loop {
            let words = to_u64(self.table.len());
            clusters = self.new.clusters(words.saturating_mul(8)).max(clusters).max(1);
            if clusters.saturating_mul(self.new.cluster_size()) > MAX_REFCOUNT_TABLE {
                return Err(Unsupported::TooLarge("refcount table", MAX_REFCOUNT_TABLE).into());
            }
            let offset = self.allocate(storage, clusters)?;
            if to_u64(self.table.len()) <= self.new.words(clusters) {
                return Ok((offset, clusters));
            }
            let first = self.new.index(offset.0);
            for cluster in first..first.saturating_add(clusters) {
                self.change(storage, cluster, -1)?;
            }
        }
    }

    /// Returns the runs of clusters that lost their last reference, in ascending order.
    pub(super) fn free<S: Resize>(&mut self, storage: &mut S) -> Result<Vec<ByteRange>, Error> {
        let mut freed = std::mem::take(&mut self.freed);
        freed.sort_unstable_by_key(|range| range.start());
        let mut free: Vec<ByteRange> = Vec::with_capacity(freed.len());
        for range in freed {
            for cluster in self.old.index(range.start())..self.old.index(range.end()) {
                // Something may refer to it again.
                if self.get(storage, cluster)? > 0 {
                    continue;
                }
                let start = self.old.offset(cluster).unwrap_or(u64::MAX);
                let cluster = ByteRange::at(start, self.old.cluster_size()).unwrap_or_default();
                match free.last_mut() {
                    Some(last) if last.end() >= cluster.start() => {
                        *last = ByteRange::new(last.start(), cluster.end().max(last.end())).unwrap_or(*last);
                    }
                    _ => free.push(cluster),
                }
            }
        }
        Ok(free)
    }
}

fn split(geometry: Geometry, cluster: u64) -> (u64, usize) {
    let entries = geometry.refcount_block_entries();
    let block = cluster.checked_div(entries).unwrap_or(0);
    (block, to_usize(cluster.saturating_sub(block.saturating_mul(entries))))
}

/// Bits 9-63.
const OFFSET: u64 = !511;
/// Bytes of blocks that are kept in memory.
const MOST_BLOCKS: usize = 16 << 20;
/// Runs of free clusters that are remembered.
const MOST_FREED: usize = 1 << 16;
