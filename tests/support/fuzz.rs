//! What is done to hostile images, and how they are made: the bodies of the fuzz targets.
//!
//! [`read`], [`check`] and [`write()`] take any bytes; they must neither panic, nor take long, nor take much memory. [`mutate`] damages an
//! image where it hurts: whole fields and table entries get values that are interesting somewhere.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Hole, MemoryDisk, Resize, extents};
use imgcore::qcow2::{
    BitmapChange, Bits, Check, Compression, Content, CreateOptions, Effort, Image, NewBacking, NewBitmap, NewSnapshot, Repair,
    Version, write_image_with,
};

/// Random numbers that a seed repeats.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.word()).unwrap() % end.max(1)
    }
}

/// A disk in memory that has no space beyond a limit, as a real one has not.
#[derive(Debug)]
struct SmallDisk(MemoryDisk);

const MOST_STORED: u64 = 64 << 20;

impl BlockRead for SmallDisk {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.0.read_exact_at(buf, offset)
    }
}

impl BlockWrite for SmallDisk {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.0.write_all_at(buf, offset)
    }
    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.0.write_zeroes_at(range, hole)
    }
    fn flush(&mut self) -> Result<(), Error> {
        self.0.flush()
    }
}

impl Resize for SmallDisk {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        if size > MOST_STORED { Err(Error::new(ErrorKind::NoSpace, "no space is left")) } else { self.0.resize(size) }
    }
}

/// Opens `bytes` as an image, walks its tables and lists and reads parts of its disk.
pub fn read(bytes: &[u8]) {
    let Ok(mut image) = Image::open(MemoryDisk::new(bytes.to_vec())) else { return };
    image.set_backing(std::sync::Arc::new(MemoryDisk::new(vec![1; 100_000])));
    let _listed = image.snapshots();
    for bitmap in image.bitmaps().unwrap_or_default().iter().take(8) {
        if let Ok(bits) = image.bitmap_bits(&bitmap.name) {
            assert!(bits.runs().take(10_000).all(|run| !run.is_empty() && run.end() <= image.size()));
        }
    }
    let mut end = 0;
    for extent in extents(&image, ByteRange::new(0, image.size()).unwrap()).take(5_000) {
        let Ok(extent) = extent else { break };
        assert!(extent.range.start() == end && !extent.range.is_empty());
        end = extent.range.end();
    }
    assert!(end <= image.size());
    let mut random = Random::new(digest(bytes));
    let mut buf = vec![0; 70_000];
    for _ in 0..24 {
        let (offset, len) = place(&mut random, image.size(), buf.len());
        let _read = image.read_exact_at(&mut buf[..len], offset);
        let _layer = image.layer_at(offset);
    }
}

/// Opens `bytes` as an image and changes its disk, its size and its bitmaps.
pub fn write(bytes: &[u8]) {
    let Ok(mut image) = Image::open(SmallDisk(MemoryDisk::new(bytes.to_vec()))) else { return };
    image.set_backing(std::sync::Arc::new(MemoryDisk::new(vec![1; 100_000])));
    let mut random = Random::new(digest(bytes));
    let buf = vec![7; 20_000];
    for _ in 0..12 {
        let (offset, len) = place(&mut random, image.size(), buf.len());
        let range = ByteRange::at(offset, len as u64).unwrap();
        let hole = if random.below(2) == 0 { Hole::Allow } else { Hole::Keep };
        let _changed = match random.below(12) {
            0..=3 => image.write_all_at(&buf[..len], offset),
            4..=5 => image.write_zeroes_at(range, hole),
            6 => image.resize((image.size().min(1 << 50) + 512) / 512 * 512),
            7 => image.resize(image.size().saturating_sub(70_000) / 512 * 512),
            8 => change_bitmaps(&mut image, &mut random),
            9..=10 => change_snapshots(&mut image, &mut random),
            _ => image.flush(),
        };
    }
    let _closed = image.close();
    read(image.into_storage().0.as_bytes());
}

/// Opens `bytes` as an image, checks it, repairs what can be repaired, and checks and reads it again: no repair makes it worse.
pub fn check(bytes: &[u8]) {
    let Ok(mut image) = Image::open(SmallDisk(MemoryDisk::new(bytes.to_vec()))) else { return };
    let Ok(found) = image.check() else { return };
    let places = |random: &mut Random, size| -> Vec<_> { (0..24).map(|_| place(random, size, 20_000)).collect() };
    let places = places(&mut Random::new(digest(bytes)), image.size());
    let contents = |image: &Image<SmallDisk>| -> Vec<Option<Vec<u8>>> {
        let read = |&(offset, len): &(u64, usize)| {
            let mut buf = vec![0; len];
            image.read_exact_at(&mut buf, offset).is_ok().then_some(buf)
        };
        places.iter().map(read).collect()
    };
    let before = contents(&image);
    let what = if digest(bytes).is_multiple_of(4) { Repair::Leaks } else { Repair::All };
    let repaired = image.repair(what);
    let stored = Image::open(SmallDisk(MemoryDisk::new(image.into_storage().0.as_bytes().to_vec()))).unwrap();
    for (before, after) in before.iter().zip(contents(&stored)) {
        assert!(before.is_none() || *before == after, "what was read is something else");
    }
    let left = stored.check().unwrap();
    let faults = |check: &Check| (check.corruptions, check.errors, check.lines.iter().take(20).cloned().collect::<Vec<_>>());
    assert!(left.corruptions + left.errors <= found.corruptions + found.errors, "{:?} {:?}", faults(&found), faults(&left));
    if let Ok(repaired) = repaired {
        assert!(repaired.left == left);
        assert!(what == Repair::Leaks || left.corruptions > 0 || left.errors > 0 || left.leaks == 0);
    }
}

fn change_snapshots(image: &mut Image<SmallDisk>, random: &mut Random) -> Result<(), Error> {
    let names: Vec<String> = image.snapshots()?.into_iter().map(|snapshot| snapshot.name).take(100).collect();
    match (random.below(3), names.get(random.below(names.len()))) {
        (0, Some(name)) => Ok(image.apply_snapshot(name)?),
        (1, Some(name)) => Ok(image.delete_snapshot(name)?),
        _ => Ok(image.create_snapshot(&NewSnapshot { name: "new".to_owned(), seconds: 1, nanoseconds: 0 })?),
    }
}

fn change_bitmaps(image: &mut Image<SmallDisk>, random: &mut Random) -> Result<(), Error> {
    let names: Vec<String> = image.bitmaps()?.into_iter().map(|bitmap| bitmap.name).take(100).collect();
    let name = names.get(random.below(names.len() + 1)).cloned().unwrap_or_else(|| "new".to_owned());
    let other = names.get(random.below(names.len())).cloned().unwrap_or_default();
    let change = match random.below(6) {
        0 => BitmapChange::Add(None),
        1 => BitmapChange::Remove,
        2 => BitmapChange::Clear,
        3 => BitmapChange::Enable,
        4 => BitmapChange::Disable,
        _ => BitmapChange::Merge(other),
    };
    Ok(image.change_bitmap(&name, &[change])?)
}

/// A run inside `size` bytes, often at one of their ends.
fn place(random: &mut Random, size: u64, most: usize) -> (u64, usize) {
    let len = random.below(most) as u64;
    let last = size.saturating_sub(len);
    let offset = match random.below(4) {
        0 => 0,
        1 => last,
        2 => random.word() % (1 << 20),
        _ => random.word() % last.max(1),
    };
    let offset = offset.min(size);
    (offset, len.min(size - offset) as usize)
}

fn digest(bytes: &[u8]) -> u64 {
    let mut random = Random::new(bytes.len() as u64);
    for chunk in bytes.chunks(8).take(4096) {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        random.0 ^= word;
        random.word();
    }
    random.word()
}

/// Sound images of many kinds, all small.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for bits in [9, 12, 14, 16] {
        for (version, extended_l2, compress, compression) in [
            (Version::V2, false, true, Compression::Zlib),
            (Version::V3, false, false, Compression::Zlib),
            (Version::V3, bits >= 14, true, Compression::Zstd),
        ] {
            let size = 40 << bits;
            let options = CreateOptions {
                version,
                cluster_size: 1 << bits,
                refcount_bits: if version == Version::V2 { 16 } else { 1 << (bits % 7) },
                extended_l2,
                compression,
                backing: (!compress).then(|| NewBacking { name: b"base".to_vec(), format: "raw".to_owned() }),
                ..CreateOptions::new(size)
            };
            let disk = MemoryDisk::new((0..size).map(|at| (at / 3000) as u8).collect());
            let runs = [ByteRange::new(0, size / 3).unwrap(), ByteRange::new(size / 2, size / 2 + 5000).unwrap()];
            let mut storage = MemoryDisk::default();
            let effort = Effort { threads: 1, compress };
            write_image_with(&mut storage, &options, &Content::new(&disk, &runs), effort).unwrap();
            let mut image = Image::open(storage).unwrap();
            if compression == Compression::Zlib && options.refcount_bits > 8 {
                let new = NewSnapshot { name: "seed".to_owned(), seconds: 1, nanoseconds: 0 };
                image.create_snapshot(&new).unwrap();
            }
            if version == Version::V3 {
                let mut bits = Bits::new(size, 512);
                bits.mark(ByteRange::new(0, size / 4).unwrap());
                let bitmap = |name: &str, auto, bits| NewBitmap { name: name.to_owned(), auto, bits };
                let bitmaps = [bitmap("auto", true, bits.clone()), bitmap("rest", false, Bits::new(size, 65536))];
                image.store_bitmaps(&bitmaps).unwrap();
            }
            seeds.push(image.into_storage().into_bytes());
        }
    }
    seeds
}

/// Damages an image, from one field to some dozens of bytes.
pub fn mutate(bytes: &mut Vec<u8>, seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..=random.below(4) {
        match random.below(16) {
            0..=5 => mutate_header(bytes, &mut random),
            6..=11 => mutate_word(bytes, &mut random),
            12 => {
                for _ in 0..=random.below(30) {
                    let at = random.below(bytes.len());
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8));
                }
            }
            13 => {
                // What lies somewhere lies somewhere else as well.
                let (from, to, len) = (random.below(bytes.len()), random.below(bytes.len()), random.below(2000));
                let part: Vec<u8> = bytes.iter().skip(from).take(len).copied().collect();
                bytes.iter_mut().skip(to).zip(part).for_each(|(to, from)| *to = from);
            }
            14 => bytes.truncate(bytes.len() - random.below(bytes.len().min(100_000))),
            _ => bytes.resize(bytes.len() + random.below(100_000), 0),
        }
    }
}

/// Damages the image in the first `len` of `bytes`, and returns its new length. What is no image becomes one of the sound ones
/// first, if it fits.
pub fn mutate_within(bytes: &mut [u8], len: usize, seed: u64) -> usize {
    let mut image = bytes[..len].to_vec();
    if !image.starts_with(b"QFI\xfb") {
        static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        let seeds = SEEDS.get_or_init(seeds);
        image.clone_from(&seeds[usize::try_from(seed).unwrap() % seeds.len()]);
    }
    mutate(&mut image, seed);
    image.truncate(bytes.len());
    bytes[..image.len()].copy_from_slice(&image);
    image.len()
}

/// Gives a field of the header, or some bytes of its extensions, another value.
fn mutate_header(bytes: &mut [u8], random: &mut Random) {
    const FIELDS: &[(usize, usize)] = &[
        (4, 4),
        (8, 8),
        (16, 4),
        (20, 4),
        (24, 8),
        (32, 4),
        (36, 4),
        (40, 8),
        (48, 8),
        (56, 4),
        (60, 4),
        (64, 8),
        (72, 8),
        (80, 8),
        (88, 8),
        (96, 4),
        (100, 4),
        (104, 1),
    ];
    let (at, len) = match random.below(4) {
        0 => (104 + random.below(130), 1 + random.below(4)),
        _ => FIELDS[random.below(FIELDS.len())],
    };
    put(bytes, at, len, random);
}

/// Gives a word that is not zero, most likely of a table, another value.
fn mutate_word(bytes: &mut [u8], random: &mut Random) {
    let words = bytes.len() / 8;
    let start = random.below(words);
    let used = (start..words).find(|word| bytes[word * 8..word * 8 + 8].iter().any(|byte| *byte != 0)).unwrap_or(start);
    let (part, len) = [(0, 8), (0, 8), (0, 4), (4, 4), (random.below(8), 1)][random.below(5)];
    put(bytes, used * 8 + part, len, random);
}

/// Writes a value of `len` bytes: near the old one, near a power of two, or one that is elsewhere in the image.
fn put(bytes: &mut [u8], at: usize, len: usize, random: &mut Random) {
    let Some(place) = bytes.get(at..at + len) else { return };
    let old = place.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let near = random.word() % 5;
    let value = match random.below(8) {
        0 => old.wrapping_add(near).wrapping_sub(2),
        1 => old ^ (1 << random.below(64)),
        2 => (1_u64 << random.below(64)).wrapping_add(near).wrapping_sub(2),
        3 => 0,
        4 => u64::MAX,
        5 => (random.word() % 200) << 9,
        6 => (random.word() % 20) << 16 | 1 << 63,
        _ => {
            let from = random.below(bytes.len() / 8) * 8;
            bytes.get(from..from + 8).map_or(0, |word| u64::from_be_bytes(word.try_into().unwrap()))
        }
    };
    let stored = value.to_be_bytes();
    bytes[at..at + len].copy_from_slice(&stored[8 - len..]);
}

/// Runs `target` for `time` on what `mutate` makes of `seeds`, the first of which `seed` names, and returns how many there were.
///
/// # Panics
///
/// When the target does, or computes for more than 10 seconds; the image is in the folder for temporary files then.
pub fn run(name: &str, target: fn(&[u8]), seeds: &[Vec<u8>], mutate: fn(&mut Vec<u8>, u64), seed: u64, time: Duration) -> u64 {
    let begun = Instant::now();
    let mut number = seed;
    while begun.elapsed() < time {
        let mut bytes = seeds[usize::try_from(number).unwrap() % seeds.len()].clone();
        mutate(&mut bytes, number);
        let start = computed();
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        let took = computed().saturating_sub(start);
        if outcome.is_err() || took > Duration::from_secs(10) {
            let path = std::env::temp_dir().join(format!("vmimg-{name}-{number}.img"));
            std::fs::write(&path, &bytes).unwrap();
            panic!("image {number} ({}) took {took:?}, panicked: {}", path.display(), outcome.is_err());
        }
        number += 1;
    }
    number - seed
}

/// How long this thread had a processor, whatever else the machine does.
fn computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}
