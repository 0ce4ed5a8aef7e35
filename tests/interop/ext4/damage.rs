//! Damage that no checksum tells, as e2fsprogs' own tests have it: it is refused before it gets worse, and nothing is written.

use imgcore::block::{BlockWrite, MemoryDisk, Resize};
use imgcore::fs::ext4::grow;
use imgcore::fs::{Attributes, Content, Edit};
use vmimg_tests::fuzz_places::{Kind, places};

use super::{Image, path};

const EXT2: &str = "-t ext2 -b 1024 -I 128 -O ^dir_index -N 8192";

fn write(name: &str) -> Edit {
    Edit::Write { path: path(name), content: Content::from(vec![7; 3000]), attributes: Attributes::default() }
}

/// A file system with a file and a folder.
fn small(arguments: &str) -> Image {
    let image = Image::with(4 << 20, arguments, None);
    image.apply(vec![write("/a"), write("/d/b")]).unwrap();
    image.assert_clean();
    image
}

/// The same with so many files that only those which an edit is about are looked at.
fn image(arguments: &str) -> Image {
    let image = small(arguments);
    let empty = |at| Edit::Write { path: path(&format!("/many/{at}")), content: "".into(), attributes: Attributes::default() };
    image.apply((0..4100).map(empty).collect()).unwrap();
    image.assert_clean();
    image
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The place of a field of the descriptor of group 0, and what it holds.
fn descriptor(bytes: &[u8], field: usize) -> u32 {
    u32::from_le_bytes(bytes[2048 + field..2048 + field + 4].try_into().unwrap())
}

#[track_caller]
fn refused(image: &Image, edit: Edit) -> String {
    let before = image.disk().into_bytes();
    let error = image.apply(vec![edit]).unwrap_err().to_string();
    assert!(image.disk().into_bytes() == before);
    error
}

/// Swaps two bits of a bitmap, of which the first is set.
fn swap_bits(image: &Image, field: usize, from: usize, to: usize) {
    let mut bytes = image.disk().into_bytes();
    let map = descriptor(&bytes, field) as usize * 1024;
    assert_eq!((bytes[map + from / 8] >> (from % 8) & 1, bytes[map + to / 8] >> (to % 8) & 1), (1, 0));
    bytes[map + from / 8] ^= 1 << (from % 8);
    bytes[map + to / 8] ^= 1 << (to % 8);
    std::fs::write(&image.path, bytes).unwrap();
}

#[test]
fn an_inode_that_lost_its_bit_is_not_given_to_another_file() {
    // The inode of /a, and one far behind; its group has as many free ones as before.
    let image = image(EXT2);
    swap_bits(&image, 4, 11, 8000);
    assert_eq!(refused(&image, write("/c")), "corrupt ext4 file system: inode 12: what has a link is in use");
    assert_eq!(refused(&image, write("/a")), "corrupt ext4 file system: inode 12: what has a name is in use");
}

#[test]
fn a_folder_whose_blocks_are_free_or_those_of_a_table_is_not_changed() {
    let image = image(EXT2);
    let block: usize = image.debugfs("blocks /d").trim().parse().unwrap();
    swap_bits(&image, 0, block - 1, 3000);
    let rule = "a block of one file is in use, and not by the layout";
    assert_eq!(refused(&image, write("/d/c")), format!("corrupt ext4 file system: block {block}: {rule}"));
    swap_bits(&image, 0, 3000, block - 1);
    image.assert_clean();
    let table = descriptor(&image.disk().into_bytes(), 8) + 2;
    image.debugfs_write(&format!("sif /d block[0] {table}"));
    let error = refused(&image, write("/d/c"));
    assert!(error.starts_with("corrupt ext4 file system: "), "{error}");
}

#[test]
fn a_bad_block_is_no_place_of_a_bitmap() {
    let image = image(EXT2);
    let bitmap = descriptor(&image.disk().into_bytes(), 0);
    image.debugfs_write(&format!("sif <1> block[0] {bitmap}"));
    let expected = format!("corrupt ext4 file system: bad block {bitmap}: no bitmap or table is there");
    assert_eq!(refused(&image, write("/c")), expected);
}

#[test]
fn a_file_with_blocks_behind_the_end_does_not_get_them_by_growing() {
    for arguments in [EXT2, "-t ext4 -b 1024 -O ^metadata_csum,^has_journal -N 8192"] {
        let image = image(arguments);
        let mut bytes = image.disk().into_bytes();
        let inode = places(&bytes)
            .iter()
            .filter(|place| place.kind == Kind::Inode)
            .map(|place| place.at)
            .find(|at| bytes[at + 4..at + 8] == 3000_u32.to_le_bytes());
        // The first block, or the start of the first extent.
        put32(&mut bytes, inode.unwrap() + 0x28 + if arguments == EXT2 { 0 } else { 20 }, 4100);
        let mut disk = MemoryDisk::new(bytes.clone());
        disk.resize(9 << 20).unwrap();
        let error = grow(&mut disk).unwrap_err().to_string();
        disk.flush().unwrap();
        assert!(error.contains("inside the file system"), "{error}");
        assert!(disk.into_bytes()[..4 << 20] == bytes[..]);
    }
}

#[test]
fn what_uninit_bg_left_in_a_descriptor_is_not_heeded_nor_kept() {
    let image = image(EXT2);
    let mut bytes = image.disk().into_bytes();
    // All blocks and inodes but the reserved ones never used.
    bytes[2048 + 0x12] = 7;
    bytes[2048 + 0x1C..2048 + 0x1E].copy_from_slice(&900_u16.to_le_bytes());
    std::fs::write(&image.path, bytes).unwrap();
    image.apply(vec![write("/c"), write("/d/c")]).unwrap();
    image.assert_clean();
    assert_eq!(image.debugfs("ls -p /d").lines().count(), 5);
}

#[test]
fn a_table_of_an_index_that_ends_behind_its_block_is_an_error() {
    let image = Image::with(4 << 20, "-b 1024 -O metadata_csum,^has_journal -N 512", None);
    image.apply((0..80).map(|at| write(&format!("/d/{at}-{}", "n".repeat(40)))).collect()).unwrap();
    let mut bytes = image.disk().into_bytes();
    let root = places(&bytes).iter().find(|place| place.kind == Kind::Index(0x20)).unwrap().at;
    bytes[root + 0x22..root + 0x24].copy_from_slice(&29_000_u16.to_le_bytes());
    std::fs::write(&image.path, bytes).unwrap();
    for edit in [write("/d/new"), write("/d/1-nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn")] {
        let error = refused(&image, edit);
        assert!(error.contains("a node has"), "{error}");
    }
}

/// Damage that lies elsewhere than the edit: the command of debugfs, and the rule that is broken.
const ELSEWHERE: &[(&str, &str)] = &[
    // The first block of /a is one of /d/b's, a folder's, a table's, one that is free.
    ("sif /a block[0] BLOCK_B", "a block is of one file, or of the layout"),
    ("sif /a block[0] BLOCK_D", "a block is of one file, or of the layout"),
    ("sif /a block[IND] TABLE", "a block is of one file, or of the layout"),
    ("sif /a block[0] 4000", "a block of a file is in use"),
    ("sif /a file_acl BLOCK_B", "a block is of one file, or of the layout"),
    ("sif /a file_acl 9999", "it lies inside the file system"),
    ("sif /a links_count 2", "it has as many names as it says"),
    ("link /a /a2", "it has as many names as it says"),
    ("link /d /d2", "it has one name, outside of itself"),
    ("link /d /d/d", "it has one name, outside of itself"),
    ("clri /a", "a name leads to a file in use"),
    ("freei /a", "it has as many free inodes as the group descriptor says"),
    ("freeb BLOCK_B", "it has as many free blocks as the group descriptor says"),
];

#[test]
fn damage_anywhere_in_a_small_file_system_is_damage() {
    for (command, rule) in ELSEWHERE {
        let image = small(EXT2);
        let block = |name: &str| image.debugfs(&format!("blocks {name}")).split_whitespace().next().unwrap().to_owned();
        let table = descriptor(&image.disk().into_bytes(), 8) + 2;
        let command = command.replace("BLOCK_B", &block("/d/b")).replace("BLOCK_D", &block("/d"));
        image.debugfs_write(&command.replace("TABLE", &table.to_string()));
        for edit in [write("/c"), Edit::Remove { path: path("/d") }] {
            let error = refused(&image, edit);
            assert!(error.contains(rule), "{command}: {error}");
        }
        let mut disk = image.disk();
        disk.resize(6 << 20).unwrap();
        assert!(grow(&mut disk).unwrap_err().to_string().contains(rule), "{command}");
    }
}

#[test]
fn what_is_encrypted_is_not_in_the_way_of_other_files() {
    let image = Image::with(4 << 20, "-t ext4 -b 1024 -O encrypt,^metadata_csum,^has_journal", None);
    image.apply(vec![write("/a"), write("/d/b")]).unwrap();
    image.debugfs_write("sif /d flags 0x80800");
    image.debugfs_write("sif /d/b flags 0x80800");
    image.apply(vec![write("/c"), Edit::Remove { path: path("/a") }]).unwrap();
    assert!(refused(&image, write("/d/c")).contains("encrypt"));
}

#[test]
fn a_file_keeps_the_space_of_attributes_with_inodes_of_their_own() {
    let image = Image::with(4 << 20, "-t ext4 -b 1024 -O ea_inode,^has_journal", None);
    image.apply(vec![write("/a"), write("/b")]).unwrap();
    let value = image.folder.path().join("value");
    std::fs::write(&value, [7; 3000]).unwrap();
    image.debugfs_write(&format!("ea_set -f {} /a user.large", value.display()));
    // debugfs does not count them.
    image.index_folders();
    let append = Edit::Append { path: path("/a"), content: Content::from(vec![1; 9000]), attributes: Attributes::default() };
    for edit in [append, write("/a")] {
        image.apply(vec![edit]).unwrap();
        image.assert_clean();
    }
}
