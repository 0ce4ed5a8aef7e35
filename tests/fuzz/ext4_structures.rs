//! Hostile file systems whose damage has the right checksums: one kind of structure at a time, and e2fsck says whether what was
//! not refused is worse than before.

use std::collections::BTreeSet;
use std::path::Path;

use imgcore::block::{BlockWrite as _, MemoryDisk};
use imgcore::fs::ext4::{Editor, Timestamp};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, GuestPath};
use vmimg_tests::fuzz_ext4::{self, Class};
use vmimg_tests::fuzz_places;
use vmimg_tests::tool::Tool;

/// A sound file system in a file.
struct Seed {
    folder: tempfile::TempDir,
}

impl Seed {
    /// Makes one with a folder of 60 names, which has an index where there are any, and a file of many pieces.
    fn make(mib: u64, arguments: &str) -> Self {
        let seed = Self { folder: tempfile::tempdir().unwrap() };
        let tree = seed.folder.path().join("tree");
        std::fs::create_dir_all(tree.join("d/in")).unwrap();
        std::fs::write(tree.join("d/short"), [1; 130]).unwrap();
        std::os::unix::fs::symlink("n".repeat(80), tree.join("d/link")).unwrap();
        std::fs::File::create(seed.file()).unwrap().set_len(mib << 20).unwrap();
        let tool = Tool::new("mke2fs").args(["-q", "-F", "-b", "1024", "-N", "128", "-d"]).arg(&tree);
        tool.args(arguments.split_whitespace()).arg(seed.file()).run();
        let mut edits: Vec<Edit> = (0..60).map(|at| write(&format!("/big/{at}-{}", "b".repeat(at * 3)), at * 20)).collect();
        edits.extend((0..40).step_by(2).map(|at| Edit::Remove { path: path(&format!("/big/{at}-{}", "b".repeat(at * 3))) }));
        seed.apply(edits);
        // It lies where there were holes between the others.
        seed.apply(vec![write("/d/large", 400_000)]);
        seed
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("fs")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.file()).unwrap()
    }

    fn apply(&self, edits: Vec<Edit>) {
        let disk = MemoryDisk::new(self.bytes());
        let mut editor = Editor::open(disk, Timestamp { secs: 1_700_000_000, nanos: 0 }).unwrap();
        editor.apply(&EditPlan { edits }).unwrap();
        let mut disk = editor.finish().unwrap();
        disk.flush().unwrap();
        std::fs::write(self.file(), disk.into_bytes()).unwrap();
    }

    fn debugfs(&self, script: &str) {
        let file = self.folder.path().join("script");
        std::fs::write(&file, script).unwrap();
        let output = Tool::new("debugfs").args(["-w", "-f"]).arg(&file).arg(self.file()).run();
        assert!(!output.contains("rror"), "{output}");
    }

    /// Puts the blocks that an edit changes into the journal, in three transactions, with a block that is revoked.
    fn journaled(self, open: &str) -> Vec<u8> {
        let old = self.bytes();
        self.apply(vec![write("/new/file", 9000), Edit::Remove { path: path("/d/short") }]);
        let new = self.bytes();
        std::fs::write(self.file(), &old).unwrap();
        let differ: Vec<usize> =
            (0..old.len() / 1024).filter(|at| old[at * 1024..][..1024] != new[at * 1024..][..1024]).collect();
        let mut script = format!("{open}\n");
        for (number, blocks) in differ.chunks(differ.len().div_ceil(3)).enumerate() {
            let file = self.folder.path().join(format!("blocks{number}"));
            std::fs::write(&file, blocks.iter().flat_map(|at| new[at * 1024..][..1024].to_vec()).collect::<Vec<_>>()).unwrap();
            let list: Vec<String> = blocks.iter().map(ToString::to_string).collect();
            // A block that nobody uses.
            script.push_str(&format!(
                "jw -b {} {}\njw -r {} /dev/null\n",
                list.join(","),
                file.display(),
                old.len() / 1024 - 2
            ));
        }
        self.debugfs(&format!("{script}jc\n"));
        self.bytes()
    }

    /// Deletes files that a program still has open.
    fn with_orphans(self, is_listed: bool) -> Vec<u8> {
        let inode = |name: &str| {
            let stat = Tool::new("debugfs").args(["-R", &format!("stat {name}")]).arg(self.file()).run();
            stat.split_whitespace().nth(1).unwrap().to_owned()
        };
        let (cut, gone) = (inode("/d/large"), inode("/d/short"));
        let next = if is_listed { "0" } else { &gone };
        let chain = if is_listed { String::new() } else { format!("ssv last_orphan {cut}\n") };
        self.debugfs(&format!(
            "sif /d/large size 50001\nsif /d/large dtime {next}\nsif /d/short links_count 0\nsif /d/short dtime 0\nunlink /d/short\n{chain}"
        ));
        let mut bytes = self.bytes();
        if is_listed {
            let sound = bytes.clone();
            let places = fuzz_places::places(&sound);
            let list = places.iter().find(|place| matches!(place.kind, fuzz_places::Kind::Orphans(_))).unwrap().at;
            for (at, number) in [(list, &cut), (list + 8, &gone)] {
                bytes[at..at + 4].copy_from_slice(&number.parse::<u32>().unwrap().to_le_bytes());
            }
            bytes[1024 + 0x66] |= 1;
            fuzz_places::seal(&mut bytes, &sound, &places);
        }
        bytes
    }
}

fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

fn write(name: &str, len: usize) -> Edit {
    let attributes = Attributes { xattrs: [("user.a".to_owned(), vec![3; len % 600])].into(), ..Attributes::default() };
    Edit::Write { path: path(name), content: Content::from(vec![9; len]), attributes }
}

/// What e2fsck finds, each kind of finding once; nothing in a clean file system.
fn findings(folder: &Path, bytes: &[u8]) -> BTreeSet<String> {
    let file = folder.join("judged");
    std::fs::write(&file, bytes).unwrap();
    let asks = |line: &&str| {
        line.contains("? no") || line.contains("? yes") || line.contains("claimed") || line.contains("differences")
    };
    let kinds = |said: &[u8]| -> BTreeSet<String> {
        let said = String::from_utf8_lossy(said).into_owned();
        said.lines().filter(asks).map(|line| line.chars().filter(|char| !char.is_ascii_digit()).collect()).collect()
    };
    if bytes[1024 + 0x60] & 4 != 0 {
        // What it finds wrong before it has replayed, it repairs at once.
        let found = kinds(&Tool::new("e2fsck").args(["-y", "-E", "journal_only"]).arg(&file).output().stdout);
        if !found.is_empty() {
            return found;
        }
    }
    let output = Tool::new("e2fsck").arg("-fn").arg(&file).output();
    if output.status.success() {
        return BTreeSet::new();
    }
    [format!("exit {:?}", output.status.code())].into_iter().chain(kinds(&output.stdout)).collect()
}

/// Does what the fuzz target does, and asserts that what was clean still is, and that no block got a second owner.
fn judge(bytes: &[u8]) {
    let outcomes = fuzz_ext4::outcomes(bytes);
    if outcomes.is_empty() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let before = findings(folder.path(), bytes);
    for (what, after) in outcomes {
        let after = findings(folder.path(), &after);
        assert!(!before.is_empty() || after.is_empty(), "{what}: {after:#?}");
        // What lies in blocks that a bitmap says are free, only a look at every file would tell.
        let has_any =
            |found: &BTreeSet<String>, words: &[&str]| words.iter().any(|word| found.iter().any(|said| said.contains(word)));
        let was_shared = has_any(&before, &["claimed", "bitmap differences"]);
        assert!(was_shared || !has_any(&after, &["claimed"]), "{what}: {before:#?}, then {after:#?}");
    }
}

fn run(name: &str, seeds: &[Vec<u8>], mutate: fn(&mut Vec<u8>, u64)) {
    for seed in seeds {
        let mut sealed = seed.clone();
        fuzz_places::seal(&mut sealed, seed, &fuzz_places::places(seed));
        assert!(sealed == *seed, "{name}: checksums as mke2fs and debugfs have them");
    }
    super::run_on(name, judge, seeds, mutate);
}

const SUMS: &str = "-t ext4 -O metadata_csum,64bit,^has_journal";
const CLUSTERS: &str = "-t ext4 -O metadata_csum,bigalloc,^has_journal -C 4096";
const NARROW: &str = "-t ext4 -O metadata_csum,^64bit,^has_journal,^flex_bg -I 128 -g 1024";

#[test]
fn a_damaged_layout_is_no_panic_and_never_gets_worse() {
    let shapes = [
        SUMS,
        NARROW,
        "-t ext4 -O uninit_bg,^metadata_csum,^has_journal -g 1024",
        "-t ext4 -O metadata_csum -J size=1",
        CLUSTERS,
    ];
    let seeds = shapes.map(|shape| Seed::make(4, shape).bytes());
    run("ext4-layout", &seeds, |bytes, seed| fuzz_ext4::damage(bytes, Class::Layout, seed));
}

#[test]
fn damaged_maps_are_no_panic_and_never_get_worse() {
    let seeds = [SUMS, NARROW, "-t ext2 -I 128", "-t ext4 -O ^extent,^64bit,^has_journal", CLUSTERS]
        .map(|shape| Seed::make(2, shape).bytes());
    run("ext4-maps", &seeds, |bytes, seed| fuzz_ext4::damage(bytes, Class::Maps, seed));
}

#[test]
fn damaged_folders_are_no_panic_and_never_get_worse() {
    let inline = "-t ext4 -O metadata_csum,inline_data,^has_journal -I 512";
    let seeds = [SUMS, inline, "-t ext2 -O ^dir_index", CLUSTERS].map(|shape| Seed::make(2, shape).bytes());
    run("ext4-folders", &seeds, |bytes, seed| fuzz_ext4::damage(bytes, Class::Folders, seed));
}

#[test]
fn damaged_attributes_are_no_panic_and_never_get_worse() {
    let shapes = [
        SUMS,
        "-t ext4 -O metadata_csum,ea_inode,^has_journal -I 256",
        "-t ext4 -O metadata_csum,inline_data,ea_inode,^has_journal -I 512",
    ];
    let seeds = shapes.map(|shape| {
        let seed = Seed::make(2, shape);
        let value = seed.folder.path().join("value");
        std::fs::write(&value, [7; 3000]).unwrap();
        if shape.contains("ea_inode") {
            seed.debugfs(&format!("ea_set -f {} /d/short user.large\n", value.display()));
        }
        seed.bytes()
    });
    run("ext4-attributes", &seeds, |bytes, seed| fuzz_ext4::damage(bytes, Class::Attributes, seed));
}

#[test]
fn damaged_journals_are_no_panic_and_never_make_it_worse() {
    let kinds = [
        ("-t ext4 -O metadata_csum,64bit -J size=1", "jo -c -v 3"),
        ("-t ext4 -O metadata_csum,^64bit -J size=1", "jo -c -v 2"),
        ("-t ext3 -J size=1", "jo"),
    ];
    let seeds = kinds.map(|(shape, open)| Seed::make(4, shape).journaled(open));
    run("ext4-journal", &seeds, |bytes, seed| fuzz_ext4::damage(bytes, Class::Journal, seed));
}

#[test]
fn damaged_quota_is_no_panic_and_never_gets_worse() {
    let shapes = [
        "-t ext4 -O metadata_csum,64bit,^has_journal,quota,project",
        "-t ext4 -O ^metadata_csum,^uninit_bg,^extent,^64bit,quota",
    ];
    let seeds = shapes.map(|shape| {
        let seed = Seed::make(4, shape);
        let own = |at: u32| Edit::SetAttributes {
            path: path(&format!("/big/{at}-{}", "b".repeat(at as usize * 3))),
            attributes: Attributes::owned(0o600, at << 20, at),
        };
        seed.apply((41..60).map(own).collect());
        seed.bytes()
    });
    run("ext4-quota", &seeds, |bytes, seed| fuzz_ext4::damage(bytes, Class::Quota, seed));
}

#[test]
fn damaged_lists_of_orphans_are_no_panic_and_never_make_it_worse() {
    let seeds = [
        Seed::make(2, SUMS).with_orphans(false),
        Seed::make(2, "-t ext2").with_orphans(false),
        Seed::make(2, CLUSTERS).with_orphans(false),
        Seed::make(4, "-t ext4 -O metadata_csum,orphan_file -J size=1").with_orphans(true),
    ];
    run("ext4-orphans", &seeds, |bytes, seed| fuzz_ext4::damage(bytes, Class::Orphans, seed));
}
