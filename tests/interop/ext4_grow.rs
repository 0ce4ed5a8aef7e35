use std::path::{Path, PathBuf};

use imgcore::block::{BlockRead, BlockWrite, MemoryDisk, Resize, Staged};
use imgcore::fs::Error;
use imgcore::fs::ext4::{Growth, grow, grow_to};
use imgcore::storage::{Access, FileDisk};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use tempfile::TempDir;
use vmimg_tests::mount::Mounted;
use vmimg_tests::random_ext4::RandomFileSystem;
use vmimg_tests::tool::Tool;

/// A file system of `size` bytes with a few files in it, made by mke2fs with these options.
fn file_system(folder: &TempDir, options: &[String], size: u64) -> PathBuf {
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/hostname"), "web1\n").unwrap();
    std::fs::write(tree.join("data"), [b'd'; 100_000]).unwrap();
    let path = folder.path().join("disk.raw");
    let _old = std::fs::remove_file(&path);
    FileDisk::create_new(&path).unwrap().resize(size).unwrap();
    Tool::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).args(options).arg(&path).run();
    if options.iter().any(|option| option == "quota") {
        // mke2fs does not count what it puts in.
        let output = Tool::new("e2fsck").arg("-fy").arg(&path).output();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stdout));
    }
    path
}

fn enlarged(path: &Path, size: u64) -> FileDisk {
    let mut disk = FileDisk::open(path, Access::ReadWrite).unwrap();
    disk.resize(size).unwrap();
    disk
}

fn assert_clean(path: &Path, about: &str) {
    let output = Tool::new("e2fsck").args(["-f", "-n"]).arg(path).output();
    assert!(output.status.success(), "{about}: {}", String::from_utf8_lossy(&output.stdout));
}

/// A number from the superblock, as dumpe2fs names it.
fn number(header: &str, name: &str) -> u64 {
    let line = header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    // What is zero may be left out.
    line.map_or(0, |number| number.trim().parse().unwrap())
}

fn header(path: &Path) -> String {
    Tool::new("dumpe2fs").arg("-h").arg(path).run()
}

fn options(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

/// How many file systems are tried, where somebody has the time for more.
#[expect(clippy::disallowed_methods, reason = "how long the tests may take is this machine's own business")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_file_systems_grow_as_resize2fs_grows_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut grown = 0;
    let count = setting("VMIMG_EXT4_GROWS").unwrap_or(8);
    for seed in 0..count {
        let RandomFileSystem { mut options, size, larger } = RandomFileSystem::new(seed);
        if seed % 5 == 0 {
            options.extend(["-O", "quota"].map(str::to_owned));
        }
        let about = format!("seed {seed}: {options:?}, {size} -> {larger}");
        let path = file_system(&folder, &options, size);
        let other = folder.path().join("other.raw");
        std::fs::copy(&path, &other).unwrap();
        drop(enlarged(&other, larger));
        let mut disk = enlarged(&path, larger);
        // What was on the disk before must not become inodes.
        let from = size.next_multiple_of(4096);
        for offset in (from..larger.saturating_sub(4096)).step_by(40960) {
            disk.write_all_at(&[0xA5; 4096], offset).unwrap();
        }
        let result = grow(&mut disk);
        drop(disk);
        match result {
            Ok(Growth { old_size, new_size }) => {
                assert!(old_size <= new_size && new_size <= larger, "{about}");
                grown += u64::from(new_size > old_size);
            }
            Err(error) => panic!("{about}: {error}"),
        }
        assert_clean(&path, &about);
        // There resize2fs moves files away instead.
        if header(&path).contains("meta_bg") {
            continue;
        }
        // Without a size it would round down to 4 KiB.
        Tool::new("resize2fs").arg("-f").arg(&other).arg(format!("{}s", larger / 512)).run();
        let (ours, theirs) = (header(&path), header(&other));
        for name in ["Block count", "Free blocks", "Free inodes", "Inode count", "Reserved GDT blocks"] {
            assert_eq!(number(&ours, name), number(&theirs, name), "{about}: {name}");
        }
        let reserved = |header| number(header, "Reserved block count");
        assert!(reserved(&ours).abs_diff(reserved(&theirs)) <= 1, "{about}");
        let text = Tool::new("debugfs").args(["-R", "cat /etc/hostname"]).arg(&path).run();
        assert_eq!(text, "web1\n", "{about}");
    }
    assert!(grown >= count / 2, "{grown} grown");
}

#[test]
fn a_file_system_grows_in_many_steps_and_in_one_to_the_same_counts() {
    let folder = tempfile::tempdir().unwrap();
    let steps = file_system(&folder, &options("-b 1024 -m 1"), 20 << 20);
    let once = folder.path().join("once.raw");
    std::fs::copy(&steps, &once).unwrap();
    for mib in [21, 33, 40, 41, 90, 91, 200, 300] {
        let growth = grow(enlarged(&steps, mib << 20)).unwrap();
        assert!(growth.new_size > growth.old_size, "{mib} MiB: {growth:?}");
        assert_clean(&steps, &format!("{mib} MiB"));
        let again = std::fs::read(&steps).unwrap();
        let same = grow(enlarged(&steps, mib << 20)).unwrap();
        assert_eq!((same.old_size, same.new_size), (growth.new_size, growth.new_size));
        assert!(std::fs::read(&steps).unwrap() == again, "a second time nothing is written");
    }
    grow(enlarged(&once, 300 << 20)).unwrap();
    let (steps, once) = (header(&steps), header(&once));
    for name in ["Block count", "Free blocks", "Free inodes", "Reserved GDT blocks", "Overhead clusters"] {
        assert_eq!(number(&steps, name), number(&once, name), "{name}");
    }
}

#[test]
fn clusters_are_added_whole_and_groups_of_them_take_their_layout() {
    let folder = tempfile::tempdir().unwrap();
    for (words, first, cluster, sizes) in [
        ("-b 1024 -O bigalloc -C 2048", 20, 2048, [21, 300, 1000]),
        ("-b 1024 -O bigalloc,^metadata_csum,uninit_bg -C 8192", 20, 8192, [33, 90, 1500]),
        ("-b 1024 -O bigalloc,^resize_inode,^flex_bg -C 4096", 20, 4096, [41, 300, 900]),
        ("-b 1024 -O bigalloc,meta_bg,^resize_inode -C 2048 -N 4096", 40, 2048, [41, 300, 900]),
        ("-b 4096 -O bigalloc -C 65536", 48, 65536, [144, 5000, 9000]),
        ("-b 4096 -O bigalloc,^metadata_csum,^64bit -C 1048576", 256, 1 << 20, [300, 3000, 70_000]),
    ] {
        let path = file_system(&folder, &options(words), first << 20);
        for mib in sizes {
            let about = format!("{words}: {mib} MiB");
            // What is behind the last whole cluster stays outside.
            let growth = grow(enlarged(&path, (mib << 20) + 1024)).unwrap_or_else(|error| panic!("{about}: {error}"));
            assert!(growth.new_size > growth.old_size && growth.new_size + (66 << 20) > mib << 20, "{about}: {growth:?}");
            assert_eq!(growth.new_size % cluster, 0, "{about}");
            assert_clean(&path, &about);
        }
        let text = Tool::new("debugfs").args(["-R", "cat /etc/hostname"]).arg(&path).run();
        assert_eq!(text, "web1\n", "{words}");
        // Linux takes all of it, and counts what it finds.
        let mounted = Mounted::open(&path, "rw").unwrap_or_else(|error| panic!("{words}: {error}"));
        for number in 0..200 {
            std::fs::create_dir_all(mounted.path(&format!("folder-{number}/below"))).unwrap();
        }
        std::fs::write(mounted.path("large"), vec![7; 20 << 20]).unwrap();
        drop(mounted);
        assert_clean(&path, words);
    }
}

#[test]
fn descriptors_for_which_nothing_is_reserved_lie_in_their_groups() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("-b 1024 -O ^resize_inode", 20, [1000, 1500]),
        ("-b 1024 -E resize=300000", 20, [200, 1000]),
        ("-b 1024 -O ^resize_inode,^flex_bg,^metadata_csum,^64bit", 30, [300, 1200]),
        ("-b 1024 -O ^metadata_csum,uninit_bg,^resize_inode -g 2048", 20, [65, 400]),
        ("-b 1024 -O meta_bg,^resize_inode -g 1024", 20, [23, 200]),
        ("-b 2048 -O meta_bg,^resize_inode,^sparse_super -g 2048", 24, [100, 500]),
        ("-b 4096 -O meta_bg,^resize_inode", 100, [3000, 9000]),
    ];
    for (words, first, sizes) in cases {
        let path = file_system(&folder, &options(words), first << 20);
        for mib in sizes {
            let about = format!("{words}: {mib} MiB");
            let growth = grow(enlarged(&path, mib << 20)).unwrap_or_else(|error| panic!("{about}: {error}"));
            assert!(growth.new_size > growth.old_size && growth.new_size > (mib << 20) - (9 << 20), "{about}: {growth:?}");
            assert_clean(&path, &about);
        }
        let text = header(&path);
        assert!(text.contains("meta_bg") && !text.contains("resize_inode"), "{words}: {text}");
        let text = Tool::new("debugfs").args(["-R", "cat /etc/hostname"]).arg(&path).run();
        assert_eq!(text, "web1\n", "{words}");
        // The copies are enough.
        let (block, per_group) = (number(&header(&path), "Block size"), number(&header(&path), "Blocks per group"));
        let copy = per_group + u64::from(block == 1024);
        FileDisk::open(&path, Access::ReadWrite).unwrap().write_all_at(&[0; 4096], 0).unwrap();
        let repair = Tool::new("e2fsck").args(["-fy", "-b", &copy.to_string(), "-B", &block.to_string()]).arg(&path).output();
        assert_eq!(repair.status.code(), Some(1), "{words}: {}", String::from_utf8_lossy(&repair.stdout));
        assert_clean(&path, words);
    }
}

#[test]
fn a_size_is_grown_to_exactly_and_never_shrunk_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_system(&folder, &options("-b 1024"), 20 << 20);
    let growth = grow_to(enlarged(&path, 100 << 20), 50 << 20).unwrap();
    assert_eq!(growth, Growth { old_size: 20 << 20, new_size: 50 << 20 });
    assert_clean(&path, "50 MiB");
    for (size, reason) in [(49 << 20, "is not made smaller"), (200 << 20, "its place has")] {
        match grow_to(enlarged(&path, 100 << 20), size) {
            Err(Error::Refused(refusal)) => assert!(refusal.reason.contains(reason), "{refusal}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn growth_is_staged_and_costs_what_the_new_groups_cost() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_system(&folder, &options("-b 4096"), 256 << 20);
    let mut staged = Staged::new(FileDisk::open(&path, Access::Read).unwrap());
    staged.resize(20 << 30).unwrap();
    let growth = grow(&mut staged).unwrap();
    assert_eq!(growth, Growth { old_size: 256 << 20, new_size: 20 << 30 });
    let changed: u64 = staged.changes().iter().map(|change| change.range().len()).sum();
    assert!(changed < 2 << 20, "{changed} bytes for 158 groups");
    let grown = folder.path().join("grown.raw");
    let mut disk = FileDisk::create_new(&grown).unwrap();
    disk.resize(staged.size()).unwrap();
    imgcore::block::copy(&staged, &mut disk, &mut |_| ()).unwrap();
    assert_clean(&grown, "20 GiB");
    // Group 125 has a copy of the superblock and of the descriptors, and it is enough.
    disk.write_all_at(&[0; 4 * 4096], 0).unwrap();
    drop(disk);
    let repair = Tool::new("e2fsck").args(["-f", "-y", "-b", "4096000", "-B", "4096"]).arg(&grown).output();
    assert_eq!(repair.status.code(), Some(1), "errors were corrected");
    assert_clean(&grown, "from a copy");
    assert_eq!(number(&header(&grown), "Block count"), 5_242_880);
}

#[test]
fn what_cannot_be_grown_is_refused_before_the_first_change() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [("-b 4096 -O sparse_super2", "sparse_super2")];
    for (words, reason) in cases {
        let path = file_system(&folder, &options(words), 32 << 20);
        let disk = enlarged(&path, 8 << 30);
        let mut staged = Staged::new(disk);
        match grow(&mut staged) {
            Err(Error::Refused(refusal)) => assert!(refusal.reason.contains(reason), "{words}: {refusal}"),
            other => panic!("{words}: {other:?}"),
        }
        assert!(staged.changes().is_empty(), "{words}");
    }
}

#[test]
fn damaged_metadata_gives_an_error_or_a_growth_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    for words in ["-b 1024 -O ^metadata_csum,^uninit_bg", "-b 1024"] {
        let sound = std::fs::read(file_system(&folder, &options(words), 10 << 20)).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..400 {
            let mut bytes = sound.clone();
            for _ in 0..1 + random.next_u32() % 4 {
                // The superblock, the descriptors, the reserved ones, and the tables behind them.
                let at = 1024 + random.next_u32() as usize % [1024, 2048, 300 << 10][random.next_u32() as usize % 3];
                bytes[at] = random.next_u32().to_le_bytes()[0];
            }
            let mut disk = Staged::new(MemoryDisk::new(bytes));
            disk.resize(300 << 20).unwrap();
            let _any = grow(&mut disk);
        }
    }
}
