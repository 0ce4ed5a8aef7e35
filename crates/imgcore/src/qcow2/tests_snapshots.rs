//! Snapshots against vectors, and power cuts while they are taken, applied and deleted.

use std::sync::Arc;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::cut::{Changes, Leaks, Recorder, after_cut, assert_sound, contents, for_each_cut};
use super::{Content, CreateOptions, Deflater, Effort, Image, NewBacking, NewSnapshot, Version, create, write_image_with};
use crate::block::{BlockRead, BlockWrite, ByteRange, Hole, MemoryDisk, Resize};

#[derive(Clone, Debug)]
pub(super) enum Step {
    Write(u64, u64, u8),
    Compress(u64),
    Zero(u64, u64),
    Resize(u64),
    Create,
    Apply(usize),
    Delete(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) options: CreateOptions,
    compressed: bool,
    pub(super) steps: Vec<Step>,
}

/// What an image should hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Model {
    active: Vec<u8>,
    pub(super) snapshots: Vec<(String, Vec<u8>)>,
}

const BASE: usize = 150_000;

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let bits = prop_oneof![4 => Just(9_u32), 2 => Just(12), 2 => Just(14), 1 => Just(16)];
    (bits, 2_u32..=6, any::<(bool, bool, bool)>()).prop_flat_map(|(bits, order, (v2, extended, backed))| {
        let cluster = 1_u64 << bits;
        let max = (cluster * 40).min(1 << 18);
        let options = (1..max / 512).prop_map(move |sectors| CreateOptions {
            size: sectors * 512,
            version: if v2 { Version::V2 } else { Version::V3 },
            cluster_size: cluster,
            refcount_bits: if v2 { 16 } else { 1 << order },
            extended_l2: extended && bits >= 14 && !v2,
            backing: backed.then(|| NewBacking { name: b"base".to_vec(), format: "raw".to_owned() }),
            ..CreateOptions::default()
        });
        let step = prop_oneof![
            5 => (0..max, 1..cluster * 3, 1..255_u8).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
            2 => (0..max).prop_map(Step::Compress),
            2 => (0..max, 0..cluster * 5).prop_map(|(at, len)| Step::Zero(at, len)),
            1 => (1..max / 256).prop_map(|sectors| Step::Resize(sectors * 512)),
            4 => Just(Step::Create),
            2 => any::<usize>().prop_map(Step::Apply),
            2 => any::<usize>().prop_map(Step::Delete),
        ];
        (options, any::<bool>(), proptest::collection::vec(step, 1..16)).prop_map(|(options, compressed, steps)| Case {
            options,
            compressed,
            steps,
        })
    })
}

fn base(options: &CreateOptions) -> Option<Arc<MemoryDisk>> {
    options.backing.as_ref().map(|_| Arc::new(MemoryDisk::new((0..BASE).map(|at| (at / 600 % 250) as u8 + 1).collect())))
}

/// Returns what is in the image now: the disk and its snapshots.
pub(super) fn state(bytes: &[u8], base: Option<&Arc<MemoryDisk>>) -> Model {
    let image = Image::open(MemoryDisk::new(bytes.to_vec())).unwrap();
    let snapshots = image.snapshots().unwrap();
    let of_snapshot = |snapshot: &super::Snapshot| {
        let mut bytes = bytes.to_vec();
        bytes[24..32].copy_from_slice(&snapshot.disk_size.unwrap().to_be_bytes());
        bytes[36..40].copy_from_slice(&(snapshot.l1_entries as u32).to_be_bytes());
        bytes[40..48].copy_from_slice(&snapshot.l1_offset.0.to_be_bytes());
        (snapshot.name.clone(), contents(&bytes, base))
    };
    Model { active: contents(bytes, base), snapshots: snapshots.iter().map(of_snapshot).collect() }
}

pub(super) struct Machine {
    pub(super) image: Image<Recorder>,
    pub(super) changes: Changes,
    pub(super) base: Option<Arc<MemoryDisk>>,
    pub(super) model: Model,
    /// How often a snapshot was taken.
    taken: usize,
}

impl Machine {
    pub(super) fn new(case: &Case) -> (Self, Vec<u8>) {
        let base = base(&case.options);
        let mut storage = MemoryDisk::default();
        let size = case.options.size;
        let disk = MemoryDisk::new((0..size).map(|at| (at / 900 % 250) as u8 + 1).collect());
        let half = [ByteRange::new(0, if case.compressed { size / 2 } else { 0 }).unwrap()];
        let mut model = base.as_ref().map_or(Vec::new(), |base| base.as_bytes().to_vec());
        model.resize(size as usize, 0);
        if case.compressed {
            let cluster = case.options.cluster_size;
            let mut shown = disk.as_bytes().to_vec();
            let end = (size / 2).next_multiple_of(cluster).min(size) as usize;
            model[..end].copy_from_slice(&shown[..end]);
            shown.truncate(size as usize);
            let effort = Effort { threads: 1, compress: true };
            write_image_with(&mut storage, &case.options, &Content::new(&disk, &half), effort).unwrap();
        } else {
            create(&mut storage, &case.options).unwrap();
        }
        let before = storage.as_bytes().to_vec();
        let (recorder, changes) = Recorder::new(storage);
        let mut image = Image::open(recorder).unwrap();
        if let Some(base) = &base {
            image.set_backing(base.clone());
        }
        (Self { image, changes, base, model: Model { active: model, snapshots: Vec::new() }, taken: 0 }, before)
    }

    /// Does one thing, and returns whether it is one that a cut must leave undone or done.
    pub(super) fn step(&mut self, step: &Step) -> bool {
        let size = self.model.active.len() as u64;
        let range = |at: u64, len: u64| ByteRange::new(at.min(size), (at.min(size) + len).min(size)).unwrap();
        let span = |range: ByteRange| range.start() as usize..range.end() as usize;
        match *step {
            Step::Write(at, len, byte) => {
                let range = range(at, len);
                self.image.write_all_at(&vec![byte; range.len() as usize], range.start()).unwrap();
                self.model.active[span(range)].fill(byte);
            }
            Step::Compress(at) => {
                let cluster = self.image.cluster_size();
                let range = range(at / cluster * cluster, cluster);
                let bytes: Vec<u8> = (0..cluster).map(|byte| (byte / 40 + at) as u8).collect();
                let mut deflater = Deflater::new(self.image.compression(), bytes.len()).unwrap();
                if let Some(small) = deflater.deflate(&bytes).filter(|_| range.start() < size) {
                    self.image.write_compressed(small, range.start()).unwrap();
                    self.model.active[span(range)].copy_from_slice(&bytes[..range.len() as usize]);
                }
            }
            Step::Zero(at, len) => {
                let range = range(at, len);
                self.image.write_zeroes_at(range, Hole::Allow).unwrap();
                self.model.active[span(range)].fill(0);
            }
            Step::Resize(size) => {
                let v2 = self.image.version() == Version::V2;
                let longer_below = self.base.is_some() && size > self.image.size();
                if v2 && !self.model.snapshots.is_empty() {
                    assert!(size == self.image.size() || self.image.resize(size).is_err());
                } else if !(v2 && longer_below) {
                    self.image.resize(size).unwrap();
                    self.model.active.resize(size as usize, 0);
                }
            }
            Step::Create => {
                let new = NewSnapshot { name: format!("state {}", self.taken), seconds: 7, nanoseconds: 8 };
                if let Err(error) = self.image.create_snapshot(&new) {
                    // Fifteen references are what four bits can count.
                    assert!(self.image.refcount_bits() < 8 && error.to_string().contains("unsupported"), "{error}");
                } else {
                    self.taken += 1;
                    self.model.snapshots.push((new.name, self.model.active.clone()));
                }
                return true;
            }
            Step::Apply(which) if !self.model.snapshots.is_empty() => {
                let (name, disk) = &self.model.snapshots[which % self.model.snapshots.len()];
                self.image.apply_snapshot(name).unwrap();
                self.model.active = disk.clone();
                return true;
            }
            Step::Delete(which) if !self.model.snapshots.is_empty() => {
                let (name, _) = self.model.snapshots.remove(which % self.model.snapshots.len());
                self.image.delete_snapshot(&name).unwrap();
                return true;
            }
            Step::Apply(_) | Step::Delete(_) => {
                self.image.apply_snapshot("none").unwrap_err();
                self.image.delete_snapshot("none").unwrap_err();
            }
        }
        false
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn snapshots_are_vectors_under_any_changes(case in cases()) {
        let (mut machine, before) = Machine::new(&case);
        for step in &case.steps {
            machine.step(step);
        }
        machine.image.close().unwrap();
        let after = after_cut(&before, &machine.changes.take(), None);
        assert_sound(&after, Leaks::None);
        assert!(state(&after, machine.base.as_ref()) == machine.model);
        // Without snapshots, nothing of them is left.
        for (name, _) in machine.model.snapshots.clone() {
            machine.image.delete_snapshot(&name).unwrap();
        }
        let after = after_cut(&after, &machine.changes.take(), None);
        assert_sound(&after, Leaks::None);
        assert_eq!(after[60..72], [0; 12]);
        assert!(contents(&after, machine.base.as_ref()) == machine.model.active);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_cut_at_any_write_leaves_snapshots_undone_or_done_and_the_others_as_they_were(case in cases(), luck in any::<u64>()) {
        let (mut machine, mut before) = Machine::new(&case);
        for step in &case.steps {
            let old = machine.model.clone();
            let whole = machine.step(step);
            machine.image.flush().unwrap();
            let done = machine.changes.take();
            for_each_cut(&before, &done, luck, |cut, bytes| {
                // Only writes in place may leak.
                assert_sound(bytes, if whole { Leaks::None } else { Leaks::Allowed });
                let now = state(bytes, machine.base.as_ref());
                let fits = if whole { now == old || now == machine.model } else { is_between(&now, &old, &machine.model) };
                assert!(fits, "{step:?} after cut {cut} of {}", done.len());
            });
            before = after_cut(&before, &done, None);
            assert_sound(&before, Leaks::None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_damage_is_an_error_or_another_state_and_never_a_panic(
        case in cases(),
        noise in proptest::collection::vec((0_usize..200, 0_usize..600, any::<u8>()), 1..8),
    ) {
        let (mut machine, before) = Machine::new(&case);
        machine.step(&Step::Create);
        for step in &case.steps {
            machine.step(step);
        }
        machine.image.close().unwrap();
        let mut bytes = after_cut(&before, &machine.changes.take(), None);
        for (cluster, at, value) in noise {
            let len = case.options.cluster_size as usize;
            let clusters = bytes.len() / len;
            if let Some(byte) = bytes.get_mut(cluster % clusters * len + at % len) {
                *byte = value;
            }
        }
        let Ok(mut image) = Image::open(MemoryDisk::new(bytes)) else { return Ok(()) };
        let _created = image.create_snapshot(&NewSnapshot { name: "more".to_owned(), seconds: 0, nanoseconds: 0 });
        for snapshot in image.snapshots().unwrap_or_default() {
            let _applied = image.apply_snapshot(&snapshot.id);
            let _deleted = image.delete_snapshot(&snapshot.name);
        }
    }
}

#[test]
fn tables_that_are_named_twice_or_not_counted_are_refused_before_anything_changes() {
    let mut storage = MemoryDisk::default();
    create(&mut storage, &CreateOptions { cluster_size: 512, refcount_bits: 64, ..CreateOptions::new(1 << 20) }).unwrap();
    let mut image = Image::open(storage).unwrap();
    image.write_all_at(&[1; 512], 0).unwrap();
    image.write_all_at(&[2; 512], 40_000).unwrap();
    image.flush().unwrap();
    let (l1, second) = (image.header.l1_offset.0, image.l1[1]);
    let sound = image.into_storage();
    let new = NewSnapshot { name: "one".to_owned(), seconds: 0, nanoseconds: 0 };
    let refused = |at: u64, word: u64, rule: &str| {
        let mut storage = sound.clone();
        storage.write_all_at(&word.to_be_bytes(), at).unwrap();
        let before = storage.as_bytes().to_vec();
        let mut image = Image::open(storage).unwrap();
        let error = image.create_snapshot(&new).expect_err(rule);
        assert!(std::error::Error::source(&error).unwrap().to_string().contains(rule), "{error:?}");
        assert_eq!(image.into_storage().as_bytes()[..before.len()], before);
    };
    refused(l1, second, "the same L2 table");
    // Where the file ends, behind all that is counted.
    let end = sound.size();
    refused(l1, end | 1 << 63, "L2 table is 0");
    let table = Image::open(sound.clone()).unwrap().header.refcount_table_offset;
    let block = u64::from_be_bytes(sound.as_bytes()[table.0 as usize..][..8].try_into().unwrap());
    let data = (second & !(1 << 63)) / 512;
    refused(block + data % 64 * 8, 0, "L2 table is 0");
}

/// Whether every byte is an old or a new one, and no snapshot has changed.
fn is_between(now: &Model, old: &Model, new: &Model) -> bool {
    let at = |model: &Model, at: usize| model.active.get(at).copied().unwrap_or(0);
    let sized = [old, new].iter().any(|model| model.active.len() == now.active.len());
    let bytes = now.active.iter().enumerate().all(|(place, byte)| *byte == at(old, place) || *byte == at(new, place));
    sized && bytes && now.snapshots == old.snapshots
}
