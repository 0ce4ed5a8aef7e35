//! What Linux and e2fsck take for granted of an inode or a count, and no checksum says.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgcore::block::Staged;
use imgcore::fs::ext4::{Editor, Ext4, Timestamp};
use imgcore::fs::{Attributes, Content, Edit, EditPlan};
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
fn reserved_inodes_in_a_second_group_are_refused_by_name() {
    let image = Image::with(20 << 20, "-b 1024 -N 16", None);
    let error = image.apply(vec![write("/a", Attributes::default())]).unwrap_err().to_string();
    assert!(error.contains("reserved inodes behind its first group of 8"), "{error}");
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
