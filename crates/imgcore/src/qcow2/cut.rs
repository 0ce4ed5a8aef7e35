//! Power cuts for tests: what was done to a disk, the states that a cut can leave of it, and whether an image is sound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::bitmap::{Part, Place, read_table};
use super::entry::{Entry, decode_l1};
use super::{Image, refcount_block};
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, Hole, MemoryDisk, Resize};

/// One thing that was done to a disk.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
    Flush,
}

/// A disk that remembers everything that was done to it.
#[derive(Debug)]
pub(super) struct Recorder {
    disk: MemoryDisk,
    changes: Changes,
}

/// What was done so far, to be taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(Arc<Mutex<Vec<Change>>>);

impl Changes {
    pub(super) fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Recorder {
    pub(super) fn new(disk: MemoryDisk) -> (Self, Changes) {
        let changes = Changes::default();
        (Self { disk, changes: changes.clone() }, changes)
    }

    fn note(&self, change: Change) {
        self.changes.0.lock().unwrap().push(change);
    }
}

impl BlockRead for Recorder {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.disk.read_exact_at(buf, offset)
    }
}

impl BlockWrite for Recorder {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.note(Change::Write(offset, buf.to_vec()));
        self.disk.write_all_at(buf, offset)
    }
    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.note(Change::Write(range.start(), vec![0; range.len() as usize]));
        self.disk.write_zeroes_at(range, hole)
    }
    fn flush(&mut self) -> Result<(), Error> {
        self.note(Change::Flush);
        Ok(())
    }
}

impl Resize for Recorder {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        self.note(Change::Resize(size));
        self.disk.resize(size)
    }
}

/// The bytes after a cut: what was flushed, and of the rest, sector by sector, what `luck` lets through; all of it when that is
/// `None`.
pub(super) fn after_cut(before: &[u8], changes: &[Change], luck: Option<u64>) -> Vec<u8> {
    let flushed = changes.iter().rposition(|change| matches!(change, Change::Flush)).map_or(0, |at| at + 1);
    let mut bytes = before.to_vec();
    let mut state = luck.unwrap_or(0);
    for (index, change) in changes.iter().enumerate() {
        match change {
            Change::Write(offset, new) => {
                let mut at = *offset as usize;
                let mut rest = new.as_slice();
                while !rest.is_empty() {
                    let (part, behind) = rest.split_at((512 - at % 512).min(rest.len()));
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    if index < flushed || luck.is_none() || state >> 63 == 1 {
                        bytes.resize(bytes.len().max(at + part.len()), 0);
                        bytes[at..at + part.len()].copy_from_slice(part);
                    }
                    at += part.len();
                    rest = behind;
                }
            }
            Change::Resize(size) => bytes.resize(*size as usize, 0),
            Change::Flush => {}
        }
    }
    bytes
}

/// Gives `judge` the states after a cut at each of `changes`: with all that was written by then, and twice with a part of it.
pub(super) fn for_each_cut(before: &[u8], changes: &[Change], luck: u64, mut judge: impl FnMut(usize, &[u8])) {
    for cut in 0..=changes.len() {
        let done = &changes[..cut];
        let seed = luck ^ (cut as u64) << 32;
        for luck in [None, Some(seed), Some(seed.rotate_left(17) ^ 0x5555)] {
            judge(cut, &after_cut(before, done, luck));
        }
    }
}

/// What may be wrong with refcounts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Leaks {
    Allowed,
    None,
}

/// Asserts that every cluster is counted as often as it is referred to, or more often where leaks are allowed, and that entries of
/// active tables are marked as the only reference exactly when they are counted once.
pub(super) fn assert_sound(bytes: &[u8], leaks: Leaks) {
    let image = Image::open(MemoryDisk::new(bytes.to_vec())).unwrap();
    let geometry = image.geometry();
    let word = |at: u64| u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap());
    let (table, clusters) = (image.header.refcount_table_offset.0, image.header.refcount_table_clusters);
    let stored = |cluster: u64| {
        let index = cluster / geometry.refcount_block_entries();
        let block = if index < geometry.words(clusters) { word(table + index * 8) as usize } else { 0 };
        let place = (cluster % geometry.refcount_block_entries()) as usize;
        match block {
            0 => 0,
            at => refcount_block::get(&bytes[at..at + geometry.cluster_len()], place, geometry.refcount_order),
        }
    };
    let mut used = BTreeMap::<u64, u64>::new();
    let mut count = |offset: u64, len: u64| {
        for cluster in geometry.index(offset)..geometry.clusters(offset + len) {
            *used.entry(cluster).or_default() += 1;
        }
    };
    let copied = |offset: u64, copied: bool, what: &str| {
        let is = stored(geometry.index(offset));
        assert_eq!(copied, is == 1, "{what} at {offset} is counted {is} times");
    };
    count(0, 1);
    count(table, clusters * geometry.cluster_size());
    (0..geometry.words(clusters)).map(|index| word(table + index * 8)).filter(|at| *at != 0).for_each(|at| count(at, 1));
    let mut tables = vec![(image.header.l1_offset.0, image.header.l1_entries, true)];
    let mut at = image.header.snapshots_offset.0;
    for _ in 0..image.header.snapshot_count {
        let entry = &bytes[at as usize..];
        let half = |at: usize| u64::from(u16::from_be_bytes(entry[at..at + 2].try_into().unwrap()));
        let long = |at: usize| u64::from(u32::from_be_bytes(entry[at..at + 4].try_into().unwrap()));
        tables.push((word(at), long(8), false));
        at += (40 + long(36) + half(12) + half(14)).next_multiple_of(8);
    }
    count(image.header.snapshots_offset.0, at - image.header.snapshots_offset.0);
    if let Some(place) = Place::find(&image.header).unwrap() {
        count(place.offset.0, place.len);
        for bitmap in image.bitmaps().unwrap() {
            count(bitmap.table.0, bitmap.table_entries * 8);
            for part in read_table(&image.storage, geometry, bitmap.table, bitmap.table_entries).unwrap() {
                if let Part::Stored(host) = part {
                    count(host.0, 1);
                }
            }
        }
    }
    for (l1, entries, active) in tables {
        count(l1, entries * 8);
        for index in 0..entries {
            let Some((l2, own)) = decode_l1(word(l1 + index * 8), geometry, 0).unwrap() else { continue };
            count(l2.0, 1);
            if active {
                copied(l2.0, own, "an L2 table");
            }
            for place in (0..geometry.words(1)).step_by(geometry.l2_words() as usize) {
                let first = l2.0 + place * 8;
                let second = if geometry.extended_l2 { word(first + 8) } else { 0 };
                match Entry::decode([word(first), second], geometry, image.has_data_file(), 0).unwrap() {
                    Entry::Compressed { start, len } => count(start.0, len),
                    Entry::Standard(standard) => {
                        let Some(host) = standard.host.filter(|_| !image.has_data_file()) else { continue };
                        count(host.0, 1);
                        if active {
                            copied(host.0, standard.copied, "a cluster");
                        }
                    }
                }
            }
        }
    }
    let all = geometry.words(clusters) * geometry.refcount_block_entries();
    let end = geometry.clusters(bytes.len() as u64 + 8 * geometry.cluster_size()).min(all);
    for cluster in 0..end {
        let (is, references) = (stored(cluster), used.remove(&cluster).unwrap_or(0));
        let sound = if leaks == Leaks::Allowed { is >= references } else { is == references };
        assert!(sound, "cluster {cluster} is used {references} times, counted {is}");
    }
    assert_eq!(used, BTreeMap::new(), "clusters without a refcount");
}

/// Returns all bytes of the disk in an image over `backing`.
pub(super) fn contents(bytes: &[u8], backing: Option<&Arc<MemoryDisk>>) -> Vec<u8> {
    let mut image = Image::open(MemoryDisk::new(bytes.to_vec())).unwrap();
    if let Some(backing) = backing {
        image.set_backing(backing.clone());
    }
    let mut all = vec![0; image.size() as usize];
    image.read_exact_at(&mut all, 0).unwrap();
    all
}
