//! Checks of damaged and of hostile images.

use proptest::prelude::{ProptestConfig, any, proptest};

use super::{Content, CreateOptions, Effort, Image, create, write_image_with};
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, Extent, ExtentKind, MemoryDisk, Resize};

/// A disk that is mostly a hole.
#[derive(Debug, Default)]
struct Sparse {
    size: u64,
    parts: Vec<(u64, Vec<u8>)>,
}

impl BlockRead for Sparse {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        buf.fill(0);
        for (at, bytes) in &self.parts {
            let (start, end) = ((*at).max(offset), (at + bytes.len() as u64).min(offset + buf.len() as u64));
            if start < end {
                let part = &bytes[(start - at) as usize..(end - at) as usize];
                buf[(start - offset) as usize..(end - offset) as usize].copy_from_slice(part);
            }
        }
        Ok(())
    }
    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let ends = self.parts.iter().flat_map(|(at, bytes)| [*at, at + bytes.len() as u64]);
        let end = ends.filter(|end| *end > offset).min().unwrap_or(self.size);
        let is_data = self.parts.iter().any(|(at, bytes)| (*at..at + bytes.len() as u64).contains(&offset));
        let kind = if is_data { ExtentKind::Data } else { ExtentKind::Hole };
        Ok(Extent::new(ByteRange::new(offset, end).unwrap(), kind))
    }
}

fn words(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_be_bytes).collect()
}

/// An image of 64 KiB clusters with this L1 table, whose refcounts are in the hole.
fn hostile(l1: Vec<u8>, snapshots: u32) -> Sparse {
    let mut disk = MemoryDisk::default();
    create(&mut disk, &CreateOptions::new(1 << 20)).unwrap();
    let mut header = disk.as_bytes()[..65536].to_vec();
    header[36..40].copy_from_slice(&(l1.len() as u32 / 8).to_be_bytes());
    header[40..48].copy_from_slice(&(1_u64 << 30).to_be_bytes());
    header[48..56].copy_from_slice(&(1_u64 << 21).to_be_bytes());
    header[60..64].copy_from_slice(&snapshots.to_be_bytes());
    header[64..72].copy_from_slice(&(3_u64 << 30).to_be_bytes());
    Sparse { size: 1 << 50, parts: vec![(0, header), (1 << 30, l1)] }
}

#[test]
fn a_table_that_is_named_millions_of_times_is_read_once() {
    let l1 = words(std::iter::repeat_n((1_u64 << 63) | (2 << 30), 1 << 19));
    let mut disk = hostile(l1, 0);
    disk.parts.push((2 << 30, words((0..8192).map(|index| (1_u64 << 63) | ((1 << 40) + (index << 16))))));
    let found = Image::open(disk).unwrap().check().unwrap();
    assert_eq!(found.allocated_clusters, 8192 * (1 << 19));
    // Each cluster has more references than 16 bits count.
    assert!(found.corruptions > 8192 && found.lines.len() < 5000, "{}", found.corruptions);
}

#[test]
fn tables_in_holes_cost_no_reads() {
    let l1 = words((0..1_u64 << 19).map(|index| (1 << 63) | ((1 << 45) + (index << 16))));
    let found = Image::open(hostile(l1, 0)).unwrap().check().unwrap();
    assert_eq!(found.allocated_clusters, 0);
    assert!(found.corruptions > 1 << 19, "neither counted nor of a refcount of 1");
}

#[test]
fn snapshots_that_share_a_table_are_read_together() {
    let l1 = words(std::iter::repeat_n(2 << 30, 1 << 19));
    let mut disk = hostile(l1, 65_536);
    // Version 3 demands 16 bytes of extra data.
    let entry = |index: u32| {
        let mut entry = words([1 << 30]);
        entry.extend_from_slice(&((1 << 19) - index).to_be_bytes());
        entry.resize(36, 0);
        entry.extend_from_slice(&16_u32.to_be_bytes());
        entry.resize(56, 0);
        entry
    };
    disk.parts.push((3 << 30, (0..65_536).flat_map(entry).collect()));
    disk.parts.push((2 << 30, words([1 << 40])));
    let found = Image::open(disk).unwrap().check().unwrap();
    assert_eq!(found.allocated_clusters, 1 << 19);
    assert!(found.corruptions > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_damage_is_found_or_harmless_and_never_ends_the_check(
        order in 0_u32..=6,
        kind in 0_u8..3,
        damage in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..20),
    ) {
        let size = 90_112_u64;
        let options = CreateOptions {
            cluster_size: if kind == 1 { 16384 } else { 512 },
            extended_l2: kind == 1,
            refcount_bits: 1 << order,
            ..CreateOptions::new(size)
        };
        let disk = MemoryDisk::new((0..size).map(|at| (at / 700 % 250) as u8 + 1).collect());
        let runs = [ByteRange::new(0, 30_000).unwrap(), ByteRange::new(50_000, size).unwrap()];
        let mut storage = MemoryDisk::default();
        let effort = Effort { threads: 1, compress: kind == 2 };
        write_image_with(&mut storage, &options, &Content::new(&disk, &runs), effort).unwrap();
        let sound = Image::open(MemoryDisk::new(storage.as_bytes().to_vec())).unwrap().check().unwrap();
        assert_eq!((sound.corruptions, sound.leaks, sound.errors, sound.lines), (0, 0, 0, Vec::new()));
        assert_eq!(sound.image_end, storage.size().next_multiple_of(options.cluster_size));
        let mut bytes = storage.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at as usize % bytes.len();
            bytes[at] ^= byte;
        }
        let Ok(image) = Image::open(MemoryDisk::new(bytes)) else { return Ok(()) };
        let Ok(found) = image.check() else { return Ok(()) };
        // A sum of what is found is never less than what is said.
        assert!(found.corruptions + found.leaks + found.errors >= found.lines.len() as u64);
    }
}

#[test]
fn what_is_cut_off_is_counted_as_missing() {
    let mut disk = MemoryDisk::default();
    create(&mut disk, &CreateOptions::new(1 << 20)).unwrap();
    let mut image = Image::open(disk).unwrap();
    image.write_all_at(&[1; 300_000], 0).unwrap();
    image.flush().unwrap();
    let mut disk = image.into_storage();
    disk.resize(disk.size() - 70_000).unwrap();
    let found = Image::open(disk).unwrap().check().unwrap();
    assert_eq!((found.corruptions, found.leaks), (1, 0), "{:?}", found.lines);
}
