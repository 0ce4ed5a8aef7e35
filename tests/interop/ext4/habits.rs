//! What Linux and e2fsck take for granted of an inode or a count, and no checksum says.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgcore::block::{Resize as _, Staged};
use imgcore::fs::ext4::{Editor, Ext4, Timestamp, grow};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, Node};
use imgcore::storage::{Access, FileDisk};
use vmimg_tests::tool::Tool;

use super::{Image, kept, path};

fn write(name: &str, attributes: Attributes) -> Edit {
    Edit::Write { path: path(name), content: Content::from(vec![7; 3000]), attributes }
}

fn apply_at(image: &Image, secs: i64, edits: Vec<Edit>) {
    let mut editor = Editor::open(Staged::new(image.disk()), Timestamp { secs, nanos: 0 }).unwrap();
    editor.apply(&EditPlan { edits }).unwrap();
    std::fs::write(&image.path, kept(&editor.finish().unwrap()).into_bytes()).unwrap();
}

fn attributes_of(file: &Path) -> String {
    Tool::new("python3").args(["-c", "import os, sys; print(os.listxattr(sys.argv[1]))"]).arg(file).run()
}

#[test]
fn a_file_that_is_deleted_at_the_start_of_time_is_on_no_list_of_orphans() {
    for arguments in ["-b 1024 -I 128 -O ^metadata_csum", "-b 4096 -I 256 -O metadata_csum,orphan_file"] {
        let image = Image::with(20 << 20, arguments, None);
        for secs in [0, 5, 200] {
            apply_at(&image, secs, vec![write("/a", Attributes::default()), write("/b", Attributes::default())]);
            apply_at(&image, secs, vec![Edit::Remove { path: path("/a") }]);
            image.assert_clean();
        }
        image.apply(vec![write("/c", Attributes::default())]).unwrap();
        image.assert_clean();
    }
}

#[test]
fn an_inode_that_says_nothing_of_its_fields_has_its_attributes_where_linux_looks() {
    let image = Image::with(20 << 20, "-b 1024 -I 256 -O ^metadata_csum", None);
    image.apply(vec![write("/a", Attributes::default())]).unwrap();
    image.debugfs_write("sif /a extra_isize 0");
    let xattrs = [("user.name".to_owned(), vec![b'v'; 20])].into();
    image
        .apply(vec![Edit::SetAttributes { path: path("/a"), attributes: Attributes { xattrs, ..Attributes::default() } }])
        .unwrap();
    image.assert_clean();
    image.mounted(|root| {
        assert_eq!(attributes_of(&root.join("a")).trim(), "['user.name']");
        // Linux takes the space for fields of its own now.
        Tool::new("touch").arg(root.join("a")).run();
    });
    image.assert_clean();
    assert!(Ext4::open(image.disk()).unwrap().xattrs(&path("/a")).unwrap().contains_key(&b"user.name"[..]));
}

#[test]
fn what_the_superblock_says_is_free_is_put_right_and_not_believed() {
    let image = Image::with(20 << 20, "-b 1024 -O metadata_csum", None);
    image.debugfs_write("ssv free_blocks_count 3");
    image.debugfs_write("ssv free_inodes_count 77");
    image.apply(vec![write("/a", Attributes::default())]).unwrap();
    let said = Tool::new("e2fsck").arg("-fn").arg(&image.path).run();
    assert!(!said.contains("wrong"), "{said}");
}

#[test]
fn reserved_inodes_may_be_in_a_second_group() {
    for arguments in ["-b 1024 -N 16", "-t ext2 -b 1024 -N 16", "-b 1024 -O ^metadata_csum,uninit_bg -N 16"] {
        let image = Image::with(20 << 20, arguments, None);
        let new = |at| write(&format!("/d/{at}"), Attributes::default());
        image.apply(vec![new(0), new(1), write("/a", Attributes::default())]).unwrap();
        image.assert_clean();
        image.apply(vec![Edit::Remove { path: path("/d") }, new(2)]).unwrap();
        image.assert_clean();
        assert!(image.apply((10..40).map(new).collect()).unwrap_err().to_string().contains("an inode is needed"));
        let mut disk = image.disk();
        disk.resize(40 << 20).unwrap();
        grow(&mut disk).unwrap();
        std::fs::write(&image.path, disk.into_bytes()).unwrap();
        image.assert_clean();
        image.apply((10..14).map(new).collect()).unwrap();
        image.assert_clean();
    }
}

#[test]
fn inodes_that_became_larger_have_half_a_checksum_until_linux_writes_them() {
    let image = Image::with(20 << 20, "-b 1024 -I 128 -O metadata_csum,^flex_bg", None);
    image.apply((0..90).map(|at| write(&format!("/old/{at}"), Attributes::default())).collect()).unwrap();
    Tool::new("tune2fs").args(["-I", "256"]).arg(&image.path).run();
    image.assert_clean();
    let more = |folder: &str| (50..140).map(|at| write(&format!("/{folder}/{at}"), Attributes::default())).collect::<Vec<_>>();
    let gone = (0..20).map(|at| Edit::Remove { path: path(&format!("/old/{at}")) });
    image.apply([more("old"), more("new/er")].concat().into_iter().chain(gone).collect()).unwrap();
    image.assert_clean();
    // The root has a whole one, and folders and files in it have not.
    image.mounted(|root| drop(Tool::new("chmod").arg("750").arg(root).run()));
    image.apply([more("old"), more("new"), vec![write("/old/1000", Attributes::default())]].concat()).unwrap();
    image.assert_clean();
}

/// All that a folder may pass on but direct access, which a disk must be able to, and some that it keeps.
const FLAGS: &[u32] = &[0x2002_C4CF, 0x2003_0000, 0x80, 0x48, 0x2000_0000];

#[test]
fn new_files_have_the_flags_that_linux_gives_them() {
    for arguments in ["-b 1024 -O metadata_csum", "-b 4096 -I 512 -O ^metadata_csum", "-t ext2 -b 1024"] {
        let image = Image::with(20 << 20, arguments, None);
        let folders =
            (0..FLAGS.len()).map(|at| Edit::CreateDir { path: path(&format!("/{at}")), attributes: Attributes::default() });
        image.apply(folders.collect()).unwrap();
        for (at, flags) in FLAGS.iter().enumerate() {
            let kept = if arguments.contains("ext2") { 0 } else { 0x8_0000 };
            image.debugfs_write(&format!("sif /{at} flags {:#x}", flags | kept));
        }
        let long = "t".repeat(70);
        image.mounted(|root| {
            for at in 0..FLAGS.len() {
                let folder = root.join(at.to_string());
                Tool::new("mkdir").arg(folder.join("theirs-d")).run();
                std::fs::write(folder.join("theirs-f"), "text").unwrap();
                Tool::new("ln").args(["-s", "t"]).arg(folder.join("theirs-s")).run();
                Tool::new("ln").args(["-s", &long]).arg(folder.join("theirs-l")).run();
                Tool::new("mkfifo").arg(folder.join("theirs-p")).run();
            }
        });
        let attributes = Attributes::default;
        let edits = (0..FLAGS.len()).flat_map(|at| {
            let ours = |kind| path(&format!("/{at}/ours-{kind}"));
            [
                Edit::CreateDir { path: ours("d"), attributes: attributes() },
                Edit::Write { path: ours("f"), content: "text".into(), attributes: attributes() },
                Edit::Symlink { path: ours("s"), target: "t".to_owned(), attributes: attributes() },
                Edit::Symlink { path: ours("l"), target: long.clone(), attributes: attributes() },
                Edit::MakeNode { path: ours("p"), node: Node::Fifo, attributes: attributes() },
            ]
        });
        image.apply(edits.collect()).unwrap();
        image.assert_clean();
        for (at, kept) in FLAGS.iter().enumerate() {
            for kind in ["d", "f", "s", "l", "p"] {
                let flags = |whose: &str| {
                    let text = image.debugfs(&format!("stat /{at}/{whose}-{kind}"));
                    text.split_once("Flags: ").unwrap().1.split_whitespace().next().unwrap().to_owned()
                };
                assert_eq!(flags("ours"), flags("theirs"), "{arguments}: {kind} in a folder of {kept:#x}");
            }
        }
    }
}

#[test]
fn a_folder_has_as_many_folders_as_linux_has() {
    let image = Image::with(20 << 20, "-b 1024 -O ^dir_nlink -N 8192", None);
    let empty = |at| Edit::Write { path: path(&format!("/many/{at}")), content: "".into(), attributes: Attributes::default() };
    let folder = |name: &str| Edit::CreateDir { path: path(name), attributes: Attributes::default() };
    // So many that nobody counts what is in the folder.
    image.apply((0..4100).map(empty).chain([folder("/d")]).collect()).unwrap();
    image.debugfs_write("sif /d links_count 64998");
    let error = image.apply(vec![folder("/d/1"), folder("/d/2"), folder("/d/3")]).unwrap_err().to_string();
    assert!(error.contains("64,998"), "{error}");
    image.apply(vec![folder("/d/1"), folder("/d/2")]).unwrap();
    assert!(image.debugfs("stat /d").contains("Links: 65000"));
}

#[test]
fn a_file_of_terabytes_costs_what_it_holds() {
    let image = Image::with(40 << 20, "-b 4096 -O metadata_csum,64bit", None);
    let file = image.folder.path().join("sparse");
    std::fs::write(&file, "start").unwrap();
    let size = (2 << 40) + 12_345;
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(size).unwrap();
    let mut tail = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    std::io::Write::write_all(&mut tail, b"end").unwrap();
    let content = Content::Disk(Arc::new(FileDisk::open(&file, Access::Read).unwrap()));
    let begun = Instant::now();
    image.apply(vec![Edit::Write { path: path("/sparse"), content, attributes: Attributes::default() }]).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    image.assert_clean();
    image.mounted(|root| {
        let metadata = root.join("sparse").metadata().unwrap();
        assert_eq!(metadata.len(), size + 3);
        assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) < 100);
        Tool::new("cmp").arg("-n").arg("70000").arg(&file).arg(root.join("sparse")).run();
        let end = (size - 70_000).to_string();
        Tool::new("cmp").args(["-i", &end]).arg(&file).arg(root.join("sparse")).run();
    });
}
