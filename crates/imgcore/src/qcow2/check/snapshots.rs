//! The snapshot table and what it leads to, as far as it can be read.
//!
//! L1 tables of snapshots may overlap, and thousands may be one and the same. So their words are read once each, in the order of
//! the file, with the number of snapshots to which they belong:
//!
//! ```text
//! file        | w | w | w | w | w | w |
//! snapshot 1  |-----------|                  weight of a word: 1 1 2 1 1 0
//! snapshot 2          |-----------|
//! ```

use std::collections::BTreeMap;

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::stored::Holes;
use super::tables::{MOST_TABLES, Table, merge};
use super::walk::Walk;
use crate::block::BlockRead;
use crate::qcow2::entry::OFFSET;
use crate::qcow2::error::{Corrupt, Error};
use crate::qcow2::header::{MAX_L1, Version};
use crate::qcow2::image::Image;
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::raw::RawSnapshot;
use crate::qcow2::table::read_words;

/// The snapshot table as it is stored.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) entries: Vec<Entry>,
    /// Bytes that the stored table takes.
    pub(super) len: u64,
    /// Whether an entry lacks what version 3 demands, or has more than is kept.
    pub(super) is_incomplete: bool,
}

/// An entry as it is stored.
#[derive(Debug)]
pub(super) struct Entry {
    fixed: RawSnapshot,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    /// Extra data, without what is too much.
    pub(super) extra: Vec<u8>,
    /// Whether something was too much.
    has_too_much: bool,
    pub(super) id: Vec<u8>,
    pub(super) name: Vec<u8>,
}

impl<S: BlockRead> Walk<'_, S> {
    /// Counts the snapshot table, and what the snapshots refer to.
    pub(super) fn snapshots(&mut self, snapshots: &Snapshots) -> Result<(), Error> {
        let version = self.image.header.version;
        for (entry, index) in snapshots.entries.iter().zip(0_u64..) {
            if entry.lacks_extra(version) {
                self.findings.corruption(|| format!("ERROR snapshot table entry {index} is incomplete"));
            }
            if entry.has_too_much {
                self.findings.corruption(|| format!("ERROR too much extra metadata in snapshot table entry {index}"));
            }
        }
        let mut edges = BTreeMap::<u64, i64>::new();
        for entry in &snapshots.entries {
            let (offset, len) = (entry.l1_offset, entry.l1_entries.saturating_mul(8));
            if let Some(why) = self.unreadable(entry) {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
                let (id, name) = (text(&entry.id), text(&entry.name));
                self.findings.corruption(|| format!("ERROR snapshot {id} ({name}) {why}; snapshot table entry corrupted"));
                continue;
            }
            self.refer(offset, len, 1)?;
            let end = offset.saturating_add(len).min(self.image.storage.size());
            if offset < end {
                add(&mut edges, offset, 1);
                add(&mut edges, end, -1);
            }
        }
        let tables = self.read_l1_tables(&edges)?;
        self.inactive(&tables)?;
        self.refer(self.image.header.snapshots_offset.0, snapshots.len, 1)
    }

    fn unreadable(&mut self, entry: &Entry) -> Option<String> {
        let (offset, entries) = (entry.l1_offset, entry.l1_entries);
        // Spec: "Must be aligned to a cluster boundary."
        if !self.geometry.is_aligned(offset) {
            return Some(format!("l1_offset={offset:#x}: L1 table is not cluster aligned"));
        }
        (entries.saturating_mul(8) > MAX_L1).then(|| format!("l1_size={entries:#x}: L1 table is too large"))
    }

    /// Reads every word of the L1 tables between `edges` once.
    fn read_l1_tables(&mut self, edges: &BTreeMap<u64, i64>) -> Result<Vec<Table>, Error> {
        let storage = &self.image.storage;
        let mut tables = Vec::new();
        let mut holes = Holes::default();
        let mut weight = 0_u64;
        let ends = edges.keys().copied().skip(1).chain([0]);
        for ((start, change), end) in edges.iter().zip(ends) {
            weight = weight.saturating_add_signed(*change);
            let mut at = *start;
            while weight > 0 && at < end {
                at = holes.skip(storage, at, end)? & !7;
                let count = end.saturating_sub(at).div_ceil(8).min(WORDS);
                if at >= end || count == 0 {
                    break;
                }
                for word in read_words(storage, "L1 table", HostOffset(at), count)? {
                    if self.refer_table(word, weight)? {
                        tables.push(Table { offset: word & OFFSET, weight });
                    }
                }
                if tables.len() > MOST_TABLES {
                    merge(&mut tables)?;
                }
                at = at.saturating_add(count.saturating_mul(8));
            }
        }
        merge(&mut tables)?;
        Ok(tables)
    }
}

fn add(edges: &mut BTreeMap<u64, i64>, at: u64, change: i64) {
    let edge = edges.entry(at).or_default();
    *edge = edge.saturating_add(change);
}

impl Entry {
    /// Spec: "Version 3 images must include extra data at least up to byte 55."
    fn lacks_extra(&self, version: Version) -> bool {
        version == Version::V3 && self.extra.len() < LEAST_EXTRA
    }

    /// Returns whether the entry has to be written anew.
    pub(super) fn is_incomplete(&self, version: Version) -> bool {
        self.lacks_extra(version) || self.has_too_much
    }
}

impl Snapshots {
    /// Returns the stored form of the table, in which what version 3 demands is there and what was too much is not. `disk_size` is
    /// for snapshots that do not say how large their disk is.
    pub(super) fn encode(&self, version: Version, disk_size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            let mut extra = entry.extra.clone();
            if entry.lacks_extra(version) {
                if extra.len() < 8 {
                    extra = u64::from(entry.fixed.vm_state_size.get()).to_be_bytes().to_vec();
                }
                extra.truncate(8);
                extra.extend_from_slice(&disk_size.to_be_bytes());
            }
            let mut fixed = entry.fixed;
            fixed.extra_data_size = u32::try_from(extra.len()).unwrap_or(u32::MAX).into();
            for part in [fixed.as_bytes(), &extra, &entry.id, &entry.name] {
                bytes.extend_from_slice(part);
            }
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }
}

/// Reads the snapshot table, with zeros behind the end of the file.
///
/// # Errors
///
/// [`Error::Corrupt`] when it is larger than any snapshots need, so that nobody can say where it ends; [`Error::Storage`].
pub(super) fn read<S: BlockRead>(image: &Image<S>) -> Result<Snapshots, Error> {
    let header = &image.header;
    let start = header.snapshots_offset.0;
    let mut snapshots = Snapshots::default();
    let mut at = start;
    let mut kept = 0_usize;
    for _ in 0..header.snapshot_count {
        let mut fixed = [0; FIXED];
        read_padded(&image.storage, at, &mut fixed)?;
        let raw = RawSnapshot::ref_from_bytes(&fixed).map_err(|_| corrupt(at, "an entry is too short"))?;
        let extra_len = u64::from(raw.extra_data_size.get());
        let lens = [extra_len.min(MOST_EXTRA), u64::from(raw.id_size.get()), u64::from(raw.name_size.get())];
        let places = [0, extra_len, extra_len.saturating_add(lens[1])];
        let behind = at.saturating_add(to_u64(FIXED));
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for ((part, len), place) in parts.iter_mut().zip(lens).zip(places) {
            part.resize(to_usize(len), 0);
            read_padded(&image.storage, behind.saturating_add(place), part)?;
            kept = kept.saturating_add(part.len());
        }
        let [extra, id, name] = parts;
        let has_too_much = extra_len > MOST_EXTRA;
        let (l1_offset, l1_entries) = (raw.l1_table_offset.get(), u64::from(raw.l1_size.get()));
        let entry = Entry { fixed: *raw, l1_offset, l1_entries, extra, has_too_much, id, name };
        snapshots.is_incomplete |= entry.is_incomplete(header.version);
        snapshots.entries.push(entry);
        let len = to_u64(FIXED).saturating_add(extra_len).saturating_add(lens[1]).saturating_add(lens[2]);
        at = at.saturating_add(len.next_multiple_of(8));
        snapshots.len = at.saturating_sub(start);
        if snapshots.len > MOST_TABLE || kept > to_usize(MOST_TABLE) {
            return Err(corrupt(start, "it is larger than 64 MiB").into());
        }
    }
    Ok(snapshots)
}

/// Fills `buf` with the bytes at `offset`, and with zeros behind the end of the file.
fn read_padded<S: BlockRead>(storage: &S, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
    let stored = to_usize(storage.size().saturating_sub(offset)).min(buf.len());
    let (inside, behind) = buf.split_at_mut(stored);
    behind.fill(0);
    if inside.is_empty() { Ok(()) } else { Ok(storage.read_exact_at(inside, offset)?) }
}

fn corrupt(offset: u64, rule: &'static str) -> Corrupt {
    Corrupt::new("snapshot table", offset, rule)
}

/// Bytes of the fixed part of an entry.
pub(super) const FIXED: usize = size_of::<RawSnapshot>();
/// Bytes of extra data that version 3 demands.
pub(super) const LEAST_EXTRA: usize = 16;
/// Bytes of extra data that are kept, as QEMU's limit is.
const MOST_EXTRA: u64 = 1024;
/// Bytes of the largest snapshot table, as QEMU's limit is.
const MOST_TABLE: u64 = 64 << 20;
/// Words of L1 tables that are read at a time.
const WORDS: u64 = 32 << 10;
