//! `Image` against a plain vector, over every geometry.

use std::sync::Arc;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::cut::{Leaks, assert_sound};
use super::{
    Compression, Content, CreateOptions, Deflater, Effort, Image, NewBacking, Preallocation, Version, create, write_image,
    write_image_with,
};
use crate::block::{BlockRead, BlockWrite, ByteRange, ExtentKind, Hole, MemoryDisk, Resize, extents};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Compress(u64, u8),
    HoldZeroes(u64, u64),
    Resize(u64),
    Preallocate(u64, Preallocation),
    Empty,
    Reopen,
}

#[derive(Clone, Debug)]
struct Case {
    options: CreateOptions,
    backing: Option<usize>,
    steps: Vec<Step>,
}

fn cases() -> impl Strategy<Value = Case> {
    let bits = prop_oneof![4 => Just(9_u32), 2 => Just(12), 2 => Just(14), 1 => Just(16)];
    (bits, 0_u32..=6, any::<(bool, bool, bool)>()).prop_flat_map(|(bits, order, (v2, extended, zstd))| {
        let cluster = 1_u64 << bits;
        let max = (cluster * 70).min(1 << 20);
        let options = (1..max / 512).prop_map(move |sectors| CreateOptions {
            size: sectors * 512,
            version: if v2 { Version::V2 } else { Version::V3 },
            cluster_size: cluster,
            refcount_bits: if v2 { 16 } else { 1 << order },
            extended_l2: extended && bits >= 14 && !v2,
            compression: if zstd && !v2 { Compression::Zstd } else { Compression::Zlib },
            ..CreateOptions::default()
        });
        let backing = prop_oneof![Just(None), (1..max as usize * 3 / 2).prop_map(Some)];
        let step = prop_oneof![
            5 => (0..max, 1..cluster * 3, 1..255_u8).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
            3 => (0..max, 0..cluster * 5, any::<bool>()).prop_map(|(at, len, keep)| Step::Zero(at, len, keep)),
            3 => (0..max / cluster, 1..255_u8).prop_map(move |(index, byte)| Step::Compress(index * cluster, byte)),
            1 => (0..max, 0..cluster * 5).prop_map(|(at, len)| Step::HoldZeroes(at, len)),
            2 => (1..max / 256).prop_map(|sectors| Step::Resize(sectors * 512)),
            1 => (1..40_u64, any::<bool>()).prop_map(|(sectors, full)| {
                Step::Preallocate(sectors * 512, if full { Preallocation::Full } else { Preallocation::Metadata })
            }),
            1 => Just(Step::Empty),
            1 => Just(Step::Reopen),
        ];
        (options, backing, proptest::collection::vec(step, 1..20)).prop_map(|(mut options, backing, steps)| {
            options.backing = backing.map(|_| NewBacking { name: b"base".to_vec(), format: "raw".to_owned() });
            Case { options, backing, steps }
        })
    })
}

fn pattern(len: usize) -> Vec<u8> {
    // With runs of zeros, for the paths that look for them.
    (0..len).map(|at| if at / 3000 % 3 == 1 { 0 } else { (at % 251) as u8 | 1 }).collect()
}

fn open(storage: MemoryDisk, backing: Option<usize>) -> Image<MemoryDisk> {
    let mut image = Image::open(storage).unwrap();
    if let Some(len) = backing {
        image.set_backing(Arc::new(MemoryDisk::new(pattern(len))));
    }
    image
}

fn assert_reads(image: &Image<MemoryDisk>, model: &[u8]) {
    let mut all = vec![0xEE; model.len()];
    image.read_exact_at(&mut all, 0).unwrap();
    assert!(all == model, "differs from byte {:?} on", all.iter().zip(model).position(|(a, b)| a != b));
    let mut end = 0;
    for extent in extents(image, ByteRange::new(0, image.size()).unwrap()) {
        let extent = extent.unwrap();
        assert_eq!(extent.range.start(), end);
        end = extent.range.end();
        if extent.kind != ExtentKind::Data {
            assert!(model[extent.range.start() as usize..end as usize].iter().all(|byte| *byte == 0));
        }
    }
    assert_eq!(end, model.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn an_image_is_a_vector_under_writes_zeroes_new_sizes_and_reopening(case in cases()) {
        let mut storage = MemoryDisk::default();
        create(&mut storage, &case.options).unwrap();
        let mut model = pattern(case.backing.unwrap_or(0));
        model.resize(case.options.size as usize, 0);
        let mut image = open(storage, case.backing);
        for step in &case.steps {
            let size = model.len() as u64;
            match *step {
                Step::Write(at, len, byte) => {
                    let (at, end) = (at.min(size), (at.min(size) + len).min(size));
                    let bytes: Vec<u8> = (at..end).map(|at| byte.wrapping_add((at % 7) as u8)).collect();
                    image.write_all_at(&bytes, at).unwrap();
                    model[at as usize..end as usize].copy_from_slice(&bytes);
                }
                Step::Zero(at, len, keep) => {
                    let (at, end) = (at.min(size), (at.min(size) + len).min(size));
                    let hole = if keep { Hole::Keep } else { Hole::Allow };
                    image.write_zeroes_at(ByteRange::new(at, end).unwrap(), hole).unwrap();
                    model[at as usize..end as usize].fill(0);
                }
                Step::Compress(at, byte) => {
                    if at + case.options.cluster_size <= size {
                        let cluster: Vec<u8> = (0..case.options.cluster_size).map(|at| byte.wrapping_add((at / 90) as u8)).collect();
                        let mut deflater = Deflater::new(case.options.compression, cluster.len()).unwrap();
                        image.write_compressed(deflater.deflate(&cluster).unwrap(), at).unwrap();
                        model[at as usize..at as usize + cluster.len()].copy_from_slice(&cluster);
                    }
                }
                Step::HoldZeroes(at, len) => {
                    let (at, end) = (at.min(size), (at.min(size) + len).min(size));
                    image.hold_zeroes(ByteRange::new(at, end).unwrap()).unwrap();
                    model[at as usize..end as usize].fill(0);
                }
                Step::Resize(size) => {
                    let old = model.len() as u64;
                    let hides = case.backing.unwrap_or(0) as u64 > old && size > old.next_multiple_of(case.options.cluster_size);
                    if case.options.version == Version::V2 && hides {
                        image.resize(size).unwrap_err();
                        // Only places with zeros of their own can hide the base.
                        image.grow(size, Preallocation::Full).unwrap();
                    }
                    image.resize(size).unwrap();
                    model.resize(size as usize, 0);
                }
                Step::Preallocate(more, preallocation) => {
                    let hidden = case.options.version == Version::V3 || case.backing.is_none_or(|len| len <= model.len());
                    if hidden || preallocation == Preallocation::Full {
                        image.grow(size + more, preallocation).unwrap();
                        model.resize((size + more) as usize, 0);
                    }
                }
                Step::Empty => {
                    image.make_empty().unwrap();
                    model.fill(0);
                    let below = pattern(case.backing.unwrap_or(0));
                    let len = below.len().min(model.len());
                    model[..len].copy_from_slice(&below[..len]);
                }
                Step::Reopen => {
                    image.flush().unwrap();
                    let storage = image.into_storage();
                    assert_sound(storage.as_bytes(), Leaks::None);
                    image = open(storage, case.backing);
                }
            }
            assert_reads(&image, &model);
        }
        image.flush().unwrap();
        let storage = image.into_storage();
        assert_sound(storage.as_bytes(), Leaks::None);
        assert_reads(&open(storage, case.backing), &model);
    }

    #[test]
    fn an_image_written_in_one_pass_holds_its_content(case in cases(), compress in any::<bool>(), threads in 1_usize..4) {
        let backing = MemoryDisk::new(pattern(case.backing.unwrap_or(0)));
        let mut staged = crate::block::Staged::new(&backing);
        staged.resize(case.options.size).unwrap();
        let mut changed = Vec::new();
        for step in &case.steps {
            let range = match *step {
                Step::Write(at, len, _) | Step::Zero(at, len, _) => ByteRange::new(at.min(staged.size()), (at + len).min(staged.size())),
                _ => None,
            };
            let Some(range) = range else { continue };
            match *step {
                Step::Write(_, _, byte) => staged.write_all_at(&vec![byte; range.len() as usize], range.start()).unwrap(),
                _ => staged.write_zeroes_at(range, Hole::Allow).unwrap(),
            }
            changed.push(range);
        }
        let mut model = vec![0; case.options.size as usize];
        staged.read_exact_at(&mut model, 0).unwrap();
        for known in [true, false] {
            let content = Content::new(&staged, &changed);
            let content = if known { content.over(&backing) } else { content };
            let mut storage = MemoryDisk::default();
            let effort = Effort { threads, compress };
            write_image_with(&mut storage, &case.options, &content, effort).unwrap();
            assert_sound(storage.as_bytes(), Leaks::None);
            let image = open(storage.clone(), case.backing);
            assert_reads(&image, &model);
            // Nothing but what was changed is allocated.
            let mut offset = 0;
            while offset < image.size() {
                let layer = image.layer_at(offset).unwrap();
                let (super::Layer::Unallocated(range) | super::Layer::Zero(range) | super::Layer::Data(range)) = layer;
                if !matches!(layer, super::Layer::Unallocated(_)) {
                    let cluster = case.options.cluster_size;
                    for at in (range.start()..range.end()).step_by(cluster as usize) {
                        let cluster = ByteRange::at(at / cluster * cluster, cluster).unwrap();
                        assert!(changed.iter().any(|range| range.intersection(cluster).is_some()));
                    }
                }
                offset = range.end();
            }
            let mut again = MemoryDisk::new(vec![1; 100]);
            let effort = Effort { threads: 5 - threads, compress };
            write_image_with(&mut again, &case.options, &content, effort).unwrap();
            assert_eq!(storage, again, "the same content gives the same bytes");
        }
    }

    #[test]
    fn any_damage_is_an_error_or_other_bytes_and_never_a_panic(
        noise in proptest::collection::vec((0_usize..3000, any::<u8>()), 1..12),
        extended in any::<bool>(),
    ) {
        let bits = if extended { 14 } else { 9 };
        let options = CreateOptions { cluster_size: 1 << bits, extended_l2: extended, ..CreateOptions::new(200_000) };
        let content = MemoryDisk::new(pattern(200_000));
        let all = [ByteRange::new(0, 150_000).unwrap()];
        let mut storage = MemoryDisk::default();
        write_image(&mut storage, &options, &Content::new(&content, &all)).unwrap();
        let mut bytes = storage.into_bytes();
        for (at, value) in noise {
            // All of the front's clusters, where the tables are.
            let at = if extended { ((at / 500) << 14) + at % 500 } else { at };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let Ok(mut image) = Image::open(MemoryDisk::new(bytes)) else { return Ok(()) };
        let _list = (image.snapshots(), image.bitmaps());
        let mut buf = vec![0; 1000];
        for at in (0..image.size().min(1 << 20)).step_by(977) {
            let _read = image.read_exact_at(&mut buf, at);
            let _extent = image.extent_at(at);
        }
        for at in [0, 5000, 100_000, 190_000] {
            let _written = image.write_all_at(&buf, at);
            let _zeroed = image.write_zeroes_at(ByteRange::at(at, 3000).unwrap(), Hole::Allow);
            let _flushed = image.flush();
        }
    }
}
