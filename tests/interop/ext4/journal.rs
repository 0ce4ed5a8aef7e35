//! File systems that were not unmounted: debugfs and the kernel write journals and orphans, e2fsck says what comes of them.

use std::collections::BTreeMap;
use std::path::Path;

use imgcore::block::BlockRead;
use imgcore::fs::ext4::{Ext4, grow};
use imgcore::fs::{Attributes, Content, Edit, FileSystem};
use vmimg_tests::mount::Mounted;
use vmimg_tests::tool::Tool;

use super::model::{Node, walk};
use super::{Image, path};

fn write(name: &str, content: Vec<u8>) -> Edit {
    Edit::Write { path: path(name), content: Content::from(content), attributes: Attributes::default() }
}

fn tree(image: &Image) -> BTreeMap<String, Node> {
    let mut tree = BTreeMap::new();
    walk(&Ext4::open(image.disk()).unwrap(), "", &mut tree);
    tree
}

fn copy_of(file: &Path) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fs.raw");
    std::fs::copy(file, &path).unwrap();
    Image { folder, path }
}

/// What e2fsck makes of a file system, which must be no more than a replay.
#[track_caller]
fn replayed(image: &Image) -> Image {
    let copy = copy_of(&image.path);
    let output = Tool::new("e2fsck").arg("-fy").arg(&copy.path).output();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    assert!(said.contains("recovering journal"), "{said}");
    copy
}

/// Ours shows what e2fsck makes of it, and leaves a file system without an error behind an edit, or when it is grown.
#[track_caller]
fn assert_same_as_e2fsck(image: &Image) -> BTreeMap<String, Node> {
    let mut expected = tree(&replayed(image));
    assert_eq!(tree(image), expected);
    let grown = copy_of(&image.path);
    let mut disk = grown.disk();
    grow(&mut disk).unwrap();
    std::fs::write(&grown.path, disk.into_bytes()).unwrap();
    grown.assert_clean();
    assert_eq!(tree(&grown), expected);
    image.apply(vec![write("/after", b"replayed".to_vec())]).unwrap();
    image.assert_clean();
    expected.insert("/after".to_owned(), Node::File(b"replayed".to_vec(), 0o644));
    let found = tree(image);
    assert_eq!(found, expected);
    found
}

/// Puts what differs between two file systems into the journal of the first, in transactions of at most `most` blocks.
fn journal_changes(image: &Image, changed: &Image, block_size: usize, most: usize, open: &str) {
    let (old, new) = (image.disk().into_bytes(), changed.disk().into_bytes());
    let blocks: Vec<usize> = (0..old.len() / block_size)
        .filter(|block| old[block * block_size..][..block_size] != new[block * block_size..][..block_size])
        .collect();
    let mut script = format!("{open}\n");
    for (number, blocks) in blocks.chunks(most).enumerate() {
        let file = image.folder.path().join(format!("blocks{number}"));
        let bytes: Vec<u8> = blocks.iter().flat_map(|block| new[block * block_size..][..block_size].to_vec()).collect();
        std::fs::write(&file, bytes).unwrap();
        let list: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        script.push_str(&format!("jw -b {} {}\n", list.join(","), file.display()));
    }
    script.push_str("jc\n");
    debugfs(image, &script);
}

fn debugfs(image: &Image, script: &str) {
    let file = image.folder.path().join("script");
    std::fs::write(&file, script).unwrap();
    Tool::new("debugfs").args(["-w", "-f"]).arg(&file).arg(&image.path).run();
}

fn block_size(image: &Image) -> usize {
    stated(image, "Block size:") as usize
}

fn stated(image: &Image, name: &str) -> u64 {
    let stats = image.debugfs("stats");
    stats.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
}

#[test]
fn journals_of_debugfs_are_replayed_in_every_shape_and_with_every_checksum() {
    for (shape, opens) in [
        ("debian-12", &["jo", "jo -c -v 2"][..]),
        ("debian-13", &["jo -c -v 3"]),
        ("alpine", &["jo -c -v 2"]),
        ("two-kilobytes", &["jo -c -v 3"]),
        ("no-checksums", &["jo"]),
        ("cirros", &["jo"]),
    ] {
        for open in opens {
            let image = Image::make(shape, None);
            image.apply(vec![write("/old/a", vec![1; 5000])]).unwrap();
            let changed = copy_of(&image.path);
            // A block that begins as those of the journal do is escaped.
            let mut magic = vec![0xC0, 0x3B, 0x39, 0x98];
            magic.resize(9000, 7);
            changed.apply(vec![write("/new/b", magic.clone()), Edit::Remove { path: path("/old/a") }]).unwrap();
            journal_changes(&image, &changed, block_size(&image), 3, open);
            let found = assert_same_as_e2fsck(&image);
            assert_eq!(found.get("/new/b"), Some(&Node::File(magic, 0o644)), "{shape} {open}");
            assert!(!found.contains_key("/old/a"), "{shape} {open}");
        }
    }
}

#[test]
fn what_is_revoked_or_not_committed_is_not_replayed() {
    for arguments in ["-b 1024 -O ^metadata_csum", "-b 4096 -O metadata_csum,64bit"] {
        let image = Image::with(24 << 20, arguments, None);
        let size = block_size(&image);
        image.apply(vec![write("/a", vec![1; 3 * size])]).unwrap();
        let blocks = image.debugfs("blocks /a");
        let blocks: Vec<&str> = blocks.split_whitespace().collect();
        let file = |name: &str, byte: u8| {
            let file = image.folder.path().join(name);
            std::fs::write(&file, vec![byte; size]).unwrap();
            file.display().to_string()
        };
        let (two, three, four) = (file("two", 2), file("three", 3), file("four", 4));
        let [first, second, third] = blocks[..] else { panic!("{blocks:?}") };
        debugfs(
            &image,
            &format!(
                "jo\njw -b {first} {two}\njw -b {second} {two}\njw -r {first} /dev/null\njw -b {second} {three}\n\
                 jw -r {third} /dev/null\njw -b {third} {three}\njw -b {third} -c {four}\njc\n"
            ),
        );
        let found = assert_same_as_e2fsck(&image);
        let expected = [1, 3, 3].iter().flat_map(|byte| vec![*byte; size]).collect();
        assert_eq!(found.get("/a"), Some(&Node::File(expected, 0o644)));
    }
}

#[test]
fn a_kernel_that_lost_power_left_what_we_replay_and_the_files_that_it_had_open_are_freed() {
    let shapes = [
        ("-t ext3 -b 1024 -J size=1", "data=ordered"),
        ("-t ext3 -b 4096 -J size=4", "data=journal"),
        ("-b 1024 -O ^metadata_csum,^64bit -J size=1", "journal_checksum"),
        ("-b 2048 -O metadata_csum,64bit -J size=2", "data=writeback,journal_async_commit"),
        ("-b 4096 -O metadata_csum,64bit,metadata_csum_seed,orphan_file -J size=4", "data=ordered"),
        ("-b 1024 -O metadata_csum,^64bit,orphan_file -J size=1", "data=journal"),
    ];
    for (arguments, options) in shapes {
        let image = Image::with(32 << 20, arguments, None);
        // Nothing is written behind the copy's back.
        let mounted = Mounted::open(&image.path, &format!("noinit_itable,{options}")).unwrap();
        mounted.shell("chmod 777 .");
        // More than the log has room for: it is written in a circle, and blocks are revoked.
        mounted.shell(
            "for round in 1 2 3 4 5 6; do mkdir -p d$round; for file in $(seq 60); do echo $round $file > d$round/$file-$round; done; sync; \
             rm -r d$((round - 1)) 2>/dev/null || true; seq 9000 > big; sync; done; ln -s big link; sync",
        );
        let open: Vec<std::fs::File> = (0..3)
            .map(|number| {
                let name = mounted.path(&format!("open{number}"));
                std::fs::write(&name, vec![number; 30_000]).unwrap();
                let file = std::fs::File::open(&name).unwrap();
                std::fs::remove_file(&name).unwrap();
                file
            })
            .collect();
        mounted.shell("mkdir gone; cd gone; rmdir ../gone; sync");
        let copy = copy_of(&image.path);
        drop(open);
        drop(mounted);
        let stats = copy.debugfs("stats");
        assert!(stats.contains("needs_recovery"), "{stats}");
        let found = assert_same_as_e2fsck(&copy);
        assert!(found.contains_key("/d6/60-6") && !found.contains_key("/d5"), "{arguments}");
        assert!(!copy.debugfs("stats").contains("orphan_present"), "{arguments}");
    }
}

#[test]
fn fast_commits_of_a_kernel_are_not_dropped() {
    let image = Image::with(64 << 20, "-O fast_commit", None);
    let mounted = Mounted::open(&image.path, "commit=300").unwrap();
    mounted.shell("chmod 777 .; echo 1 > old; sync");
    // Each is on the disk when its fsync ends, and in no transaction yet.
    for name in ["first", "second"] {
        let path = mounted.path(name);
        std::fs::write(&path, name).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
    }
    let copy = copy_of(&image.path);
    mounted.shell("sync");
    let after = copy_of(&image.path);
    drop(mounted);
    assert!(tree(&replayed(&copy)).contains_key("/second"));
    let before = copy.disk().into_bytes();
    let error = copy.apply(vec![write("/new", vec![1])]).unwrap_err().to_string();
    assert!(error.contains("has fast commits in its journal") && error.contains("run e2fsck"), "{error}");
    assert!(Ext4::open(copy.disk()).unwrap_err().to_string().contains("has fast commits"));
    assert_eq!(copy.disk().into_bytes(), before);
    // A transaction has taken them over, and they stay where they were.
    assert_same_as_e2fsck(&after);
}

#[test]
fn a_file_that_was_being_cut_is_cut_to_its_size() {
    for shape in ["debian-12", "cirros", "debian-13"] {
        let image = Image::make(shape, None);
        image.apply(vec![write("/cut", vec![9; 60_000]), write("/gone", vec![8; 20_000])]).unwrap();
        let (cut, gone) = (inode(&image, "/cut"), inode(&image, "/gone"));
        // The chain: the superblock names one, its time of deletion the other.
        debugfs(
            &image,
            &format!(
                "sif /cut size 5001\nsif /cut dtime {gone}\nsif /gone links_count 0\nsif /gone dtime 0\nunlink /gone\n\
                 ssv last_orphan {cut}\n"
            ),
        );
        let before = stated(&image, "Free blocks:");
        image.apply(vec![Edit::CreateDir { path: path("/later"), attributes: Attributes::default() }]).unwrap();
        image.assert_clean();
        assert!(stated(&image, "Free blocks:") > before, "{shape}");
        assert_eq!(Ext4::open(image.disk()).unwrap().read(&path("/cut"), 1 << 20).unwrap(), vec![9; 5001]);
    }
}

fn inode(image: &Image, name: &str) -> String {
    let stat = image.debugfs(&format!("stat {name}"));
    stat.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn journals_that_are_not_understood_are_refused_and_damage_is_named() {
    let image = Image::make("debian-12", None);
    let start = image.debugfs("blocks <8>").split_whitespace().next().unwrap().parse::<usize>().unwrap() * 4096;
    image.apply(vec![write("/a", vec![1; 4096])]).unwrap();
    let clean = image.disk().into_bytes();
    let block = image.debugfs("blocks /a");
    let file = image.folder.path().join("block");
    std::fs::write(&file, vec![2; 4096]).unwrap();
    debugfs(&image, &format!("jo -c -v 3\njw -b {} {}\njc\n", block.trim(), file.display()));
    let dirty = image.disk().into_bytes();
    let said = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = dirty.clone();
        change(&mut bytes);
        std::fs::write(&image.path, &bytes).unwrap();
        let error = image.apply(vec![write("/b", vec![3; 10])]).unwrap_err().to_string();
        assert_eq!(image.disk().into_bytes(), bytes, "{error}");
        error
    };
    assert_eq!(
        said(&|bytes| bytes[start + 0x2B] |= 0x40),
        "the ext4 file system has a journal with the incompatible features 0x40, which are not supported"
    );
    assert_eq!(
        said(&|bytes| bytes[start + 0x1B] ^= 0x40),
        "corrupt ext4 file system: journal superblock: its checksum matches its bytes"
    );
    // The descriptor, the block, the commit record.
    let message = said(&|bytes| bytes[start + 2 * 4096 + 9] ^= 0x40);
    assert!(message.contains("the checksum of a committed block matches its bytes"), "{message}");
    std::fs::write(&image.path, &clean).unwrap();
    image.apply(vec![write("/b", vec![3; 10])]).unwrap();
    assert_eq!(image.disk().size(), 24 << 20);
}
