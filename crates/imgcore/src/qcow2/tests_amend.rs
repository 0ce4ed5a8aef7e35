//! Other properties for images that hold something, and power cuts meanwhile.

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::cut::{Leaks, after_cut, assert_sound, for_each_cut};
use super::tests_snapshots::{Machine, Step, cases, state};
use super::{AmendOptions, Bits, CreateOptions, Error, Image, NewBitmap, NewSnapshot, Unsupported, Version, create};
use crate::block::{BlockRead, BlockWrite, ByteRange, Hole, MemoryDisk};

fn amendments() -> impl Strategy<Value = AmendOptions> {
    let version = prop_oneof![Just(None), Just(Some(Version::V2)), Just(Some(Version::V3))];
    let bits = prop_oneof![2 => Just(None), 1 => Just(Some(16)), 3 => (0_u32..=6).prop_map(|order| Some(1 << order))];
    (version, bits, any::<Option<bool>>()).prop_map(|(version, refcount_bits, lazy_refcounts)| AmendOptions {
        version,
        refcount_bits,
        lazy_refcounts,
        ..AmendOptions::default()
    })
}

/// What of an image can be amended.
fn properties(bytes: &[u8]) -> (Version, u32, bool) {
    let image = Image::open(MemoryDisk::new(bytes.to_vec())).unwrap();
    (image.version(), image.refcount_bits(), image.lazy_refcounts())
}

/// The largest refcount.
fn most_references(bytes: &[u8]) -> u64 {
    let image = Image::open(MemoryDisk::new(bytes.to_vec())).unwrap();
    let (geometry, table) = (image.geometry(), image.header.refcount_table_offset.0 as usize);
    let words = bytes[table..].chunks_exact(8).take(geometry.words(image.header.refcount_table_clusters) as usize);
    let blocks = words.map(|word| u64::from_be_bytes(word.try_into().unwrap()) as usize).filter(|at| *at > 0);
    let counts = blocks.flat_map(|at| {
        let block = &bytes[at..at + geometry.cluster_len()];
        let count = move |place| super::refcount_block::get(block, place, geometry.refcount_order);
        (0..geometry.refcount_block_entries() as usize).map(count)
    });
    counts.max().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_cut_at_any_write_leaves_the_old_properties_or_the_new_ones_and_the_content(
        case in cases(),
        amendments in proptest::collection::vec(amendments(), 1..4),
        bitmap in any::<bool>(),
        luck in any::<u64>(),
    ) {
        let (mut machine, before) = Machine::new(&case);
        for step in &case.steps {
            machine.step(step);
        }
        machine.step(&Step::Create);
        machine.image.close().unwrap();
        if bitmap && machine.image.version() == Version::V3 {
            let bits = Bits::new(machine.image.size(), 512);
            machine.image.store_bitmaps(&[NewBitmap { name: "changes".to_owned(), auto: true, bits }]).unwrap();
        }
        let mut before = after_cut(&before, &machine.changes.take(), None);
        for options in amendments {
            let old = properties(&before);
            let version = options.version.unwrap_or(old.0);
            let bits = options.refcount_bits.unwrap_or(old.1);
            let v2 = version == Version::V2;
            let lazy_allowed = options.lazy_refcounts != Some(true) || old.0 == Version::V3;
            let allowed = !v2 || (bits == 16 && lazy_allowed && !machine.image.extended_l2());
            let fits = bits == 64 || most_references(&before) < 1 << bits;
            let new = (version, bits, !v2 && options.lazy_refcounts.unwrap_or(old.2));
            let result = machine.image.amend(&options);
            let done = machine.changes.take();
            match &result {
                Ok(()) => assert!(allowed && fits, "{options:?}"),
                Err(Error::InvalidOptions(_)) => assert!(!allowed, "{options:?}"),
                Err(Error::Unsupported(Unsupported::References(_))) => assert!(allowed && !fits, "{options:?}"),
                Err(error) => panic!("{error:?}"),
            }
            for_each_cut(&before, &done, luck, |cut, bytes| {
                assert_sound(bytes, Leaks::None);
                let now = properties(bytes);
                assert!(now == old || (result.is_ok() && now == new), "{options:?} after cut {cut} of {}: {now:?}", done.len());
                assert!(state(bytes, machine.base.as_ref()) == machine.model);
            });
            before = after_cut(&before, &done, None);
            assert_eq!(properties(&before), if result.is_ok() { new } else { old });
            let stored = Image::open(MemoryDisk::new(before.clone())).unwrap();
            assert!(new.0 == Version::V3 || result.is_err() || stored.bitmaps().unwrap().is_empty());
        }
        // What was amended can be written, and gives up all that it had.
        for (name, _) in std::mem::take(&mut machine.model.snapshots) {
            machine.image.delete_snapshot(&name).unwrap();
        }
        machine.step(&Step::Write(0, 1000, 9));
        machine.image.close().unwrap();
        let after = after_cut(&before, &machine.changes.take(), None);
        assert_sound(&after, Leaks::None);
        assert!(state(&after, machine.base.as_ref()) == machine.model);
    }
}

#[test]
fn zero_clusters_of_shared_tables_become_shared_clusters_of_zeros_over_a_backing_file() {
    let backing = super::NewBacking { name: b"base".to_vec(), format: "raw".to_owned() };
    let options = CreateOptions { cluster_size: 512, backing: Some(backing), ..CreateOptions::new(100_352) };
    let mut storage = MemoryDisk::default();
    create(&mut storage, &options).unwrap();
    let base = std::sync::Arc::new(MemoryDisk::new(vec![7; 100_352]));
    let mut image = Image::open(storage).unwrap();
    image.set_backing(base.clone());
    let zero = |image: &mut Image<MemoryDisk>, at| image.write_zeroes_at(ByteRange::at(at, 1024).unwrap(), Hole::Keep).unwrap();
    zero(&mut image, 512);
    image.write_all_at(&[3; 2048], 40_960).unwrap();
    zero(&mut image, 40_960);
    for seconds in 0..3 {
        image.create_snapshot(&NewSnapshot { name: "one".to_owned(), seconds, nanoseconds: 0 }).unwrap();
    }
    zero(&mut image, 4096);
    image.close().unwrap();
    let before = state(image.storage().as_bytes(), Some(&base));
    image.amend(&AmendOptions { version: Some(Version::V2), ..AmendOptions::default() }).unwrap();
    let bytes = image.into_storage().into_bytes();
    assert_sound(&bytes, Leaks::None);
    assert_eq!(state(&bytes, Some(&base)), before);
    // Two zero clusters in each of two tables, which three snapshots share, and two more in a table of the disk alone.
    let mut shown = Image::open(MemoryDisk::new(bytes)).unwrap();
    shown.amend(&AmendOptions { version: Some(Version::V3), ..AmendOptions::default() }).unwrap();
    assert!(shown.header.extension(super::extension::Extension::FEATURE_NAMES).is_none(), "there is no room in 512 bytes");
    assert_eq!(state(shown.storage().as_bytes(), Some(&base)), before);
}

#[test]
fn snapshots_get_what_version_3_requires() {
    let mut storage = MemoryDisk::default();
    create(&mut storage, &CreateOptions { version: Version::V2, ..CreateOptions::new(1 << 20) }).unwrap();
    let mut image = Image::open(storage).unwrap();
    for (name, seconds) in [("first", 1), ("second", 2)] {
        image.create_snapshot(&NewSnapshot { name: name.to_owned(), seconds, nanoseconds: 0 }).unwrap();
    }
    let table = image.header.snapshots_offset.0 as usize;
    let l1 = image.snapshots().unwrap()[1].l1_offset;
    let mut bytes = image.into_storage().into_bytes();
    // As old programs wrote them: without extra data, of which the second has some.
    bytes[table + 36..table + 40].copy_from_slice(&0_u32.to_be_bytes());
    bytes.copy_within(table + 64..table + 70, table + 40);
    bytes.copy_within(table + 72..table + 144, table + 48);
    let mut image = Image::open(MemoryDisk::new(bytes)).unwrap();
    assert_eq!(image.snapshots().unwrap()[0].disk_size, None);
    image.amend(&AmendOptions { version: Some(Version::V3), ..AmendOptions::default() }).unwrap();
    let snapshots = image.snapshots().unwrap();
    let told = snapshots.iter().map(|one| (one.name.as_str(), one.id.as_str(), one.date_seconds, one.disk_size));
    assert_eq!(told.collect::<Vec<_>>(), [("first", "1", 1, Some(1 << 20)), ("second", "2", 2, Some(1 << 20))]);
    assert_eq!(snapshots[1].l1_offset, l1);
    assert_sound(image.into_storage().as_bytes(), Leaks::None);
}
