//! Names, nodes, access lists and what goes behind the end of a file.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use imgcore::block::{BlockRead, MemoryDisk};
use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Attributes, Content, Device, Edit, Error, FileKind, FileSystem, Node};

use super::{Image, SHAPES, path};

fn write(name: &str, content: impl Into<Content>) -> Edit {
    Edit::Write { path: path(name), content: content.into(), attributes: Attributes::default() }
}

fn rename(from: &str, to: &str) -> Edit {
    Edit::Rename { path: path(to), from: path(from) }
}

fn link(name: &str, target: &str) -> Edit {
    Edit::HardLink { path: path(name), target: path(target) }
}

fn folder(name: &str) -> Edit {
    Edit::CreateDir { path: path(name), attributes: Attributes::default() }
}

fn append(name: &str, content: impl Into<Content>) -> Edit {
    Edit::Append { path: path(name), content: content.into(), attributes: Attributes::default() }
}

fn node(name: &str, node: Node) -> Edit {
    Edit::MakeNode { path: path(name), node, attributes: Attributes::owned(0o620, 70_000, 5) }
}

#[test]
fn a_file_that_was_changed_by_another_name_gets_one_more() {
    let image = Image::make("inline", None);
    let plan =
        vec![write("/a", ""), link("/b", "/a"), write("/a", "later"), link("/c", "/b"), link("/d", "/c"), write("/c", "last")];
    image.apply(plan).unwrap();
    image.assert_clean();
    let files = Ext4::open(image.disk()).unwrap();
    for name in ["/a", "/b", "/c", "/d"] {
        assert_eq!(files.read(&path(name), 99).unwrap(), b"last", "{name}");
    }
}

#[test]
fn names_are_changed_and_added_in_every_shape() {
    for (shape, ..) in SHAPES {
        let image = Image::make(shape, None);
        let old = "old ".repeat(900);
        image.apply(vec![write("/a/b/c/file", &*old), write("/x/file", "other"), folder("/empty"), folder("/a/b/d")]).unwrap();
        image
            .apply(vec![
                rename("/a/b", "/x/y/b"),
                rename("/x/file", "/x/y/b/c/file"),
                link("/x/other", "/x/y/b/c/file"),
                link("/empty/third", "/x/other"),
                rename("/x/y/b/d", "/empty/d"),
                folder("/new"),
                rename("/new", "/x/y/b/c/new"),
                write("/gone", "gone"),
                rename("/gone", "/gone"),
                rename("/x/other", "/empty/third"),
            ])
            .unwrap();
        image.assert_clean();
        let files = Ext4::open(image.disk()).unwrap();
        assert_eq!(files.read(&path("/x/y/b/c/file"), 99).unwrap(), b"other", "{shape}");
        let (first, third) = (files.metadata(&path("/x/y/b/c/file")).unwrap(), files.metadata(&path("/empty/third")).unwrap());
        assert_eq!((first.inode, first.links), (third.inode, 2), "{shape}");
        for name in ["/a/b", "/x/file", "/x/other", "/new", "/x/y/b/d"] {
            assert!(matches!(files.metadata(&path(name)), Err(Error::NotFound(_))), "{shape}: {name}");
        }
        image.apply(vec![Edit::Remove { path: path("/x") }, Edit::Remove { path: path("/empty/third") }]).unwrap();
        image.assert_clean();
    }
}

#[test]
fn a_name_is_not_changed_where_linux_would_not() {
    let image = Image::make("debian-12", None);
    image.apply(vec![write("/d/e/f", "x"), write("/file", "y"), folder("/full/in"), folder("/empty")]).unwrap();
    let before = std::fs::read(&image.path).unwrap();
    for edit in [
        rename("/d", "/d/e/d"),
        rename("/d", "/d/new/d"),
        rename("/d", "/full"),
        rename("/d", "/file"),
        rename("/file", "/empty"),
        rename("/", "/empty"),
        rename("/none", "/other"),
        rename("/d", "/"),
        link("/other", "/d"),
        link("/d", "/file"),
        link("/other", "/none"),
        node("/d", Node::Fifo),
        node("/n", Node::CharDevice(Device { major: 4096, minor: 0 })),
        folder("/file"),
        append("/d", "x"),
    ] {
        assert!(image.apply(vec![edit.clone()]).is_err(), "{edit:?}");
    }
    assert!(std::fs::read(&image.path).unwrap() == before);
}

#[test]
fn large_folders_keep_their_index_when_they_move() {
    let image = Image::with(64 << 20, "-b 1024 -O metadata_csum", None);
    let names = |prefix: &str| (0..500).map(|at| write(&format!("/big/{prefix}-{at}"), "")).collect::<Vec<_>>();
    image.apply(names("a")).unwrap();
    image.apply(vec![rename("/big", "/sub/moved"), rename("/sub/moved/a-7", "/seven")]).unwrap();
    image.assert_clean();
    image
        .apply((0..400).map(|at| rename(&format!("/sub/moved/a-{}", at + 8), &format!("/sub/moved/b-{at}"))).collect())
        .unwrap();
    image.assert_clean();
    assert_eq!(Ext4::open(image.disk()).unwrap().read_dir(&path("/sub/moved")).unwrap().len(), 499);
}

#[test]
fn linux_sees_the_nodes_that_were_made() {
    let image = Image::make("debian-13", None);
    let devices = [("null", 1, 3), ("wide", 259, 1), ("far", 8, 300), ("zero", 0, 0)];
    let mut edits: Vec<Edit> = devices
        .iter()
        .map(|(name, major, minor)| node(&format!("/dev/{name}"), Node::BlockDevice(Device { major: *major, minor: *minor })))
        .collect();
    edits.extend([node("/dev/fifo", Node::Fifo), node("/dev/socket", Node::Socket), write("/dev/char", "x")]);
    edits.push(node("/dev/char", Node::CharDevice(Device { major: 5, minor: 1 })));
    image.apply(edits).unwrap();
    image.assert_clean();
    image.mounted(|root| {
        let number = |name: &str| {
            let metadata = root.join("dev").join(name).symlink_metadata().unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o620, 70_000, 5));
            // As glibc splits a device number.
            let number = metadata.rdev();
            (metadata.file_type(), number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xF_FF00)
        };
        for (name, major, minor) in devices {
            let (kind, ..) = number(name);
            assert!(kind.is_block_device());
            assert_eq!((number(name).1, number(name).2), (u64::from(major), u64::from(minor)), "{name}");
        }
        assert!(number("fifo").0.is_fifo() && number("socket").0.is_socket() && number("char").0.is_char_device());
    });
    let files = Ext4::open(image.disk()).unwrap();
    assert_eq!(files.node(&path("/dev/far")).unwrap(), Some(Node::BlockDevice(Device { major: 8, minor: 300 })));
    assert_eq!(files.metadata(&path("/dev/socket")).unwrap().kind, FileKind::Socket);
}

#[test]
fn what_is_appended_goes_behind_the_end_whatever_the_size() {
    for (shape, ..) in SHAPES {
        let image = Image::make(shape, None);
        let mut expected: Vec<u8> = Vec::new();
        let attributes = Attributes { mode: Some(0o640), ..Attributes::owned(0o640, 7, 8) };
        image.apply(vec![Edit::Write { path: path("/log"), content: Content::from("start\n"), attributes }]).unwrap();
        expected.extend(b"start\n");
        let inode = Ext4::open(image.disk()).unwrap().metadata(&path("/log")).unwrap().inode;
        for (at, len) in [(1, 3), (2, 1000), (3, 5000), (4, 70_000), (5, 1), (6, 0), (7, 4096)] {
            let more = vec![at; len];
            let content =
                if at % 2 == 0 { Content::Disk(Arc::new(MemoryDisk::new(more.clone()))) } else { more.clone().into() };
            image.apply(vec![append("/log", content), append("/log", "+")]).unwrap();
            expected.extend(more);
            expected.push(b'+');
        }
        image.assert_clean();
        let files = Ext4::open(image.disk()).unwrap();
        let metadata = files.metadata(&path("/log")).unwrap();
        assert_eq!((metadata.inode, metadata.mode, metadata.uid), (inode, 0o640, 7), "{shape}");
        assert!(files.read(&path("/log"), 1 << 20).unwrap() == expected, "{shape}");
        let file = files.open_file(&path("/log")).unwrap();
        let mut part = vec![0; 5000];
        file.read_exact_at(&mut part, 3000).unwrap();
        assert!(part == expected[3000..8000] && file.read_exact_at(&mut part, file.size() - 4999).is_err());
    }
}

#[test]
fn access_lists_and_capabilities_are_what_linux_reads() {
    let image = Image::make("debian-12", None);
    // user::rwx user:7:rw- group::r-x mask::rwx other::r--
    let list = |bits: [u8; 5]| {
        let mut bytes = vec![2, 0, 0, 0];
        for ((tag, number), bits) in [(1, u32::MAX), (2, 7), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)].iter().zip(bits) {
            bytes.extend([*tag, 0, bits, 0]);
            bytes.extend(number.to_le_bytes());
        }
        bytes
    };
    let with = |name: &str, value: Vec<u8>| Attributes { xattrs: [(name.to_owned(), value)].into(), ..Attributes::default() };
    let capability = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    image
        .apply(vec![
            Edit::CreateDir { path: path("/shared"), attributes: with("system.posix_acl_default", list([7, 7, 5, 7, 5])) },
            write("/shared/new", "x"),
            folder("/shared/sub"),
            Edit::Write {
                path: path("/file"),
                content: Content::from("x"),
                attributes: with("system.posix_acl_access", list([6, 6, 4, 6, 0])),
            },
            Edit::Write {
                path: path("/ping"),
                content: Content::from("x"),
                attributes: with("security.capability", capability.clone()),
            },
        ])
        .unwrap();
    let wrong = with("system.posix_acl_default", list([7, 7, 5, 7, 5]));
    assert!(image.apply(vec![Edit::SetAttributes { path: path("/file"), attributes: wrong }]).is_err());
    image.assert_clean();
    image.mounted(|root| {
        let xattr = |name: &str, key: &str| getfattr(&root.join(name), key);
        assert_eq!(xattr("shared", "system.posix_acl_default"), list([7, 7, 5, 7, 5]));
        assert_eq!(xattr("shared/sub", "system.posix_acl_default"), list([7, 7, 5, 7, 5]));
        assert_eq!(xattr("shared/new", "system.posix_acl_access"), list([6, 7, 5, 4, 4]));
        assert_eq!(xattr("file", "system.posix_acl_access"), list([6, 6, 4, 6, 0]));
        assert_eq!(root.join("file").metadata().unwrap().mode() & 0o777, 0o660);
        assert_eq!(xattr("ping", "security.capability"), capability);
    });
    let all = Ext4::open(image.disk()).unwrap().xattrs(&path("/file")).unwrap();
    assert_eq!(all[&b"system.posix_acl_access"[..]], list([6, 6, 4, 6, 0]));
}

fn getfattr(file: &Path, name: &str) -> Vec<u8> {
    let program = "import os, sys; print(os.getxattr(sys.argv[1], sys.argv[2]).hex())";
    let hex = vmimg_tests::tool::Tool::new("python3").args(["-c", program]).arg(file).arg(name).run();
    let digits: Vec<u8> = hex.trim().bytes().map(|digit| char::from(digit).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn a_link_to_a_folder_is_a_folder_to_mkdir() {
    let image = Image::make("debian-12", None);
    let symlink = |name: &str, target: &str| Edit::Symlink {
        path: path(name),
        target: target.to_owned(),
        attributes: Attributes::default(),
    };
    image
        .apply(vec![
            folder("/usr/bin"),
            symlink("/bin", "usr/bin"),
            symlink("/dead", "nowhere"),
            folder("/bin"),
            folder("/bin/x"),
        ])
        .unwrap();
    assert!(image.apply(vec![folder("/dead")]).is_err());
    let files = Ext4::open(image.disk()).unwrap();
    assert_eq!(files.symlink_metadata(&path("/bin")).unwrap().kind, FileKind::Symlink);
    assert_eq!(files.metadata(&path("/usr/bin/x")).unwrap().kind, FileKind::Directory);
}

#[test]
fn times_reach_as_far_as_the_inode() {
    let at = |secs| {
        let attributes = Attributes { mtime: Some(secs), ..Attributes::default() };
        vec![Edit::Write { path: path("/f"), content: Content::from("x"), attributes }]
    };
    let wide = Image::make("debian-12", None);
    wide.apply(at(15_032_385_535)).unwrap();
    wide.assert_clean();
    wide.mounted(|root| assert_eq!(root.join("f").metadata().unwrap().mtime(), 15_032_385_535));
    assert!(wide.apply(at(15_032_385_536)).is_err());
    let narrow = Image::make("small-boot", None);
    narrow.apply(at(2_147_483_647)).unwrap();
    assert!(matches!(narrow.apply(at(2_147_483_648)), Err(Error::Unrepresentable { .. })));
}
