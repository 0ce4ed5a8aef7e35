//! Power cuts: after a cut at any write, an image is sound and what was flushed before is still there.

use std::sync::Arc;

use proptest::prelude::{ProptestConfig, any, proptest};

use super::cut::{Leaks, Recorder, after_cut, assert_sound, contents, for_each_cut};
use super::{Content, CreateOptions, Effort, Image, NewBacking, create, write_image_with};
use crate::block::{BlockRead, BlockWrite, ByteRange, Hole, MemoryDisk, Resize};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

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
        let (recorder, changes) = Recorder::new(disk);
        let mut image = Image::open(recorder).unwrap();
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
            let done = changes.take();
            for_each_cut(&before, &done, luck, |cut, bytes| {
                assert_sound(bytes, Leaks::Allowed);
                for (at, byte) in contents(bytes, Some(&base)).iter().enumerate() {
                    let (old, new) = (old.get(at).copied().unwrap_or(0), model.get(at).copied().unwrap_or(0));
                    // A run may have been written more than once, with any of these.
                    let written = old != new || round.iter().any(|(start, len, _)| (*start..*start + *len as u64).contains(&(at as u64)));
                    assert!(*byte == old || *byte == new || (written && *byte < 4), "byte {at} after cut {cut} of {}", done.len());
                }
            });
            before = after_cut(&before, &done, None);
            assert_sound(&before, Leaks::None);
        }
    }

    #[test]
    fn a_cut_while_a_disk_is_made_smaller_leaves_the_old_or_the_new_one_and_no_leak(
        sectors in (1_u64..240, 1_u64..240),
        runs in proptest::collection::vec((0_u64..110_000, 1_u64..12_000), 1..6),
        order in 0_u32..=6,
        kind in 0_u8..3,
        luck in any::<u64>(),
    ) {
        let (size, new) = (sectors.0.max(sectors.1) * 512, sectors.0.min(sectors.1) * 512);
        let options = CreateOptions {
            cluster_size: if kind == 1 { 16384 } else { 512 },
            extended_l2: kind == 1,
            refcount_bits: 1 << order,
            ..CreateOptions::new(size)
        };
        let disk = MemoryDisk::new((0..size).map(|at| (at / 700 % 250) as u8 + 1).collect());
        let runs: Vec<ByteRange> = runs.iter().filter_map(|(at, len)| ByteRange::new(*at, (at + len).min(size))).collect();
        let mut storage = MemoryDisk::default();
        let effort = Effort { threads: 1, compress: kind == 2 };
        write_image_with(&mut storage, &options, &Content::new(&disk, &runs), effort).unwrap();
        let before = storage.as_bytes().to_vec();
        let old = contents(&before, None);
        let (recorder, changes) = Recorder::new(storage);
        let mut image = Image::open(recorder).unwrap();
        image.resize(new).unwrap();
        drop(image);
        let done = changes.take();
        for_each_cut(&before, &done, luck, |cut, bytes| {
            assert_sound(bytes, Leaks::None);
            let now = contents(bytes, None);
            assert!(now == old || now == old[..new as usize], "cut {cut} of {}", done.len());
        });
        let after = after_cut(&before, &done, None);
        assert_eq!(contents(&after, None), &old[..new as usize]);
        // What is grown again is zeros.
        let mut image = Image::open(MemoryDisk::new(after)).unwrap();
        image.resize(size).unwrap();
        let mut all = vec![1; size as usize];
        image.read_exact_at(&mut all, 0).unwrap();
        assert!(all[..new as usize] == old[..new as usize] && all[new as usize..].iter().all(|byte| *byte == 0));
        assert_sound(image.into_storage().as_bytes(), Leaks::None);
    }

    #[test]
    fn a_cut_while_the_backing_file_changes_leaves_the_old_record_or_the_new_one(
        names in proptest::collection::vec(proptest::option::of(1_usize..400), 2..6),
        cluster_bits in 9_u32..=12,
        luck in any::<u64>(),
    ) {
        let record = |len: &Option<usize>, round: usize| len.map(|len| NewBacking {
            name: vec![b'a' + round as u8; len],
            format: if round.is_multiple_of(2) { "raw" } else { "qcow2" }.to_owned(),
        });
        let first = record(&names[0], 0);
        let options = CreateOptions { cluster_size: 1 << cluster_bits, backing: first, ..CreateOptions::new(8192) };
        let mut storage = MemoryDisk::default();
        if create(&mut storage, &options).is_err() {
            // A name that does not fit the first cluster at all.
            return Ok(());
        }
        let told = |bytes: &[u8]| Image::open(MemoryDisk::new(bytes.to_vec())).unwrap().backing_file().map(|file| (file.name, file.format));
        for (round, len) in names.iter().enumerate().skip(1) {
            let before = storage.as_bytes().to_vec();
            let (recorder, changes) = Recorder::new(storage);
            let mut image = Image::open(recorder).unwrap();
            let new = record(len, round);
            let result = image.set_backing_file(new.as_ref());
            let done = changes.take();
            for_each_cut(&before, &done, luck, |cut, bytes| {
                let now = told(bytes);
                let wanted = new.clone().map(|new| (new.name, Some(new.format)));
                assert!(now == told(&before) || (result.is_ok() && now == wanted), "cut {cut} of {}", done.len());
                assert_sound(bytes, Leaks::None);
            });
            storage = MemoryDisk::new(after_cut(&before, &done, None));
            assert!(result.is_ok() || cluster_bits < 12, "{result:?}");
        }
    }
}
