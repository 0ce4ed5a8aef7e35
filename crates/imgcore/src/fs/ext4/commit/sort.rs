use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::super::bitmap::Bitmap;
use super::super::edit::load_block_map;
use super::super::error::corrupt;
use super::super::group::Groups;
use super::super::journal::{Blocks, Journal};
use super::super::layout::Layout;
use super::super::superblock::RawSuperblock;
use super::super::volume::Volume;
use crate::block::{BlockRead, ByteRange, Change, Error as BlockError, ErrorKind};
use crate::fs::Error;

/// Sorts `changes` to `disk` into the blocks that differ from those which the old `state` uses, and what is written where it has
/// nothing. `kept` are blocks of `disk` that `state` has changed and that become what they were.
pub(super) fn sort<'a, V: BlockRead, D: BlockRead>(
    state: &V,
    disk: &D,
    kept: &[u64],
    changes: &[Change<'a>],
) -> Result<(Blocks, Vec<Change<'a>>), Error> {
    let raw = RawSuperblock::read(state)?;
    let layout = Layout::decode(&raw, state.size())?;
    let journal = Journal::open(state, &raw)?;
    let mut sorter = Sorter {
        volume: Volume::over(state, raw, layout, Groups::of(&layout)),
        disk,
        maps: BTreeMap::new(),
        most: journal.most_blocks(),
        blocks: BTreeMap::new(),
        beside: Vec::new(),
    };
    for block in kept {
        sorter.keep(*block)?;
    }
    for change in changes {
        sorter.sort(change)?;
    }
    let (journaled, beside) = sorter.finish(&journal)?;
    journal.check_room(journaled.len())?;
    Ok((journaled, beside))
}

/// Sorts changes by what the old state has in their place.
struct Sorter<'a, 'd, V, D> {
    /// The old state, replayed.
    volume: Volume<&'d V>,
    disk: &'d D,
    maps: BTreeMap<u32, Bitmap>,
    /// The most blocks that the journal takes.
    most: usize,
    /// New contents of blocks that are in use.
    blocks: BTreeMap<u64, Vec<u8>>,
    beside: Vec<Change<'a>>,
}

impl<'a, V: BlockRead, D: BlockRead> Sorter<'a, '_, V, D> {
    fn sort(&mut self, change: &Change<'a>) -> Result<(), Error> {
        let size = u64::from(self.volume.layout().block_size);
        let end = self.volume.layout().blocks_count.saturating_mul(size);
        let range = change.range();
        let mut offset = range.start();
        // What lies next to each other goes beside the old state as one.
        let mut free_from = offset;
        while offset < range.end().min(end) {
            let block = offset.checked_div(size).unwrap_or_default();
            let next = block.saturating_add(1).saturating_mul(size).min(range.end());
            if self.is_used(block)? {
                self.put_beside(change, free_from, offset);
                self.overlay(change, block)?;
                free_from = next;
            }
            offset = next;
        }
        self.put_beside(change, free_from, range.end());
        Ok(())
    }

    fn put_beside(&mut self, change: &Change<'a>, start: u64, end: u64) {
        if let Some(part) = ByteRange::new(start, end).and_then(|range| change.within(range)) {
            self.beside.push(part);
        }
    }

    fn is_used(&mut self, block: u64) -> Result<bool, Error> {
        let Some((group, index)) = self.volume.layout().cluster_of_block(block) else { return Ok(true) };
        if !self.maps.contains_key(&group) {
            self.maps.insert(group, load_block_map(&self.volume, group)?);
        }
        Ok(self.maps.get(&group).is_none_or(|map| map.get(index)))
    }

    /// Has a block be what the disk has there, where no change says otherwise.
    fn keep(&mut self, block: u64) -> Result<(), Error> {
        if self.is_used(block)? {
            self.block(block)?;
        }
        Ok(())
    }

    /// Puts what `change` has of a block over what the disk has.
    fn overlay(&mut self, change: &Change<'_>, block: u64) -> Result<(), Error> {
        let size = u64::from(self.volume.layout().block_size);
        let start = block.saturating_mul(size);
        put(self.block(block)?, start, change)
    }

    /// Returns what goes into a block that is in use: at first, what the disk has.
    fn block(&mut self, block: u64) -> Result<&mut Vec<u8>, Error> {
        let blocks = self.blocks.len();
        let entry = match self.blocks.entry(block) {
            Entry::Occupied(entry) => return Ok(entry.into_mut()),
            Entry::Vacant(entry) => entry,
        };
        if blocks > self.most.saturating_mul(4) {
            return Err(Error::JournalTooSmall { blocks, room: self.most });
        }
        let layout = self.volume.layout();
        let mut bytes = vec![0; layout.block_bytes()];
        self.disk.read_exact_at(&mut bytes, block.saturating_mul(u64::from(layout.block_size)))?;
        Ok(entry.insert(bytes))
    }

    /// Returns the blocks that differ from the old state, and what goes beside it.
    fn finish(self, journal: &Journal) -> Result<(Blocks, Vec<Change<'a>>), Error> {
        let mut journaled = Vec::new();
        for (block, bytes) in self.blocks {
            if *self.volume.store.block(block)? == *bytes {
                continue;
            }
            if journal.holds(block) {
                return Err(corrupt(format!("block {block}"), "the journal has it, and no other file"));
            }
            journaled.push((block, bytes));
        }
        Ok((journaled, self.beside))
    }
}

/// Puts what `change` has of the bytes at `start` into them.
pub(super) fn put(bytes: &mut [u8], start: u64, change: &Change<'_>) -> Result<(), Error> {
    let whole = ByteRange::at(start, u64::try_from(bytes.len()).unwrap_or(u64::MAX)).unwrap_or_default();
    let Some(part) = change.within(whole) else { return Ok(()) };
    let from = usize::try_from(part.range().start().saturating_sub(start)).unwrap_or(usize::MAX);
    let to = usize::try_from(part.range().end().saturating_sub(start)).unwrap_or(usize::MAX);
    let outside = || Error::Storage(BlockError::new(ErrorKind::OutOfBounds, "a change lies outside of its block"));
    let place = bytes.get_mut(from..to).ok_or_else(outside)?;
    match part {
        Change::Data(_, bytes) => place.copy_from_slice(bytes),
        Change::Zeroes(_) => place.fill(0),
        Change::Source(_, source, from) => source.read_exact_at(place, from)?,
    }
    Ok(())
}
