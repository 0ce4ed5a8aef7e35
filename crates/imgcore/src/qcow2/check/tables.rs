//! The L1 tables, and the L2 tables that they name.

use std::ops::Range;

use super::digest::{Item, digest};
use super::stored::Holes;
use super::walk::Walk;
use crate::block::{BlockRead, map_in_order};
use crate::qcow2::entry::{COPIED, OFFSET};
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::geometry::Geometry;
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::table::read_words;

/// An L2 table, and how many references there are to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Table {
    pub(super) offset: u64,
    pub(super) weight: u64,
}

impl<S: BlockRead> Walk<'_, S> {
    /// Goes through the tables of the disk as it is.
    pub(super) fn active(&mut self) -> Result<(), Error> {
        let header = &self.image.header;
        self.refer(header.l1_offset.0, header.l1_entries.saturating_mul(8), 1)?;
        let mut tables = Vec::new();
        for (word, index) in self.image.l1.iter().zip(0_u64..) {
            let offset = word & OFFSET;
            self.bare_flags = self.bare_flags.saturating_add(u64::from(*word == COPIED));
            if !self.refer_table(*word, 1)? {
                continue;
            }
            tables.push((offset, index));
            let count = self.stored.count(self.geometry.index(offset))?;
            if let Some(count) = count.filter(|count| (*count == 1) != (word & COPIED != 0)) {
                self.findings
                    .flag(1, || format!("ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={word:x} refcount={count}"));
            }
        }
        self.walk_tables(&weighted(tables), true)
    }

    /// Goes through the L2 tables of snapshots, in which flags mean nothing.
    pub(super) fn inactive(&mut self, tables: &[Table]) -> Result<(), Error> {
        self.walk_tables(tables, false)
    }

    /// Counts `weight` references of an L1 entry. Returns whether it names a table.
    pub(super) fn refer_table(&mut self, word: u64, weight: u64) -> Result<bool, Error> {
        let offset = word & OFFSET;
        if word == 0 {
            return Ok(false);
        }
        if offset == 0 {
            let line = || format!("ERROR L1 entry {word:x} has flags and no table; L1 entry corrupted");
            self.findings.corruptions_of_a_kind(weight, line);
            return Ok(false);
        }
        // Spec: "0 - 8: Reserved (set to 0)" and "56 - 62: Reserved (set to 0)"
        if word & RESERVED != 0 {
            self.findings.corruptions_of_a_kind(weight, || format!("ERROR found L1 entry with reserved bits set: {word:x}"));
        }
        // Spec: "Must be aligned to a cluster boundary."
        if !self.geometry.is_aligned(offset) {
            let line = || format!("ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted");
            self.findings.corruptions_of_a_kind(weight, line);
        }
        self.refer(offset, self.geometry.cluster_size(), weight)?;
        Ok(true)
    }

    fn walk_tables(&mut self, tables: &[Table], active: bool) -> Result<(), Error> {
        let geometry = self.geometry;
        let storage = &self.image.storage;
        let external = self.image.has_data_file();
        // Tables that begin in the middle of a cluster overlap: a few are read as they are, as many would take for ever.
        let mut misaligned = 0_usize;
        let readable = tables.iter().filter(|table| {
            misaligned = misaligned.saturating_add(usize::from(!geometry.is_aligned(table.offset)));
            table.offset < storage.size() && (geometry.is_aligned(table.offset) || misaligned <= MOST_MISALIGNED)
        });
        let tables: Vec<Table> = readable.copied().collect();
        let parts = split(tables.len(), geometry);
        let threads = if parts.len() > 1 { THREADS } else { 1 };
        let read = |holes: &mut Holes, part: &Range<usize>| -> Result<Vec<(Table, Vec<Item>)>, Error> {
            let tables = tables.get(part.clone()).unwrap_or_default();
            read_part(storage, tables, geometry, external, holes)
        };
        map_in_order(
            &parts,
            threads,
            || Ok(Holes::default()),
            read,
            |digests| digests.iter().try_for_each(|(table, items)| self.take_in(*table, items, active)),
        )
    }
}

/// Reads tables, those that follow each other in the file in one go.
fn read_part<S: BlockRead>(
    storage: &S,
    tables: &[Table],
    geometry: Geometry,
    external: bool,
    holes: &mut Holes,
) -> Result<Vec<(Table, Vec<Item>)>, Error> {
    let size = geometry.cluster_size();
    let mut digests = Vec::new();
    let mut rest = tables;
    while let Some(first) = rest.first() {
        let follows = |(table, index): (&Table, u64)| table.offset == first.offset.saturating_add(index.saturating_mul(size));
        let run = rest.iter().zip(0..).take_while(|(table, index)| follows((table, *index))).count().max(1);
        let (run, behind) = rest.split_at(run.min(rest.len()));
        rest = behind;
        let run: Vec<Table> = run.to_vec();
        let len = size.saturating_mul(to_u64(run.len()));
        if holes.cover(storage, first.offset, len)? {
            continue;
        }
        let words = read_words(storage, "L2 table", HostOffset(first.offset), geometry.words(to_u64(run.len())))?;
        for (table, words) in run.into_iter().zip(words.chunks(to_usize(geometry.words(1)))) {
            let items = digest(words, geometry, external);
            if !items.is_empty() {
                digests.push((table, items));
            }
        }
    }
    Ok(digests)
}

/// Returns each table once, in the order of the entries that name it first.
pub(super) fn weighted(mut named: Vec<(u64, u64)>) -> Vec<Table> {
    named.sort_unstable();
    let mut tables: Vec<(u64, Table)> = Vec::with_capacity(named.len());
    for (offset, index) in named {
        match tables.last_mut() {
            Some((_, last)) if last.offset == offset => last.weight = last.weight.saturating_add(1),
            _ => tables.push((index, Table { offset, weight: 1 })),
        }
    }
    tables.sort_unstable_by_key(|(index, _)| *index);
    tables.into_iter().map(|(_, table)| table).collect()
}

/// Adds up the references to each table, and forgets their order.
pub(super) fn merge(tables: &mut Vec<Table>) -> Result<(), Error> {
    tables.sort_unstable_by_key(|table| table.offset);
    tables.dedup_by(|next, first| {
        let same = next.offset == first.offset;
        if same {
            first.weight = first.weight.saturating_add(next.weight);
        }
        same
    });
    if tables.len() > MOST_TABLES {
        return Err(Unsupported::TooLarge("list of L2 tables", MOST_LIST).into());
    }
    Ok(())
}

/// Divides `count` tables into parts that are read at a time.
fn split(count: usize, geometry: Geometry) -> Vec<Range<usize>> {
    let each = PART.checked_div(geometry.cluster_len()).unwrap_or(0).max(1);
    (0..count).step_by(each).map(|start| start..start.saturating_add(each).min(count)).collect()
}

/// Bits 0-8 and 56-62.
const RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bytes of tables that are read at a time.
const PART: usize = 256 << 10;
/// Threads that read tables.
const THREADS: usize = 2;
/// Tables without a proper place that are read.
const MOST_MISALIGNED: usize = 64;
/// L2 tables of all snapshots.
pub(super) const MOST_TABLES: usize = 4 << 20;
/// Bytes that a list of them takes.
const MOST_LIST: u64 = 64 << 20;
