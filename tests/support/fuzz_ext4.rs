//! What is done to hostile file systems, and how they are made: the body of the fuzz target `ext4`.
//!
//! [`change`] takes any bytes; it must neither panic, nor take long, nor take much memory. [`mutate`] damages a file system where it
//! hurts: fields of the superblock, descriptors, inodes, maps, folders and extended attributes. [`damage`] damages one kind of
//! structure, and gives it the right checksum again.

use imgcore::block::{MemoryDisk, Resize as _, Staged};
use imgcore::fs::ext4::{Commit, Editor, Ext4, Timestamp, grow, verify};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, FileSystem as _, GuestPath};

use super::fuzz::Random;
use super::fuzz_places::{Kind, Place, places, seal};

/// Reads all that `bytes`, a file system, has, changes its files, and grows it.
pub fn change(bytes: &[u8]) {
    outcomes(bytes);
}

/// Does what [`change`] does, and returns what was not refused: what was done, and the file system that came of it.
pub fn outcomes(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let disk = MemoryDisk::new(bytes.to_vec());
    read(&disk);
    let mut outcomes = Vec::new();
    for (number, plan) in plans().into_iter().enumerate() {
        let Ok(mut editor) = Editor::open(Staged::new(&disk), Timestamp { secs: 1_760_000_000, nanos: 0 }) else { break };
        let is_applied = editor.apply(&plan).is_ok();
        let Ok(staged) = editor.finish() else { continue };
        if verify(&staged, &plan).is_ok() && is_applied {
            outcomes.push((format!("plan {number}"), merged(bytes, &staged)));
            outcomes.extend(committed(bytes, &staged).map(|after| (format!("plan {number} in place"), after)));
        }
    }
    let mut larger = disk;
    if larger.resize(bytes.len() as u64 * 3).is_ok() {
        let mut staged = Staged::new(&larger);
        if grow(&mut staged).is_ok() {
            let mut before = bytes.to_vec();
            before.resize(bytes.len() * 3, 0);
            outcomes.push(("grow".to_owned(), merged(&before, &staged)));
        }
    }
    outcomes
}

fn merged(before: &[u8], staged: &Staged<&MemoryDisk>) -> Vec<u8> {
    let mut disk = MemoryDisk::new(before.to_vec());
    staged.changes().iter().try_for_each(|change| change.write_to(&mut disk)).unwrap();
    disk.into_bytes()
}

fn committed(before: &[u8], staged: &Staged<&MemoryDisk>) -> Option<Vec<u8>> {
    let mut disk = MemoryDisk::new(before.to_vec());
    let commit = Commit::plan(&disk, &staged.changes()).ok()?;
    commit.run(&mut disk).is_ok().then(|| disk.into_bytes())
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

/// Damages some fields of structures of one class in a sound file system, and gives all of it the right checksums again.
pub fn damage(bytes: &mut [u8], class: Class, seed: u64) {
    let mut random = Random::new(seed);
    let sound = bytes.to_vec();
    let places = places(&sound);
    let chosen: Vec<&Place> = places.iter().filter(|place| class.has(&place.kind)).collect();
    for _ in 0..=random.below(4) {
        // Of the kinds there are, each as often as the others, however many places have it.
        let kind = std::mem::discriminant(&chosen[random.below(chosen.len())].kind);
        let kinds = [kind, std::mem::discriminant(&chosen[random.below(chosen.len())].kind)];
        let same: Vec<&&Place> = chosen.iter().filter(|place| kinds.contains(&std::mem::discriminant(&place.kind))).collect();
        let place = same[random.below(same.len())];
        let (inside, len) = field(&sound, place, class, &mut random);
        put(bytes, place.at + inside.min(place.len.saturating_sub(len)), len, &mut random);
    }
    if random.below(8) == 0 {
        // One structure is in the place of another.
        let [from, to] = [(); 2].map(|()| chosen[random.below(chosen.len())]);
        bytes.copy_within(from.at..from.at + from.len.min(to.len), to.at);
    }
    seal(bytes, &sound, &places);
}

/// The structures that are damaged together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Superblock, descriptors and bitmaps.
    Layout,
    /// Extent trees, block maps, and inodes with their flags and sizes.
    Maps,
    /// Names, and their index.
    Folders,
    /// Extended attributes, in inodes, in blocks, and with inodes of their own.
    Attributes,
    /// The journal that is to be replayed.
    Journal,
    /// The files that wait to be deleted, in a chain or a file.
    Orphans,
    /// The quota files, and where the superblock says that they are.
    Quota,
}

impl Class {
    fn has(self, kind: &Kind) -> bool {
        use Kind::{BlockBitmap, Descriptor, ExtentNode, Index, Inode, InodeBitmap, Leaf, Numbers, Superblock, Xattrs};
        use Kind::{JournalCommit, JournalData, JournalRevocation, JournalSuperblock, JournalTags};
        match self {
            Self::Layout => matches!(kind, Superblock | Descriptor(_) | BlockBitmap(_) | InodeBitmap(_)),
            Self::Maps => matches!(kind, ExtentNode | Numbers | Inode),
            Self::Folders => matches!(kind, Leaf | Index(_)),
            Self::Attributes => matches!(kind, Xattrs(_) | Inode),
            Self::Journal => {
                matches!(kind, JournalSuperblock | JournalTags(..) | JournalData | JournalRevocation | JournalCommit)
            }
            Self::Orphans => matches!(kind, Kind::Orphans(_) | Inode | Superblock),
            Self::Quota => matches!(kind, Kind::Quota | Superblock),
        }
    }
}

/// A field of a structure, where it begins in it and how long it is.
fn field(sound: &[u8], place: &Place, class: Class, random: &mut Random) -> (usize, usize) {
    let word = |len: usize, random: &mut Random| (random.below(len / 4) * 4 + random.below(2) * 2, [2, 4][random.below(2)]);
    match &place.kind {
        Kind::Superblock if class == Class::Orphans => {
            [(0xE8, 4), (0x280, 4), (0x64, 4), (0x5C, 4), (0x54, 4)][random.below(5)]
        }
        Kind::Superblock if class == Class::Quota => [(0x240, 4), (0x244, 4), (0x26C, 4)][random.below(3)],
        Kind::Quota => {
            let words = |word: &usize| sound[place.at + word * 4..][..4] != [0; 4];
            let used: Vec<usize> = (0..place.len / 4).filter(words).chain(0..4).collect();
            (used[random.below(used.len())] * 4, [4, 4, 2][random.below(3)])
        }
        Kind::Superblock => word(0x284, random),
        Kind::Inode => match (class, random.below(4)) {
            // Size, deletion, links, flags, attributes.
            (Class::Orphans, _) => [(0, 2), (4, 4), (0x14, 4), (0x1A, 2), (0x20, 4), (0x28, 4), (0x68, 4)][random.below(7)],
            (Class::Attributes, 0) => [(0x68, 4), (0x76, 2), (0x80, 2), (0x20, 4), (4, 4)][random.below(5)],
            (Class::Attributes, _) if place.len > 128 => (0x80 + random.below((place.len - 0x80) / 4) * 4, 4),
            (_, 0) => word(128, random),
            (_, 1) => [(0, 2), (4, 4), (0x6C, 4), (0x20, 4), (0x1A, 2), (0x1C, 4), (0x74, 2)][random.below(7)],
            _ => (0x28 + random.below(30) * 2, 2),
        },
        Kind::Leaf => {
            // A field of one of its records: inode, length, length of the name, type, the name itself.
            let (mut at, mut starts) = (0, Vec::new());
            while at + 8 <= place.len {
                starts.push(at);
                let len = usize::from(u16::from_le_bytes([sound[place.at + at + 4], sound[place.at + at + 5]]));
                at += len.max(8);
            }
            let (inside, len) = [(0, 4), (4, 2), (6, 1), (7, 1), (8, 4)][random.below(5)];
            (starts[random.below(starts.len())] + inside, len)
        }
        Kind::Index(table) => match random.below(3) {
            0 => (table - 8 + random.below(8), 1),
            1 => (table + random.below(2) * 2, 2),
            _ => (table + random.below(6) * 4, 4),
        },
        Kind::ExtentNode => [(random.below(6) * 2, 2), (12 + random.below(40) * 2, 2)][random.below(2)],
        Kind::Xattrs(_) => [(random.below(8) * 4, 4), (32 + random.below(24) * 2, 2)][random.below(2)],
        Kind::JournalSuperblock => (0x0C + random.below(25) * 4, 4),
        Kind::JournalTags(..) | Kind::JournalRevocation | Kind::JournalCommit => (random.below(24) * 4, 4),
        Kind::Orphans(_) => [(random.below(8) * 4, 4), (place.len - 8, 4)][random.below(2)],
        _ => word(place.len, random),
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
