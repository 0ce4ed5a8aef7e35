//! File systems whose bitmaps count clusters of several blocks: Linux fills them, we change them, and e2fsck and Linux judge.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use imgcore::block::{BlockWrite as _, ByteRange, Hole, MemoryDisk, Resize as _, Staged};
use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Attributes, Content, Edit, Error, FileSystem as _};
use vmimg_tests::tool::Tool;

use super::{Image, path};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8 | 1).collect()
}

fn write(name: &str, content: impl Into<Content>) -> Edit {
    Edit::Write { path: path(name), content: content.into(), attributes: Attributes::default() }
}

fn append(name: &str, content: &[u8]) -> Edit {
    Edit::Append { path: path(name), content: Content::from(content.to_vec()), attributes: Attributes::default() }
}

fn remove(name: &str) -> Edit {
    Edit::Remove { path: path(name) }
}

/// Contents of `blocks` blocks of which only those are no holes that `data` names.
fn sparse(block: usize, blocks: usize, data: &[usize]) -> (Content, Vec<u8>) {
    let len = blocks * block;
    let mut source = MemoryDisk::default();
    source.resize(len as u64).unwrap();
    let mut source = Staged::new(source);
    source.write_zeroes_at(ByteRange::new(0, len as u64).unwrap(), Hole::Allow).unwrap();
    let mut bytes = vec![0; len];
    for index in data {
        bytes[index * block..][..block].copy_from_slice(&pattern(block));
        source.write_all_at(&pattern(block), (index * block) as u64).unwrap();
    }
    (Content::Disk(Arc::new(source)), bytes)
}

/// Has Linux make files with clusters that are theirs in part, and returns what each file holds.
fn fill_with_linux(root: &Path, block: usize) -> Vec<(&'static str, Vec<u8>)> {
    let folder = root.join("linux");
    fs::create_dir_all(folder.join("d")).unwrap();
    for number in 0..60 {
        fs::write(folder.join(format!("d/{}-{number}", "n".repeat(90))), "").unwrap();
    }
    let holes = fs::File::create(folder.join("holes")).unwrap();
    let mut expected = vec![0; 60 * block];
    for index in [3, 7, 8, 31, 59] {
        holes.write_all_at(&pattern(block), (index * block) as u64).unwrap();
        expected[index * block..][..block].copy_from_slice(&pattern(block));
    }
    let tail = pattern(5 * block + 100);
    fs::write(folder.join("tail"), &tail).unwrap();
    // Set aside behind its end, and written in the middle.
    let set_aside = fs::File::create(folder.join("set-aside")).unwrap();
    Tool::new("fallocate").args(["-n", "-l", "300000"]).arg(folder.join("set-aside")).run();
    set_aside.write_all_at(&pattern(3000), 9000).unwrap();
    let mut middle = vec![0; 9000];
    middle.extend(pattern(3000));
    vec![("/linux/holes", expected), ("/linux/tail", tail), ("/linux/set-aside", middle)]
}

#[test]
fn clusters_of_every_size_take_any_edit_and_all_of_them_come_back() {
    for (block, cluster, mib) in
        [(1024, 8192, 32), (1024, 65536, 48), (1024, 1 << 20, 128), (4096, 8192, 32), (4096, 65536, 48), (4096, 1 << 20, 128)]
    {
        let note = format!("blocks of {block} in clusters of {cluster}");
        let image = Image::with(mib << 20, &format!("-b {block} -O bigalloc -C {cluster} -J size=4"), None);
        let free = |image: &Image| Ext4::open(image.disk()).unwrap().space().free_blocks;
        let before = free(&image);
        let mut expected = image.mounted(|root| fill_with_linux(root, block));
        for (name, bytes) in &mut expected {
            let more = pattern(block * 3 + 5);
            image.apply(vec![append(name, &more)]).unwrap_or_else(|error| panic!("{note}: {error}"));
            bytes.extend(more);
        }
        image.assert_clean();
        let (holes, in_holes) = sparse(block, 50, &[1, 4, 5, 6, 30, 31, 32, 33, 49]);
        let (scattered, in_scattered) = sparse(block, 600, &(0..600).step_by(3).collect::<Vec<_>>());
        let long = [("user.long".to_owned(), pattern(700))].into();
        let attributes = Attributes { xattrs: long, ..Attributes::owned(0o640, 7, 8) };
        let mut edits = vec![
            write("/ours/holes", holes),
            write("/ours/scattered", scattered),
            write("/ours/small", "small"),
            Edit::Write { path: path("/ours/attributes"), content: Content::from(pattern(block * 9)), attributes },
            Edit::Symlink { path: path("/ours/link"), target: "l".repeat(100), attributes: Attributes::default() },
            append("/ours/small", &pattern(block * 2)),
            remove(&format!("/linux/d/{}-7", "n".repeat(90))),
        ];
        edits.extend((0..20).map(|number| write(&format!("/linux/d/{}-{number}", "o".repeat(200)), "")));
        image.apply(edits).unwrap_or_else(|error| panic!("{note}: {error}"));
        image.assert_clean();
        expected.push(("/ours/holes", in_holes));
        expected.push(("/ours/scattered", in_scattered));
        expected.push(("/ours/small", [b"small".to_vec(), pattern(block * 2)].concat()));
        let check = |image: &Image| {
            let ext4 = Ext4::open(image.disk()).unwrap();
            image.mounted(|root| {
                for (name, bytes) in &expected {
                    assert!(fs::read(root.join(&name[1..])).unwrap() == *bytes, "{note}: {name}, by Linux");
                    assert!(ext4.read(&path(name), 1 << 24).unwrap() == *bytes, "{note}: {name}");
                }
                assert_eq!(fs::read_dir(root.join("linux/d")).unwrap().count(), 79, "{note}");
            });
        };
        check(&image);
        image.assert_clean();
        // Linux goes on where we stopped.
        image.mounted(|root| {
            let file = fs::File::options().append(true).open(root.join("ours/small")).unwrap();
            std::io::Write::write_all(&mut &file, &pattern(block * 4)).unwrap();
            fs::remove_file(root.join("ours/scattered")).unwrap();
        });
        image.assert_clean();
        image.apply(vec![remove("/ours"), remove("/linux")]).unwrap_or_else(|error| panic!("{note}: {error}"));
        image.assert_clean();
        assert_eq!(free(&image), before, "{note}");
    }
}

/// The number that debugfs prints of a file behind a word.
fn first_block(image: &Image, name: &str) -> u64 {
    image.debugfs(&format!("blocks {name}")).split_whitespace().next().unwrap().parse().unwrap()
}

fn refusal(image: &Image, edits: Vec<Edit>) -> String {
    let before = image.disk();
    let error = image.apply(edits).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. } | Error::Refused(_)), "{error}");
    assert_eq!(image.disk(), before);
    std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[test]
fn clusters_that_overlap_or_are_out_of_line_are_errors_with_their_place() {
    let make = || {
        let image = Image::with(24 << 20, "-b 4096 -O bigalloc -C 16384 -J size=4", None);
        let (third, _) = sparse(4096, 4, &[3]);
        image.apply(vec![write("/a", pattern(4096)), write("/b", third)]).unwrap();
        image
    };
    let chmod = |name: &str| Edit::SetAttributes { path: path(name), attributes: Attributes::root(0o600) };
    let image = make();
    let shared = first_block(&image, "/a");
    // The fourth block of the cluster whose first one the other file has.
    image.debugfs_write(&format!("sif /b block[5] {}", shared + 3));
    let said = refusal(&image, vec![chmod("/a"), chmod("/b")]);
    assert!(said.contains(&format!("block {shared}")) && said.contains("of one file"), "{said}");
    let said = refusal(&image, vec![remove("/a"), remove("/b")]);
    assert!(said.contains(&format!("block {shared}")) && said.contains("of one file"), "{said}");

    let image = make();
    image.debugfs_write(&format!("sif /a block[5] {}", first_block(&image, "/a") + 1));
    for edit in [remove("/a"), append("/a", b"more"), write("/a", "other")] {
        let said = refusal(&image, vec![edit]);
        assert!(said.contains("extent tree of inode 12") && said.contains("same place in its cluster"), "{said}");
    }
    let error = Ext4::open(image.disk()).unwrap().read(&path("/a"), 1 << 20).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");

    let image = make();
    image.debugfs_write("sif /a flags 0");
    assert!(refusal(&image, vec![remove("/a")]).contains("has extents"));
    for (command, rule) in [
        ("ssv log_cluster_size 1", "a cluster has from one block to 1 GiB"),
        ("ssv log_cluster_size 28", "a cluster has from one block to 1 GiB"),
        ("ssv log_cluster_size 3", "the blocks of a group are those of its clusters"),
        ("ssv clusters_per_group 16384", "the blocks of a group are those of its clusters"),
        ("ssv clusters_per_group 32772", "one block of bits describes a group"),
        ("ssv clusters_per_group 0", "one block of bits describes a group"),
        ("ssv blocks_count 6143", "ends inside a cluster"),
        ("ssv first_data_block 1", "the first data block"),
        ("feature -extents", "without the feature `extent`"),
    ] {
        let image = make();
        image.debugfs_write(command);
        let said = refusal(&image, vec![]);
        assert!(said.contains(rule), "{command}: {said}");
    }
}

#[test]
fn a_file_that_waits_to_be_cut_keeps_the_cluster_of_its_last_block() {
    let image = Image::with(24 << 20, "-b 4096 -O bigalloc -C 16384 -J size=4", None);
    image.apply(vec![write("/cut", pattern(40_000)), write("/gone", pattern(9000))]).unwrap();
    let free = Ext4::open(image.disk()).unwrap().space().free_blocks;
    for command in [
        "sif /cut size 20485",
        "sif /cut dtime 13",
        "sif /gone links_count 0",
        "sif /gone dtime 0",
        "unlink /gone",
        "ssv last_orphan 12",
    ] {
        image.debugfs_write(command);
    }
    image.apply(vec![]).unwrap();
    image.assert_clean();
    let ext4 = Ext4::open(image.disk()).unwrap();
    assert!(ext4.read(&path("/cut"), 1 << 20).unwrap() == pattern(40_000)[..20_485]);
    // One cluster of the one, and the only one of the other.
    assert_eq!(ext4.space().free_blocks, free + 8);
}
