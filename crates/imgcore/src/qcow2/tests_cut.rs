//! Power cuts: after a cut at any write, an image is sound and what was flushed before is still there.

use std::sync::{Arc, Mutex};

use proptest::prelude::{ProptestConfig, any, proptest};

use super::entry::{Entry, decode_l1};
use super::{CreateOptions, Image, NewBacking, create, refcount_block};
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, Hole, MemoryDisk, Resize};

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
    Flush,
}

/// A disk that remembers everything that was done to it.
#[derive(Debug)]
struct Recorder {
    disk: MemoryDisk,
    changes: Arc<Mutex<Vec<Change>>>,
}

impl Recorder {
    fn note(&self, change: Change) {
        self.changes.lock().unwrap().push(change);
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

/// The bytes after a cut: what was flushed, and of the rest what `luck` lets through.
fn after_cut(before: &[u8], changes: &[Change], mut luck: u64) -> Vec<u8> {
    let flushed = changes.iter().rposition(|change| matches!(change, Change::Flush)).map_or(0, |at| at + 1);
    let mut bytes = before.to_vec();
    for (index, change) in changes.iter().enumerate() {
        luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match change {
            Change::Write(offset, new) if index < flushed || luck >> 63 == 1 => {
                let end = *offset as usize + new.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset as usize..end].copy_from_slice(new);
            }
            Change::Resize(size) => bytes.resize(*size as usize, 0),
            _ => {}
        }
    }
    bytes
}

/// Asserts that nothing refers to a cluster more often than it is counted, and that what is marked as its own is counted once.
fn assert_sound(bytes: &[u8]) {
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
    let mut used = std::collections::BTreeMap::<u64, u64>::new();
    let mut count = |offset: u64, len: u64| {
        for cluster in geometry.index(offset)..geometry.clusters(offset + len) {
            *used.entry(cluster).or_default() += 1;
        }
    };
    count(0, 1);
    count(table, clusters * geometry.cluster_size());
    count(image.header.l1_offset.0, image.header.l1_entries * 8);
    (0..geometry.words(clusters)).map(|index| word(table + index * 8)).filter(|at| *at != 0).for_each(|at| count(at, 1));
    for (index, l1) in image.l1.iter().enumerate() {
        let Some((l2, _)) = decode_l1(*l1, geometry, 0).unwrap() else { continue };
        count(l2.0, 1);
        for entry in image.l2_table(index as u64).unwrap().unwrap().chunks(geometry.l2_words() as usize) {
            let words = [entry[0], entry.get(1).copied().unwrap_or(0)];
            if let Entry::Standard(standard) = Entry::decode(words, geometry, false, 0).unwrap()
                && let Some(host) = standard.host
            {
                count(host.0, 1);
            }
        }
    }
    for (cluster, references) in used {
        assert!(stored(cluster) >= references, "cluster {cluster} is used {references} times, counted {}", stored(cluster));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_cut_at_any_write_leaves_a_sound_image_with_all_that_was_flushed(
        steps in proptest::collection::vec((0_u64..120_000, 1_usize..6000, 0_u8..4), 2..14),
        order in 0_u32..=6,
        extended in any::<bool>(),
        luck in any::<u64>(),
    ) {
        let options = CreateOptions {
            cluster_size: if extended { 16384 } else { 512 },
            extended_l2: extended,
            refcount_bits: 1 << order,
            backing: Some(NewBacking { name: b"base".to_vec(), format: "raw".to_owned() }),
            ..CreateOptions::new(126_976)
        };
        let base: Arc<MemoryDisk> = Arc::new(MemoryDisk::new((0..130_000_u32).map(|at| (at % 250) as u8 + 1).collect()));
        let mut disk = MemoryDisk::default();
        create(&mut disk, &options).unwrap();
        let mut before = disk.as_bytes().to_vec();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let mut image = Image::open(Recorder { disk, changes: Arc::clone(&changes) }).unwrap();
        image.set_backing(base.clone());
        let mut model = base.as_bytes()[..126_976].to_vec();
        for round in steps.chunks(3) {
            let old = model.clone();
            for (at, len, kind) in round {
                let at = *at.min(&(model.len() as u64 - 1));
                let len = (*len).min(model.len() - at as usize);
                let span = at as usize..at as usize + len;
                match kind {
                    0 => {
                        image.write_zeroes_at(ByteRange::at(at, len as u64).unwrap(), Hole::Allow).unwrap();
                        model[span].fill(0);
                    }
                    1 if round.len() == 1 => {
                        let size = model.len() as u64 + (len as u64) / 512 * 512;
                        image.resize(size).unwrap();
                        model.resize(size as usize, 0);
                    }
                    _ => {
                        image.write_all_at(&vec![*kind; len], at).unwrap();
                        model[span].fill(*kind);
                    }
                }
            }
            image.flush().unwrap();
            let done = std::mem::take(&mut *changes.lock().unwrap());
            for cut in 0..=done.len() {
                let bytes = after_cut(&before, &done[..cut], luck ^ cut as u64);
                assert_sound(&bytes);
                let mut image = Image::open(MemoryDisk::new(bytes)).unwrap();
                image.set_backing(base.clone());
                let mut now = vec![0; image.size() as usize];
                image.read_exact_at(&mut now, 0).unwrap();
                for (at, byte) in now.iter().enumerate() {
                    let (old, new) = (old.get(at).copied().unwrap_or(0), model.get(at).copied().unwrap_or(0));
                    // A run may have been written more than once, with any of these.
                    let written = old != new || round.iter().any(|(start, len, _)| (*start..*start + *len as u64).contains(&(at as u64)));
                    assert!(*byte == old || *byte == new || (written && *byte < 4), "byte {at} after cut {cut} of {}", done.len());
                }
            }
            before = after_cut(&before, &done, 0);
            let all = after_cut(&before, &[], 0);
            assert_sound(&all);
        }
    }
}
