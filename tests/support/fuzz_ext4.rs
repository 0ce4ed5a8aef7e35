//! What is done to hostile file systems, and how they are made: the body of the fuzz target `ext4`.
//!
//! [`change`] takes any bytes; it must neither panic, nor take long, nor take much memory. [`mutate`] damages a file system where it
//! hurts: fields of the superblock, descriptors, inodes, maps, folders and extended attributes.

use imgcore::block::{BlockWrite as _, MemoryDisk, Resize as _, Staged};
use imgcore::fs::ext4::{Editor, Ext4, Timestamp, grow, verify};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, FileSystem as _, GuestPath};

use super::fuzz::Random;

/// Reads all that `bytes`, a file system, has, changes its files, and grows it.
pub fn change(bytes: &[u8]) {
    let disk = MemoryDisk::new(bytes.to_vec());
    read(&disk);
    for plan in plans() {
        let Ok(mut editor) = Editor::open(Staged::new(&disk), Timestamp { secs: 1_760_000_000, nanos: 0 }) else { break };
        let _applied = editor.apply(&plan);
        if let Ok(staged) = editor.finish() {
            let _verified = verify(&staged, &plan);
        }
    }
    let mut larger = disk;
    if larger.resize(bytes.len() as u64 * 3).is_ok() {
        let mut staged = Staged::new(&larger);
        let _grown = grow(&mut staged);
        let _flushed = staged.flush();
    }
}

fn read(disk: &MemoryDisk) {
    let Ok(ext4) = Ext4::open(disk) else { return };
    let mut folders = vec![path("/")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in ext4.read_dir(&folder).unwrap_or_default().into_iter().take(200) {
            seen += 1;
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            let Ok(child) = folder.join(&name) else { continue };
            let _contents = ext4.read(&child, 1 << 20);
            let _target = ext4.read_link(&child);
            let _value = ext4.xattr(&child, "user.a");
            if seen < 300 {
                folders.push(child);
            }
        }
    }
}

fn plans() -> Vec<EditPlan> {
    let write = |name: &str, len| Edit::Write {
        path: path(name),
        content: Content::from(vec![7; len]),
        attributes: Attributes { xattrs: [("user.a".to_owned(), vec![1; len % 700])].into(), ..Attributes::root(0o640) },
    };
    let remove = |name: &str| Edit::Remove { path: path(name) };
    let many = (0..40).map(|at| write(&format!("/big/{at}-{}", "m".repeat(at * 3)), at));
    [
        many.chain([write("/d/large", 70_000), write("/d/small", 3)]).collect(),
        vec![remove("/d"), remove("/big"), write("/new/er/est", 5000)],
        vec![
            Edit::Symlink { path: path("/link"), target: "t".repeat(70), attributes: Attributes::default() },
            remove("/lost+found"),
        ],
    ]
    .map(|edits| EditPlan { edits })
    .into()
}

fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

/// Damages a file system of 1 KiB blocks, from one field to some dozens of bytes.
pub fn mutate(bytes: &mut Vec<u8>, seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..=random.below(5) {
        let at = match random.below(8) {
            // The superblock, then the descriptors.
            0 => 1024 + random.below(90) * 4,
            1 => 2048 + random.below(64) * 4,
            // A word that is in use: of bitmaps, inodes, maps, folders and attributes more often than of contents.
            2..=5 => used(bytes, &mut random, 200),
            _ => used(bytes, &mut random, usize::MAX),
        };
        let (part, len) = [(0, 4), (0, 4), (0, 2), (2, 2), (random.below(4), 1)][random.below(5)];
        put(bytes, at + part, len, &mut random);
    }
    if random.below(10) == 0 {
        let (from, to) = (random.below(bytes.len() / 1024) * 1024, random.below(bytes.len() / 1024) * 1024);
        bytes.copy_within(from..from + 1024, to);
    }
    if random.below(30) == 0 {
        bytes.truncate(bytes.len() - random.below(bytes.len() / 2));
    }
}

/// A word that is not zero, in the first `blocks`.
fn used(bytes: &[u8], random: &mut Random, blocks: usize) -> usize {
    let words = bytes.len().min(blocks.saturating_mul(1024)) / 4;
    let start = random.below(words);
    (start..words).find(|word| bytes[word * 4..word * 4 + 4] != [0; 4]).unwrap_or(start) * 4
}

fn put(bytes: &mut [u8], at: usize, len: usize, random: &mut Random) {
    let Some(place) = bytes.get(at..at + len) else { return };
    let old = place.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let near = random.word() % 5;
    let value = match random.below(8) {
        0 => old.wrapping_add(near).wrapping_sub(2),
        1..=2 => old ^ (1 << random.below(len * 8)),
        3 => (1_u64 << random.below(33)).wrapping_add(near).wrapping_sub(2),
        4 => 0,
        5 => u64::MAX,
        6 => random.word() % (bytes.len() as u64 / 1024),
        _ => {
            let from = random.below(bytes.len() / 4) * 4;
            u64::from(u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap()))
        }
    };
    bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}
