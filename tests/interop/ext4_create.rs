//! New file systems: equal to mke2fs's in features and geometry, and clean to e2fsck.
//!
//! What differs, and why: the times, and with them the checksums; `Lifetime writes`, which count mke2fs's own. Where `-N` asks for more
//! inodes than a group's bitmap has bits, mke2fs makes the groups smaller, which nothing else here has seen, and we refuse; so with
//! more than 2^32 blocks.

use std::path::Path;

use imgcore::block::{BlockRead, BlockWrite, MemoryDisk, Resize, Staged};
use imgcore::fs::Error;
use imgcore::fs::ext4::{CreateOptions, Kind, Release, Timestamp, create};
use imgcore::storage::FileDisk;
use vmimg_tests::tool::Tool;

const UUID: [u8; 16] = [0xAB; 16];
const UUID_TEXT: &str = "abababab-abab-abab-abab-abababababab";
const NOW: Timestamp = Timestamp { secs: 1_760_000_000, nanos: 0 };

fn options(kind: Kind, release: Release, size: u64) -> CreateOptions {
    CreateOptions::new(kind, release, size, UUID, UUID, NOW)
}

fn sparse(path: &Path, size: u64) -> FileDisk {
    let _old = std::fs::remove_file(path);
    let mut disk = FileDisk::create_new(path).unwrap();
    disk.resize(size).unwrap();
    disk
}

/// What dumpe2fs says of a file system, but for times and what follows from them.
fn header(path: &Path) -> Vec<String> {
    let text = Tool::new("dumpe2fs").arg("-h").arg(path).run();
    let left_out =
        ["Filesystem created", "Last write time", "Last checked", "Lifetime writes", "Checksum:", "Filesystem features"];
    let lines = text.lines().filter(|line| !left_out.iter().any(|start| line.starts_with(start)));
    let features = text.lines().find_map(|line| line.strip_prefix("Filesystem features:")).unwrap();
    let mut features: Vec<&str> = features.split_whitespace().collect();
    features.sort_unstable();
    lines.map(str::to_owned).chain([features.join(" ")]).collect()
}

/// What an option is changed to.
type Change<'a> = &'a dyn Fn(&mut CreateOptions);

/// Whether there is time for all sizes.
#[expect(clippy::disallowed_methods, reason = "how long the tests may take is this machine's own business")]
fn thorough() -> bool {
    std::env::var_os("VMIMG_EXT4_ALL").is_some()
}

fn assert_clean(path: &Path, about: &str) {
    let output = Tool::new("e2fsck").args(["-f", "-n"]).arg(path).output();
    assert!(output.status.success(), "{about}: {}", String::from_utf8_lossy(&output.stdout));
}

/// Compares what we make with what mke2fs makes with these arguments.
fn compare(size: u64, arguments: &str, options: &CreateOptions) {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours.raw"), folder.path().join("theirs.raw"));
    let about = format!("{size} bytes, {arguments}");
    drop(sparse(&theirs, size));
    let seed = format!("hash_seed={UUID_TEXT}");
    let tool = Tool::new("mke2fs").args(["-q", "-F", "-U", UUID_TEXT, "-E", &seed]);
    let judged = tool.args(arguments.split_whitespace()).arg(&theirs).output().status.success();
    let made = create(sparse(&ours, size), options);
    assert_eq!(made.is_ok(), judged, "{about}: {made:?}");
    if !judged {
        return;
    }
    assert!(made.unwrap() <= size, "{about}");
    assert_eq!(header(&ours), header(&theirs), "{about}");
    assert_clean(&ours, &about);
}

#[test]
fn new_file_systems_of_every_size_are_those_of_mke2fs() {
    let sizes: &[u64] = &[
        200 << 10,
        1 << 20,
        (2 << 20) + 12345,
        3 << 20,
        (8 << 20) + 1024,
        (8 << 20) + (60 << 10),
        64 << 20,
        (500 << 20) + 4096,
        512 << 20,
        513 << 20,
        (1 << 30) + (3 << 20),
        10 << 30,
        (30 << 30) + 512,
        200 << 30,
        1 << 40,
    ];
    // e2fsck takes a second for every 100 GiB.
    for size in sizes.iter().filter(|size| **size < 1 << 35 || thorough()) {
        compare(*size, "-t ext4", &options(Kind::Ext4, Release::Debian12, *size));
        let mut newer = options(Kind::Ext4, Release::Debian12, *size);
        newer.set_features("orphan_file,metadata_csum_seed").unwrap();
        if *size >= 1 << 20 && (*size <= 1 << 30 || thorough()) {
            compare(*size, "-t ext4 -O orphan_file,metadata_csum_seed", &newer);
        }
        if *size <= 2 << 30 || (*size <= 10 << 30 && thorough()) {
            compare(*size, "-t ext3", &options(Kind::Ext3, Release::Debian12, *size));
            compare(*size, "-t ext2", &options(Kind::Ext2, Release::Debian12, *size));
        }
    }
}

#[test]
fn new_file_systems_of_every_shape_are_those_of_mke2fs() {
    let shape = |size: u64, change: &dyn Fn(&mut CreateOptions)| {
        let mut options = options(Kind::Ext4, Release::Debian12, size);
        change(&mut options);
        options
    };
    for size in [40 << 20, 333 << 20, (700 << 20) + 77777] {
        for block_size in [1024, 2048, 4096] {
            for inode_size in [128, 256, 1024] {
                let options = shape(size, &|options| (options.block_size, options.inode_size) = (block_size, inode_size));
                compare(size, &format!("-t ext4 -b {block_size} -I {inode_size}"), &options);
            }
        }
        for features in [
            "^64bit",
            "^metadata_csum,uninit_bg",
            "^metadata_csum",
            "^flex_bg",
            "^resize_inode",
            "^has_journal",
            "^extent,^64bit",
            "^sparse_super,^resize_inode",
            "large_dir,ea_inode,stable_inodes",
        ] {
            compare(size, &format!("-t ext4 -O {features}"), &shape(size, &|options| options.set_features(features).unwrap()));
        }
        for ratio in [1024, 4096, 8192, 65536, 400_000] {
            let options = shape(size, &|options| {
                options.inode_ratio = ratio.max(u64::from(options.block_size));
            });
            compare(size, &format!("-t ext4 -i {}", options.inode_ratio), &options);
        }
        compare(size, "-t ext4 -m 0", &shape(size, &|options| options.reserved = 0));
        compare(size, "-t ext4 -m 2.5", &shape(size, &|options| options.reserved = 250));
        compare(size, "-t ext4 -J size=8", &shape(size, &|options| options.journal_size = Some(8 << 20)));
        compare(size, "-t ext4 -L cloudimg-rootfs", &shape(size, &|options| options.label = "cloudimg-rootfs".to_owned()));
        compare(
            size,
            "-t ext4 -b 65536 -O ^has_journal",
            &shape(size, &|options| {
                options.block_size = 65536;
                options.set_features("^has_journal").unwrap();
                options.inode_ratio = 65536;
            }),
        );
    }
}

/// What mke2fs makes of its options for ext2, ext3 and ext4, and what it refuses.
#[test]
fn the_options_of_mke2fs_are_taken_for_each_of_the_three() {
    let features = |features: &'static str| move |options: &mut CreateOptions| options.set_features(features).unwrap();
    let inodes = |count| move |options: &mut CreateOptions| options.inodes = Some(count);
    let (no_index, no_journal) = (features("^dir_index,^resize_inode"), features("^has_journal"));
    let small_files = features("^large_file");
    let small_files_in_large_blocks = |options: &mut CreateOptions| {
        options.block_size = 4096;
        options.set_features("^large_file").unwrap();
    };
    let (least, few, many, most) = (inodes(300), inodes(1000), inodes(40_000), inodes(2_000_000));
    let cases: &[(&str, Change<'_>)] = &[
        ("-b 1024 -I 128", &|options| (options.block_size, options.inode_size) = (1024, 128)),
        ("-b 2048 -I 256", &|options| (options.block_size, options.inode_size) = (2048, 256)),
        ("-b 4096 -I 512", &|options| (options.block_size, options.inode_size) = (4096, 512)),
        ("-N 300", &least),
        ("-N 1000", &few),
        ("-N 40000", &many),
        ("-N 2000000", &most),
        ("-m 0 -L data", &|options| (options.reserved, options.label) = (0, "data".to_owned())),
        ("-m 12.5", &|options| options.reserved = 1250),
        ("-i 65536", &|options| options.inode_ratio = 65536),
        ("-O ^dir_index,^resize_inode", &no_index),
        ("-O ^has_journal", &no_journal),
        ("-O ^large_file", &small_files),
        ("-O ^large_file -b 4096", &small_files_in_large_blocks),
    ];
    let sizes: &[u64] = if thorough() { &[4 << 20, 100 << 20, 600 << 20, 5 << 30, 1 << 40] } else { &[4 << 20, 140 << 20] };
    for (kind, name) in [(Kind::Ext2, "ext2"), (Kind::Ext3, "ext3"), (Kind::Ext4, "ext4")] {
        // Without flex_bg, mke2fs writes all inode tables of a large disk.
        for size in sizes.iter().filter(|size| kind == Kind::Ext4 || **size < 1 << 40) {
            for (arguments, change) in cases {
                let mut options = options(kind, Release::Debian12, *size);
                change(&mut options);
                compare(*size, &format!("-t {name} {arguments}"), &options);
            }
        }
    }
}

#[test]
fn ubuntus_root_is_made_as_its_build_makes_it() {
    let size = 3 << 30;
    let mut wanted = options(Kind::Ext4, Release::Debian12, size);
    (wanted.inode_ratio, wanted.reserved, wanted.label) = (8192, 0, "cloudimg-rootfs".to_owned());
    wanted.most_blocks = Some(536_870_912);
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours.raw"), folder.path().join("theirs.raw"));
    create(sparse(&ours, size), &wanted).unwrap();
    drop(sparse(&theirs, size));
    let extended = format!("hash_seed={UUID_TEXT},resize=536870912");
    let tool = Tool::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-U", UUID_TEXT, "-E", &extended]);
    tool.args(["-b", "4096", "-i", "8192", "-m", "0", "-L", "cloudimg-rootfs"]).arg(&theirs).run();
    assert_eq!(header(&ours), header(&theirs));
    assert_clean(&ours, "ubuntu");
}

#[test]
fn what_was_on_the_disk_before_does_not_show() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    for features in ["64bit", "^metadata_csum,uninit_bg", "^metadata_csum"] {
        let size = 96 << 20;
        let mut disk = sparse(&path, size);
        for offset in (0..size).step_by(1 << 20) {
            disk.write_all_at(&vec![0xA5; 1 << 20], offset).unwrap();
        }
        let mut wanted = options(Kind::Ext4, Release::Debian12, size);
        wanted.set_features(features).unwrap();
        create(&mut disk, &wanted).unwrap();
        assert_clean(&path, features);
        let groups = Tool::new("dumpe2fs").arg(&path).run();
        let zeroed = groups.contains("ITABLE_ZEROED");
        assert!(!zeroed, "{features}: {groups}");
        let found = Tool::new("blkid").args(["-p", "-o", "export"]).arg(&path).run();
        assert!(found.contains("TYPE=ext4"), "{found}");
    }
}

#[test]
fn what_cannot_be_made_is_refused_and_nothing_is_written() {
    let cases: &[(u64, Change<'_>, &str)] = &[
        (20 << 10, &|_| (), "too few"),
        (1 << 20, &|options| options.block_size = 1000, "power of two"),
        (1 << 20, &|options| options.inode_size = 4096, "an inode of 4096 bytes"),
        (1 << 20, &|options| options.label = "seventeen letters".to_owned(), "at most 16 bytes"),
        (1 << 20, &|options| options.journal_size = Some(1000), "a journal has"),
        (1 << 20, &|options| options.reserved = 9000, "half"),
        (4 << 20, &|options| options.journal_size = Some(100 << 20), "journal"),
    ];
    for (size, change, reason) in cases {
        let mut wanted = options(Kind::Ext4, Release::Debian12, *size);
        change(&mut wanted);
        let mut disk = Staged::new(MemoryDisk::new(vec![7; usize::try_from(*size).unwrap()]));
        match create(&mut disk, &wanted) {
            Err(Error::Refused(refusal)) => assert!(refusal.reason.contains(reason), "{refusal}"),
            other => panic!("{reason}: {other:?}"),
        }
        assert!(disk.changes().is_empty(), "{reason}");
    }
}

#[test]
fn a_tebibyte_takes_little_memory() {
    let size = 1 << 40;
    let mut disk = Staged::new(MemoryDisk::new(Vec::new()));
    disk.resize(size).unwrap();
    create(&mut disk, &options(Kind::Ext4, Release::Debian13, size)).unwrap();
    let changed: u64 = disk.changes().iter().map(|change| change.range().len()).sum();
    assert!(changed < 24 << 20, "{changed} bytes");
    assert_eq!(disk.size(), size);
}
