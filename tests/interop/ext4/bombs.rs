//! File systems that were made to cost memory and time: few blocks that many say are theirs.

use std::ops::RangeInclusive;
use std::sync::Arc;

use imgcore::block::{BlockWrite as _, ByteRange, Hole, MemoryDisk, Resize as _, Staged};
use imgcore::fs::ext4::{Ext4, grow};
use imgcore::fs::{Attributes, Content, Edit, FileSystem as _};
use vmimg_tests::fuzz_places::{Kind, places};

use super::{Image, path};

fn write(name: &str, content: impl Into<Content>) -> Edit {
    Edit::Write { path: path(name), content: content.into(), attributes: Attributes::default() }
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Returns where the inodes are that have one of these sizes.
fn inodes_of_size(bytes: &[u8], sizes: RangeInclusive<u32>) -> Vec<usize> {
    let inodes = places(bytes).into_iter().filter(|place| place.kind == Kind::Inode).map(|place| place.at);
    inodes.filter(|at| sizes.contains(&u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()))).collect()
}

/// Returns what listing a folder says.
fn refusal(bytes: Vec<u8>, folder: &str) -> String {
    let ext4 = Ext4::open(MemoryDisk::new(bytes)).unwrap();
    ext4.read_dir(&path(folder)).map(|names| names.len()).unwrap_err().to_string()
}

#[test]
fn a_folder_has_each_of_its_blocks_once() {
    for arguments in ["-t ext2 -b 1024 -I 128", "-b 1024 -O ^metadata_csum,^has_journal,^inline_data"] {
        let image = Image::with(4 << 20, arguments, None);
        image.apply((0..90).map(|at| write(&format!("/d/{at}-{}", "n".repeat(40)), "")).collect()).unwrap();
        let mut bytes = image.disk().into_bytes();
        let folder = inodes_of_size(&bytes, 3 << 10..=9 << 10)[0];
        if arguments.contains("ext2") {
            // The first block is the third one too.
            bytes.copy_within(folder + 0x28..folder + 0x2C, folder + 0x30);
        } else {
            // So is that of the first extent: the second one says so.
            let entry = folder + 0x28 + 12;
            assert!(bytes[entry - 10] > 1, "the folder is in two pieces at least");
            bytes.copy_within(entry + 6..entry + 12, entry + 18);
        }
        let error = refusal(bytes, "/d");
        assert!(error.contains("it has each of its blocks once"), "{error}");
    }
}

#[test]
fn a_folder_of_millions_of_names_is_not_listed() {
    let image = Image::with(64 << 20, "-b 65536 -O ^metadata_csum,^has_journal -N 64", None);
    let mut block = Vec::new();
    while block.len() + 12 <= 65536 {
        let len = if block.len() + 24 <= 65536 { 12 } else { 65536 - block.len() };
        block.extend(11_u32.to_le_bytes());
        block.extend(u16::try_from(len).unwrap().to_le_bytes());
        block.extend([1, 2, b'n', 0, 0, 0]);
    }
    block.resize(65536, 0);
    image.apply(vec![write("/d", block.repeat(700))]).unwrap();
    let mut bytes = image.disk().into_bytes();
    let folder = inodes_of_size(&bytes, 700 << 16..=700 << 16)[0];
    bytes[folder..folder + 2].copy_from_slice(&0o040_755_u16.to_le_bytes());
    let error = refusal(bytes, "/d");
    assert!(error.ends_with("of too many names"), "{error}");
}

/// A file system of so many files that most edits look at none of the others; seven of them share a tree of 4096 pieces.
fn shared() -> (Image, Vec<usize>) {
    let image = Image::with(24 << 20, "-t ext2 -b 1024 -I 128 -N 8192", None);
    let mut disk = MemoryDisk::default();
    disk.resize(32 << 20).unwrap();
    let mut source = Staged::new(disk);
    source.write_zeroes_at(ByteRange::new(0, 32 << 20).unwrap(), Hole::Allow).unwrap();
    for at in (0..32 << 20).step_by(8192) {
        source.write_all_at(&[7; 4096], at).unwrap();
    }
    let big = write("/big", Content::Disk(Arc::new(source)));
    let small = (0..6).map(|at| write(&format!("/{at}"), vec![7; 3000]));
    let empty = (0..4100).map(|at| write(&format!("/many/{at}"), ""));
    image.apply([big].into_iter().chain(small).chain(empty).collect()).unwrap();
    image.assert_clean();
    let mut bytes = image.disk().into_bytes();
    let (big, small) = (inodes_of_size(&bytes, 32 << 20..=32 << 20)[0], inodes_of_size(&bytes, 3000..=3000));
    assert_eq!(small.len(), 6);
    for at in &small {
        bytes.copy_within(big + 4..big + 8, at + 4);
        bytes.copy_within(big + 0x28..big + 0x64, at + 0x28);
    }
    std::fs::write(&image.path, bytes).unwrap();
    (image, small)
}

#[test]
fn files_that_share_a_large_tree_are_not_all_looked_at() {
    let (image, inodes) = shared();
    image.apply(vec![write("/c", "c")]).unwrap();
    let mut disk = image.disk();
    disk.resize(32 << 20).unwrap();
    let error = grow(&mut disk).unwrap_err().to_string();
    assert!(error.contains("that share blocks"), "{error}");

    // They all wait to be cut.
    let mut bytes = image.disk().into_bytes();
    let number = |name: &str| -> u32 {
        let text = image.debugfs(&format!("stat {name}"));
        text.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let mut next = number("/big");
    for (at, name) in inodes.iter().zip(0..) {
        put32(&mut bytes, at + 0x14, next);
        next = number(&format!("/{name}"));
    }
    put32(&mut bytes, 1024 + 0xE8, next);
    std::fs::write(&image.path, bytes).unwrap();
    let error = image.apply(vec![write("/e", "e")]).unwrap_err().to_string();
    assert!(error.contains("to be cut") && error.contains("share blocks"), "{error}");
}
