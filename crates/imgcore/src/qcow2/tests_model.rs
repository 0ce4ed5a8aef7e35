//! `Image` against a plain vector over every geometry: many operations one after the other on one image, with reopens.
//!
//! A sample runs by default; `VMIMG_MODEL_OPERATIONS=10000` runs that many on every geometry.

use std::fmt::Debug;
use std::sync::Arc;

use super::cut::{Leaks, assert_sound};
use super::table::is_zero;
use super::{
    BitmapChange, Compression, Content, CreateOptions, DataFileName, Deflater, Effort, Error, Image, NewBacking, NewSnapshot,
    Preallocation, Unsupported, Version, write_image_beside, write_image_with,
};
use crate::block::{BlockRead, BlockWrite, ByteRange, ExtentKind, Hole, MemoryDisk, Resize, extents};

/// What lies below the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Below {
    Nothing,
    ShorterRaw,
    LongerRaw,
    Qcow2,
}

/// One kind of image.
#[derive(Clone, Copy, Debug)]
struct Kind {
    version: Version,
    cluster_bits: u32,
    refcount_order: u32,
    extended_l2: bool,
    below: Below,
    compressed: Option<Compression>,
    lazy: bool,
    /// Whether clusters are in a data file, and that is a raw image.
    external: Option<bool>,
    /// Whether a bitmap records what is written; such an image does not go back to a snapshot.
    recorded: bool,
}

impl Kind {
    /// Returns all kinds with clusters of this size. What does not meet the tables takes turns.
    fn all(cluster_bits: u32) -> Vec<Self> {
        let mut kinds = Vec::new();
        for below in [Below::Nothing, Below::ShorterRaw, Below::LongerRaw, Below::Qcow2] {
            let usual = (0..14).map(|index| (Version::V3, index % 7, index >= 7, None));
            let rare =
                [(Version::V2, 4, false, None), (Version::V3, 3, true, Some(false)), (Version::V3, 4, false, Some(true))];
            for (version, order, extended_l2, external) in usual.chain(rare) {
                let extended_l2 = extended_l2 && (cluster_bits >= 14 || external.is_none());
                if (extended_l2 && cluster_bits < 14) || (external == Some(true) && below != Below::Nothing) {
                    continue;
                }
                let turn = kinds.len() as u32 + cluster_bits;
                let compression =
                    if turn.is_multiple_of(4) && version == Version::V3 { Compression::Zstd } else { Compression::Zlib };
                kinds.push(Self {
                    version,
                    cluster_bits,
                    refcount_order: order,
                    extended_l2,
                    below,
                    compressed: (turn.is_multiple_of(2) && external.is_none()).then_some(compression),
                    lazy: turn.is_multiple_of(3) && version == Version::V3,
                    recorded: (turn / 2).is_multiple_of(2) && version == Version::V3,
                    external,
                });
            }
        }
        kinds
    }

    fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the largest disk: several L2 tables and moving tables where clusters are small.
    fn most(self) -> u64 {
        match self.cluster_bits {
            9 => 3 << 20,
            10..=16 => 5 << 20,
            _ => 7 * self.cluster(),
        }
    }
}

/// Random numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(ByteRange, u8),
    Zero(ByteRange, Hole),
    Hold(ByteRange),
    /// Whole clusters, in compressed form.
    Compress(u64, u8),
    Resize(u64),
    Take,
    /// Go back to a snapshot, by its place.
    Apply(usize),
    Delete(usize),
    Grow(u64, Preallocation),
    Flush,
    Reopen,
}

/// An image, what it is to be, and what was done to it.
struct Pair {
    kind: Kind,
    random: Random,
    backing: Option<Arc<dyn BlockRead>>,
    image: Image<MemoryDisk>,
    model: Vec<u8>,
    /// Snapshots: their names, and what the disk was.
    kept: Vec<(String, Vec<u8>)>,
    /// The model when the bitmap was cleared, at the present size.
    base: Vec<u8>,
}

fn noise(random: &mut Random, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    for run in bytes.chunks_mut(700) {
        if random.below(3) > 0 {
            run.fill(random.next() as u8);
        }
    }
    bytes
}

impl Pair {
    fn new(kind: Kind, seed: u64) -> Self {
        let mut random = Random(seed);
        let size = (random.below(kind.most() / 2) + kind.most() / 4) / 512 * 512;
        let below_len = match kind.below {
            Below::Nothing => 0,
            Below::ShorterRaw => size / 2 - size / 2 % 7,
            Below::LongerRaw => kind.most(),
            Below::Qcow2 => size / 512 * 512 + 512,
        };
        let below = noise(&mut random, below_len);
        let backing: Option<Arc<dyn BlockRead>> = match kind.below {
            Below::Nothing => None,
            Below::Qcow2 => Some(Arc::new(written(kind, &below, None, true))),
            _ => Some(Arc::new(MemoryDisk::new(below.clone()))),
        };
        let mut model = below;
        model.resize(size as usize, 0);
        // Clusters of the beginning, compressed or not.
        let first = noise(&mut random, size / 4);
        model[..first.len()].copy_from_slice(&first);
        let mut image = written(kind, &model, Some(ByteRange::new(0, size / 4).unwrap()), backing.is_some());
        if let Some(backing) = &backing {
            image.set_backing(backing.clone());
        }
        if kind.recorded {
            image.change_bitmap("changes", &[BitmapChange::Add(Some(512 << random.below(8)))]).unwrap();
        }
        Self { kind, random, backing, image, base: model.clone(), model, kept: Vec::new() }
    }

    /// A run of bytes of the disk, often at the border of a cluster or of a part of one.
    fn range(&mut self) -> ByteRange {
        let (size, cluster) = (self.model.len() as u64, self.kind.cluster());
        let border = self.random.below(size / cluster + 1) * cluster;
        let start = match self.random.below(5) {
            0 => self.random.below(size),
            1 => border.saturating_sub(self.random.below(600)),
            2 => border + cluster / 32 * self.random.below(32),
            _ => border,
        };
        let start = start.min(size);
        let len = match self.random.below(6) {
            0 => self.random.below(512),
            1 => cluster,
            2 => cluster / 32,
            3 => cluster * self.random.below(4) + self.random.below(512),
            4 => self.random.below(40_000),
            _ => self.random.below(cluster),
        };
        ByteRange::at(start, len.min(size - start)).unwrap()
    }

    fn step(&mut self) -> Step {
        match self.random.below(64) {
            0..=31 => Step::Write(self.range(), self.random.next() as u8),
            32..=45 => Step::Zero(self.range(), Hole::Allow),
            46..=50 => Step::Zero(self.range(), Hole::Keep),
            51..=53 => {
                Step::Compress(self.random.below(self.model.len() as u64 / self.kind.cluster() + 1), self.random.next() as u8)
            }
            54 => Step::Zero(
                ByteRange::new(self.random.below(self.model.len() as u64), self.model.len() as u64).unwrap(),
                Hole::Allow,
            ),
            55 => Step::Resize((self.random.below(self.kind.most() / 512) + 1) * 512),
            56..=57 => {
                Step::Resize(((self.model.len() as u64 + self.random.below(30_000)).min(self.kind.most()) / 512).max(1) * 512)
            }
            58 if self.random.below(3) == 0 => {
                let more = self.random.below(30_000) / 512 * 512;
                let modes = [Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full];
                Step::Grow((self.model.len() as u64 + more).min(self.kind.most()), modes[self.random.below(3) as usize])
            }
            58 => Step::Resize(((self.model.len() as u64).saturating_sub(self.random.below(30_000)) / 512).max(1) * 512),
            59 => match self.random.below(8) {
                0..=1 => Step::Flush,
                2..=3 => Step::Take,
                4..=5 => Step::Apply(self.random.below(3) as usize),
                _ => Step::Delete(self.random.below(3) as usize),
            },
            60 => Step::Reopen,
            61 => Step::Hold(self.range()),
            _ => Step::Write(self.range(), 0),
        }
    }

    fn apply(&mut self, step: &Step) -> Result<(), Box<dyn std::error::Error>> {
        match *step {
            Step::Write(range, byte) => {
                let mut bytes = vec![byte; range.len() as usize];
                if byte > 0 {
                    // The rest of a large run may be anything.
                    for (index, run) in bytes.chunks_mut(100).take(1000).enumerate() {
                        run.fill(byte.wrapping_add(index as u8));
                    }
                }
                self.image.write_all_at(&bytes, range.start())?;
                self.model[range.start() as usize..range.end() as usize].copy_from_slice(&bytes);
                self.compare(range);
            }
            Step::Zero(range, hole) => {
                self.image.write_zeroes_at(range, hole)?;
                self.model[range.start() as usize..range.end() as usize].fill(0);
                self.compare(range);
            }
            Step::Hold(range) => {
                self.image.hold_zeroes(range)?;
                self.model[range.start() as usize..range.end() as usize].fill(0);
                self.compare(range);
            }
            Step::Compress(index, byte) => {
                for index in index..index + 1 + u64::from(byte % 4) {
                    self.compress(index, byte)?;
                }
            }
            Step::Resize(size) => {
                let old = self.model.len() as u64;
                let below = self.backing.as_ref().map_or(0, |backing| backing.size());
                if self.kind.version == Version::V2 && below > old && size > old.next_multiple_of(self.kind.cluster()) {
                    self.image.resize(size).unwrap_err();
                    return Ok(());
                }
                if self.kind.version == Version::V2 && !self.kept.is_empty() && size != old {
                    self.image.resize(size).unwrap_err();
                    return Ok(());
                }
                self.image.resize(size)?;
                self.model.resize(size as usize, 0);
                self.base.resize(size as usize, 0);
                self.compare(ByteRange::new(old.min(size), old.max(size).min(size)).unwrap());
            }
            Step::Grow(size, _) if size <= self.model.len() as u64 => {}
            Step::Grow(size, preallocation) => {
                let old = self.model.len() as u64;
                if let Err(error) = self.image.grow(size, preallocation) {
                    let Error::Unsupported(_) = error else { return Err(error.into()) };
                    assert!(self.kind.below != Below::Nothing || !self.kept.is_empty(), "{error:?}");
                    assert_eq!(self.kind.version, Version::V2, "{error:?}");
                } else {
                    self.model.resize(size as usize, 0);
                    self.base.resize(size as usize, 0);
                }
                self.compare(ByteRange::new(old, self.model.len() as u64).unwrap());
            }
            Step::Take => self.take()?,
            Step::Apply(place) | Step::Delete(place) if place >= self.kept.len() => {}
            Step::Apply(place) => {
                let (name, bytes) = self.kept[place].clone();
                if self.kind.recorded {
                    self.image.apply_snapshot(&name).unwrap_err();
                } else {
                    self.image.apply_snapshot(&name)?;
                    self.model = bytes;
                }
                self.compare(ByteRange::new(0, self.model.len() as u64).unwrap());
            }
            Step::Delete(place) => {
                let (name, _) = self.kept.remove(place);
                self.image.delete_snapshot(&name)?;
                self.compare(ByteRange::new(0, self.model.len() as u64).unwrap());
            }
            Step::Flush => self.image.flush()?,
            Step::Reopen => {
                self.image.close()?;
                let data_file = self.image.data_file.take();
                let storage = std::mem::replace(&mut self.image, Image::open(empty())?).into_storage();
                assert_sound(storage.as_bytes(), Leaks::None);
                self.image = Image::open(storage)?;
                if let Some(file) = data_file {
                    // Spec: "the external data file can be read as a consistent standalone raw image"
                    let same = file.as_bytes().get(..self.model.len()).is_some_and(|bytes| bytes == self.model);
                    assert!(self.kind.external != Some(true) || same, "the raw data file is not the disk");
                    self.image.set_data_file(file);
                }
                if let Some(backing) = &self.backing {
                    self.image.set_backing(backing.clone());
                }
                self.compare(ByteRange::new(0, self.model.len() as u64).unwrap());
                self.compare_extents();
                self.compare_bitmap()?;
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        if self.kind.external.is_some() {
            let new = NewSnapshot { name: String::new(), seconds: 0, nanoseconds: 0 };
            self.image.create_snapshot(&new).unwrap_err();
            return Ok(());
        }
        if self.kept.len() >= 3 {
            return Ok(());
        }
        let name = format!("snapshot {:x}", self.random.next());
        match self.image.create_snapshot(&NewSnapshot { name: name.clone(), seconds: 1, nanoseconds: 2 }) {
            // Narrow refcounts have no room for one more reference, or for many compressed clusters in one.
            Err(Error::Unsupported(Unsupported::References(bits))) if bits < 8 => {}
            result => {
                result?;
                self.kept.push((name, self.model.clone()));
            }
        }
        self.compare(ByteRange::new(0, self.model.len() as u64).unwrap());
        Ok(())
    }

    fn compress(&mut self, index: u64, byte: u8) -> Result<(), Box<dyn std::error::Error>> {
        let (start, len) = (index * self.kind.cluster(), self.kind.cluster() as usize);
        let end = (start as usize + len).min(self.model.len());
        let mut bytes = vec![byte; len];
        for at in 0..self.random.below(len as u64 / 2).min(20_000) {
            bytes[at as usize * 2] = self.random.next() as u8;
        }
        if self.kind.external.is_some() {
            self.image.write_compressed(&[1], start).unwrap_err();
            return Ok(());
        }
        let mut deflater = Deflater::new(self.image.compression(), len)?;
        if let Some(stored) = deflater.deflate(&bytes).filter(|_| (start as usize) < end) {
            self.image.write_compressed(stored, start)?;
            self.model[start as usize..end].copy_from_slice(&bytes[..end - start as usize]);
            self.compare(ByteRange::new(start, end as u64).unwrap());
        }
        Ok(())
    }

    /// Asserts that the disk and the model agree on `range` and what is around it.
    fn compare(&self, range: ByteRange) {
        let around = self.kind.cluster() * 3 / 2;
        let start = range.start().saturating_sub(around);
        let end = (range.end() + around).min(self.model.len() as u64);
        let mut bytes = vec![0xEE; (end - start) as usize];
        self.image.read_exact_at(&mut bytes, start).unwrap();
        let expected = &self.model[start as usize..end as usize];
        if bytes != expected {
            let at = bytes.iter().zip(expected).position(|(a, b)| a != b).unwrap() as u64 + start;
            panic!("byte {at} is {}, and not {}", bytes[(at - start) as usize], self.model[at as usize]);
        }
    }

    /// Asserts that the bitmap marks all that has changed, and clears it.
    fn compare_bitmap(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        if !self.kind.recorded {
            return Ok(());
        }
        let mut marked = vec![false; self.model.len() / 512];
        for run in self.image.bitmap_bits("changes")?.runs() {
            marked[run.start() as usize / 512..run.end() as usize / 512].fill(true);
        }
        for (sector, (old, new)) in self.base.chunks(512).zip(self.model.chunks(512)).enumerate() {
            assert!(old == new || marked[sector], "the bitmap misses sector {sector}");
        }
        self.base.clone_from(&self.model);
        Ok(self.image.change_bitmap("changes", &[BitmapChange::Clear])?)
    }

    /// Asserts that the extents cover the disk and say zeros where there are zeros.
    fn compare_extents(&self) {
        let mut end = 0;
        for extent in extents(&self.image, ByteRange::new(0, self.image.size()).unwrap()) {
            let extent = extent.unwrap();
            assert_eq!(extent.range.start(), end);
            end = extent.range.end();
            if extent.kind != ExtentKind::Data {
                assert!(is_zero(&self.model[extent.range.start() as usize..end as usize]), "{extent:?}");
            }
        }
        assert_eq!(end, self.model.len() as u64);
    }
}

/// An image of which `stored`, or all, has been written.
fn written(kind: Kind, bytes: &[u8], stored: Option<ByteRange>, backing: bool) -> Image<MemoryDisk> {
    // What lies below is an image that stands alone.
    let external = kind.external.filter(|_| stored.is_some());
    let options = CreateOptions {
        version: kind.version,
        cluster_size: kind.cluster(),
        refcount_bits: 1 << kind.refcount_order,
        extended_l2: kind.extended_l2,
        compression: kind.compressed.unwrap_or_default(),
        lazy_refcounts: kind.lazy,
        data_file: external.map(|raw| DataFileName { name: b"data".to_vec(), raw }),
        backing: (backing && stored.is_some()).then(|| NewBacking { name: b"base".to_vec(), format: "raw".to_owned() }),
        ..CreateOptions::new(bytes.len() as u64)
    };
    let disk = MemoryDisk::new(bytes.to_vec());
    let changed = [stored.unwrap_or(ByteRange::new(0, bytes.len() as u64).unwrap())];
    let mut storage = MemoryDisk::default();
    let effort = Effort { threads: 1, compress: kind.compressed.is_some() };
    let content = Content::new(&disk, &changed);
    if external.is_none() {
        write_image_with(&mut storage, &options, &content, effort).unwrap();
        return Image::open(storage).unwrap();
    }
    let mut data_file = MemoryDisk::default();
    write_image_beside(&mut storage, &mut data_file, &options, &content, effort).unwrap();
    let mut image = Image::open(storage).unwrap();
    image.set_data_file(data_file);
    image
}

/// The smallest image, to stand in for another one.
fn empty() -> MemoryDisk {
    let mut storage = MemoryDisk::default();
    super::create(&mut storage, &CreateOptions { cluster_size: 512, ..CreateOptions::new(512) }).unwrap();
    storage
}

fn run(kind: Kind, seed: u64, operations: u64) {
    let mut pair = Pair::new(kind, seed);
    let mut last = Vec::new();
    for operation in 0..operations {
        let step = if operation + 1 == operations { Step::Reopen } else { pair.step() };
        last.push(step.clone());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.apply(&step)));
        if !matches!(outcome, Ok(Ok(()))) {
            let told = &last[last.len().saturating_sub(8)..];
            panic!("{kind:?}, seed {seed}, operation {operation}: {:?}\nafter {told:?}", outcome.map_err(|_| "it panicked"));
        }
        if matches!(step, Step::Reopen) {
            last.clear();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "who runs the tests says how many operations")]
fn model(cluster_bits: u32) {
    let wanted = std::env::var("VMIMG_MODEL_OPERATIONS").ok().map(|count| count.parse::<u64>().unwrap());
    let kinds = Kind::all(cluster_bits);
    for (index, kind) in kinds.iter().enumerate() {
        // A step that has no divisor in common with the turns meets all of them; data files are rare.
        let sampled = index % 13 == 0 || (kind.external.is_some() && kind.below == Below::Nothing);
        if wanted.is_some() || sampled {
            run(
                *kind,
                u64::from(cluster_bits) * 1000 + index as u64,
                wanted.unwrap_or(if cluster_bits < 21 { 200 } else { 50 }),
            );
        }
    }
}

#[test]
fn images_with_clusters_of_512_bytes_are_vectors() {
    model(9);
}

#[test]
fn images_with_clusters_of_1_kib_are_vectors() {
    model(10);
}

#[test]
fn images_with_clusters_of_4_kib_are_vectors() {
    model(12);
}

#[test]
fn images_with_clusters_of_16_kib_are_vectors() {
    model(14);
}

#[test]
fn images_with_clusters_of_64_kib_are_vectors() {
    model(16);
}

#[test]
fn images_with_clusters_of_256_kib_are_vectors() {
    model(18);
}

#[test]
fn images_with_clusters_of_2_mib_are_vectors() {
    model(21);
}
