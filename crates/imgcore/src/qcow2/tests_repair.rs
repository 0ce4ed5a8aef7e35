//! Repairs: damaged images become sound, what could be read stays as it is, and a cut leaves nothing worse.

use proptest::prelude::{ProptestConfig, Strategy, any, proptest};

use super::cut::{Leaks, Recorder, after_cut, assert_sound, contents, for_each_cut};
use super::{Check, Content, CreateOptions, Effort, Image, NewSnapshot, Repair, create, write_image_with};
use crate::block::{BlockRead, BlockWrite, ByteRange, MemoryDisk, Resize};

/// What an image of the tests is.
#[derive(Clone, Copy, Debug)]
struct Kind {
    order: u32,
    extended: bool,
    compressed: bool,
    snapshot: bool,
}

fn kinds() -> impl Strategy<Value = Kind> {
    (0_u32..=6, 0_u8..3, any::<bool>()).prop_map(|(order, kind, snapshot)| Kind {
        order,
        extended: kind == 1,
        compressed: kind == 2,
        snapshot: snapshot && order > 2,
    })
}

fn image(kind: Kind) -> MemoryDisk {
    let size = 90_112_u64;
    let options = CreateOptions {
        cluster_size: if kind.extended { 16384 } else { 512 },
        extended_l2: kind.extended,
        refcount_bits: 1 << kind.order,
        ..CreateOptions::new(size)
    };
    let disk = MemoryDisk::new((0..size).map(|at| (at / 700 % 250) as u8 + 1).collect());
    let runs = [ByteRange::new(0, 30_000).unwrap(), ByteRange::new(50_000, size).unwrap()];
    let mut storage = MemoryDisk::default();
    let effort = Effort { threads: 1, compress: kind.compressed };
    write_image_with(&mut storage, &options, &Content::new(&disk, &runs), effort).unwrap();
    if !kind.snapshot {
        return storage;
    }
    let mut image = Image::open(storage).unwrap();
    image.create_snapshot(&NewSnapshot { name: "one".to_owned(), seconds: 1, nanoseconds: 0 }).unwrap();
    image.write_all_at(&[9; 7000], 3000).unwrap();
    image.flush().unwrap();
    image.into_storage()
}

fn check(bytes: &[u8]) -> Check {
    Image::open(MemoryDisk::new(bytes.to_vec())).unwrap().check().unwrap()
}

fn numbers(found: &Check) -> (u64, u64, u64) {
    (found.corruptions, found.leaks, found.errors)
}

/// What can be read of the disk, sector by sector.
fn readable(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let image = Image::open(MemoryDisk::new(bytes.to_vec())).unwrap();
    let read = |at: u64| {
        let mut sector = vec![0; 512];
        image.read_exact_at(&mut sector, at).ok().map(|()| sector)
    };
    (0..image.size() / 512).map(|index| read(index * 512)).collect()
}

/// Where refcounts, and words of the refcount table and the active tables, are stored.
fn places(bytes: &[u8]) -> (Vec<usize>, Vec<usize>) {
    let image = Image::open(MemoryDisk::new(bytes.to_vec())).unwrap();
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let cluster = image.cluster_size() as usize;
    let table = image.header.refcount_table_offset.0 as usize;
    let blocks: Vec<usize> = (table..table + 8 * 20).step_by(8).map(|at| word(at) as usize).filter(|at| *at != 0).collect();
    let refcounts = blocks.iter().flat_map(|block| *block..*block + cluster).collect();
    let l1 = image.header.l1_offset.0 as usize;
    let mut words = Vec::new();
    let step = if image.extended_l2() { 16 } else { 8 };
    for at in (l1..l1 + image.l1.len() * 8).step_by(8).filter(|at| word(*at) != 0) {
        words.push(at);
        let l2 = (word(at) & 0x00ff_ffff_ffff_fe00) as usize;
        // Standard clusters that are there, whose flag it is.
        words.extend((l2..l2 + cluster).step_by(step).filter(|at| word(*at) >> 62 != 1 && word(*at) & !511 << 2 != 0));
    }
    (refcounts, words)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn wrong_refcounts_and_flags_become_right_and_a_cut_leaves_the_old_image_or_the_repaired_one(
        kind in kinds(),
        counts in proptest::collection::vec((any::<u32>(), any::<u8>()), 0..8),
        flags in proptest::collection::vec(any::<u32>(), 0..4),
        marks in 0_u8..4,
        luck in any::<u64>(),
    ) {
        let mut bytes = image(kind).as_bytes().to_vec();
        let old = contents(&bytes, None);
        let (refcounts, words) = places(&bytes);
        for (at, value) in counts {
            bytes[refcounts[at as usize % refcounts.len()]] ^= value;
        }
        for at in flags {
            bytes[words[at as usize % words.len()]] ^= 0x80;
        }
        bytes[79] |= marks;
        let found = check(&bytes);
        let (recorder, changes) = Recorder::new(MemoryDisk::new(bytes.clone()));
        let mut image = Image::open(recorder).unwrap();
        let repaired = image.repair(Repair::All).unwrap();
        assert_eq!(numbers(&repaired.found), numbers(&found));
        assert_eq!(numbers(&repaired.left), (0, 0, 0), "{:?}", repaired.left.lines);
        drop(image);
        let done = changes.take();
        for_each_cut(&bytes, &done, luck, |cut, now| {
            assert!(contents(now, None) == old, "cut {cut} of {}", done.len());
            let now = check(now);
            // A longer file has room for more leaks.
            assert!(now.corruptions == found.corruptions || numbers(&now) == (0, 0, 0), "cut {cut} of {}: {now:?}", done.len());
        });
        let after = after_cut(&bytes, &done, None);
        // Refcounts of clusters behind the end of the file are nobody's business until there is something to repair.
        if repaired.is_changed() {
            assert_sound(&after, Leaks::None);
        }
        assert!(after[79] & 3 == 0 && contents(&after, None) == old);
        // A second repair has nothing to do.
        let (recorder, changes) = Recorder::new(MemoryDisk::new(after));
        Image::open(recorder).unwrap().repair(Repair::All).unwrap();
        assert_eq!(changes.take().len(), 0);
    }

    #[test]
    fn leaks_alone_go_without_a_corruption_in_between(
        kind in kinds(),
        counts in proptest::collection::vec(any::<u32>(), 1..6),
        luck in any::<u64>(),
    ) {
        let mut bytes = image(kind).as_bytes().to_vec();
        bytes.resize(bytes.len() + 40 * 16384, 0);
        let old = contents(&bytes, None);
        let (refcounts, _) = places(&bytes);
        // A refcount of 0 gets bits.
        let free: Vec<usize> = refcounts.into_iter().filter(|at| bytes[*at] == 0 && bytes[*at & !7..][..8] == [0; 8]).collect();
        for at in counts {
            bytes[free[at as usize % free.len()]] = 1;
        }
        let found = check(&bytes);
        assert_eq!(found.corruptions, 0);
        let (recorder, changes) = Recorder::new(MemoryDisk::new(bytes.clone()));
        let repaired = Image::open(recorder).unwrap().repair(Repair::Leaks).unwrap();
        assert_eq!((numbers(&repaired.left), repaired.leaks), ((0, 0, 0), found.leaks));
        let done = changes.take();
        for_each_cut(&bytes, &done, luck, |cut, now| {
            assert!(contents(now, None) == old && check(now).corruptions == 0, "cut {cut} of {}", done.len());
        });
    }

    #[test]
    fn whatever_is_broken_a_repair_ends_and_what_could_be_read_is_still_there(
        kind in kinds(),
        damage in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..8),
        all in any::<bool>(),
        luck in any::<u64>(),
    ) {
        let mut bytes = image(kind).as_bytes().to_vec();
        let (refcounts, words) = places(&bytes);
        let cluster = if kind.extended { 16384 } else { 512 };
        for (at, value) in damage {
            let at = at as usize;
            match value % 4 {
                0 => bytes[refcounts[at / 8 % refcounts.len()]] ^= value,
                1 => bytes[words[at / 8 % words.len()] + at % 8] ^= value,
                // Tables of all kinds, and what they refer to, but not the header.
                _ => {
                    let len = bytes.len();
                    bytes[cluster + at % (len - cluster)] ^= value;
                }
            }
        }
        let Ok(found) = Image::open(MemoryDisk::new(bytes.clone())).unwrap().check() else { return Ok(()) };
        let old = readable(&bytes);
        let keeps = |now: &[u8], what: &str| {
            for (sector, (old, now)) in old.iter().zip(readable(now)).enumerate() {
                assert!(old.is_none() || *old == now, "sector {sector} {what}");
            }
        };
        let (recorder, changes) = Recorder::new(MemoryDisk::new(bytes.clone()));
        let what = if all { Repair::All } else { Repair::Leaks };
        let result = Image::open(recorder).unwrap().repair(what);
        let done = changes.take();
        if let Ok(repaired) = &result {
            assert!(repaired.left.corruptions <= found.corruptions && repaired.left.errors <= found.errors, "{repaired:?}");
        }
        for_each_cut(&bytes, &done, luck, |cut, now| keeps(now, &format!("after cut {cut} of {}", done.len())));
    }
}

#[test]
fn an_image_with_more_references_than_a_refcount_counts_is_left_alone() {
    let mut disk = MemoryDisk::default();
    create(&mut disk, &CreateOptions { refcount_bits: 1, ..CreateOptions::new(1 << 20) }).unwrap();
    let mut image = Image::open(disk).unwrap();
    image.write_all_at(&[1; 1 << 17], 0).unwrap();
    image.flush().unwrap();
    let mut bytes = image.into_storage().as_bytes().to_vec();
    let (_, words) = places(&bytes);
    bytes.copy_within(words[1]..words[1] + 8, words[2]);
    let (recorder, changes) = Recorder::new(MemoryDisk::new(bytes));
    let repaired = Image::open(recorder).unwrap().repair(Repair::All).unwrap();
    assert_eq!(numbers(&repaired.left), (1, 1, 0));
    assert_eq!((changes.take().len(), repaired.is_changed()), (0, false));
}

#[test]
fn what_a_file_lost_at_its_end_reads_as_zeros_and_never_as_a_table() {
    let mut disk = MemoryDisk::default();
    create(&mut disk, &CreateOptions { cluster_size: 512, ..CreateOptions::new(1 << 20) }).unwrap();
    let mut image = Image::open(disk).unwrap();
    image.write_all_at(&[7; 20_480], 0).unwrap();
    image.flush().unwrap();
    let mut disk = image.into_storage();
    disk.resize(disk.size() - 3000).unwrap();
    let cut = contents(disk.as_bytes(), None);
    assert_eq!(cut.iter().filter(|byte| **byte == 7).count(), 20_480 - 3000);
    let mut image = Image::open(disk).unwrap();
    let repaired = image.repair(Repair::All).unwrap();
    assert_eq!((numbers(&repaired.left), repaired.found.corruptions), ((0, 0, 0), 5));
    assert!(contents(image.into_storage().as_bytes(), None) == cut);
}

#[test]
fn the_header_stays_though_a_table_is_said_to_be_in_its_cluster() {
    let sound = image(Kind { order: 4, extended: false, compressed: false, snapshot: false });
    let mut bytes = sound.as_bytes().to_vec();
    bytes[40..48].fill(0);
    bytes[36..40].copy_from_slice(&1_u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&20_480_u64.to_be_bytes());
    for what in [Repair::Leaks, Repair::All] {
        let mut image = Image::open(MemoryDisk::new(bytes.clone())).unwrap();
        let found = image.check().unwrap();
        let left = image.repair(what).unwrap().left;
        assert!(left.corruptions <= found.corruptions, "{what:?} {:?} {:?}", found.lines, left.lines);
        assert_eq!(numbers(&check(image.into_storage().as_bytes())), numbers(&left), "{what:?}");
    }
}
