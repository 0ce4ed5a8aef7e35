use std::collections::BTreeMap;

use imgcore::block::{BlockWrite as _, MemoryDisk, Resize as _, Staged};
use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Attributes, Content, Edit, Error, FileSystem as _};
use std::sync::Arc;

use super::{Image, SHAPES, path};

fn write(name: &str, content: impl Into<Content>, attributes: Attributes) -> Edit {
    Edit::Write { path: path(name), content: content.into(), attributes }
}

fn symlink(name: &str, target: &str) -> Edit {
    Edit::Symlink { path: path(name), target: target.to_owned(), attributes: Attributes::default() }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

#[test]
fn a_seed_of_every_kind_of_edit_is_clean_and_reads_back_in_every_shape() {
    for (shape, ..) in SHAPES {
        let image = Image::make(shape, None);
        let label = b"system_u:object_r:etc_t:s0\0".to_vec();
        let long = BTreeMap::from([("security.selinux".to_owned(), label.clone()), ("user.long".to_owned(), pattern(700))]);
        let attributes = Attributes { mtime: Some(5), xattrs: long, ..Attributes::owned(0o4750, 4_000_000_000, 70_000) };
        image
            .apply(vec![
                write("/etc/hostname", "web1\n", Attributes::default()),
                write("/etc/special", pattern(9000), attributes.clone()),
                write("/etc/empty", "", Attributes::root(0o600)),
                Edit::CreateDir { path: path("/home/admin/.ssh"), attributes: Attributes::owned(0o700, 1000, 1000) },
                Edit::AppendLine {
                    path: path("/home/admin/.ssh/authorized_keys"),
                    line: "ssh-ed25519 AAAA one".to_owned(),
                    attributes: Attributes::owned(0o600, 1000, 1000),
                },
                symlink("/etc/fast", "hostname"),
                symlink("/etc/slow", &"s".repeat(60)),
                symlink("/usr-link", "/usr/local"),
                write("/usr-link/bin/tool", pattern(70_000), Attributes::root(0o755)),
            ])
            .unwrap_or_else(|error| panic!("{shape}: {error}"));
        image.assert_clean();
        image
            .apply(vec![
                write("/etc/hostname", pattern(5000), Attributes::default()),
                symlink("/etc/fast", "/etc/special"),
                write("/etc/fast", "through the link", Attributes::default()),
                Edit::Remove { path: path("/usr/local/bin") },
                Edit::Remove { path: path("/nothing/there") },
                Edit::SetAttributes { path: path("/etc/empty"), attributes: Attributes::owned(0o640, 1, 2) },
                Edit::AppendLine {
                    path: path("/home/admin/.ssh/authorized_keys"),
                    line: "ssh-ed25519 AAAA one".to_owned(),
                    attributes: Attributes::default(),
                },
            ])
            .unwrap_or_else(|error| panic!("{shape}: {error}"));
        image.assert_clean();
        let ext4 = Ext4::open(image.disk()).unwrap();
        let special = ext4.metadata(&path("/etc/special")).unwrap();
        assert_eq!((special.mode, special.uid, special.gid), (0o4750, 4_000_000_000, 70_000), "{shape}");
        assert_eq!(ext4.xattr(&path("/etc/special"), "security.selinux").unwrap(), Some(label), "{shape}");
        assert_eq!(image.debugfs("cat /etc/special"), "through the link");
        assert_eq!(image.debugfs("cat /home/admin/.ssh/authorized_keys"), "ssh-ed25519 AAAA one\n");
        assert!(image.debugfs("ea_list /etc/special").contains("user.long (700)"), "{shape}");
        assert!(image.debugfs("stat /etc/empty").contains("Mode:  0640"), "{shape}");
        assert!(!image.debugfs("ls -p /usr/local").contains("/bin/"), "{shape}");
    }
}

#[test]
fn a_folder_grows_by_hundreds_of_names_and_shrinks_again() {
    for (shape, ..) in SHAPES {
        let image = Image::make(shape, None);
        let name = |number: usize| format!("/var/lib/many/some-rather-long-file-name-{number:04}");
        image.apply((0..300).map(|at| write(&name(at), at.to_string().as_str(), Attributes::default())).collect()).unwrap();
        image.assert_clean();
        image.apply((0..300).step_by(3).map(|at| Edit::Remove { path: path(&name(at)) }).collect()).unwrap();
        image.assert_clean();
        let ext4 = Ext4::open(image.disk()).unwrap();
        assert_eq!(ext4.read_dir(&path("/var/lib/many")).unwrap().len(), 200, "{shape}");
        image.apply(vec![Edit::Remove { path: path("/var") }]).unwrap();
        image.assert_clean();
    }
}

#[test]
fn an_indexed_folder_of_e2fsck_takes_names_until_its_index_is_built_anew() {
    let hashes = ["legacy", "half_md4", "tea"].into_iter().cycle();
    for ((shape, ..), hash) in SHAPES
        .iter()
        .filter(|(.., given)| !given.contains("^dir_index") && !given.contains("-b 65536") && !given.contains("-b 16384"))
        .zip(hashes)
    {
        let image = Image::make(shape, None);
        image.debugfs_write(&format!("ssv def_hash_version {hash}"));
        let name = |number: usize| format!("/big/{}-{number:05}-\u{e9}", "n".repeat(number % 90));
        let fill = |range: std::ops::Range<usize>| range.map(|at| write(&name(at), "", Attributes::default())).collect();
        image.apply(fill(0..200)).unwrap();
        image.index_folders();
        assert!(image.debugfs("htree_dump /big").contains("Root node dump"), "{shape}");
        image.apply(fill(200..450)).unwrap();
        image.assert_clean();
        image.apply((0..450).step_by(2).map(|at| Edit::Remove { path: path(&name(at)) }).collect()).unwrap();
        image.apply(fill(450..500)).unwrap();
        image.assert_clean();
        assert!(image.debugfs("stat /big").lines().any(|line| line.contains("Flags: 0x") && line.ends_with("1000")), "{shape}");
        let ext4 = Ext4::open(image.disk()).unwrap();
        assert_eq!(ext4.read_dir(&path("/big")).unwrap().len(), 275, "{shape}, {hash}");
    }
}

#[test]
fn a_file_system_of_revision_0_takes_all_but_extended_attributes() {
    let image = Image::with(20 << 20, "-t ext2 -r 0 -b 1024", None);
    image
        .apply((0..300).map(|at| write(&format!("/many/file-{at}"), pattern(at * 9), Attributes::default())).collect())
        .unwrap();
    image
        .apply(vec![write("/large", pattern(900_000), Attributes::owned(0o600, 70_000, 3)), symlink("/link", "large")])
        .unwrap();
    image.assert_clean();
    assert!(image.debugfs("stat /link").contains("Fast link dest: \"large\""));
    image.apply(vec![Edit::Remove { path: path("/many") }, write("/large", "small", Attributes::default())]).unwrap();
    image.assert_clean();
    let label = Attributes { xattrs: BTreeMap::from([("user.a".to_owned(), vec![1])]), ..Attributes::default() };
    let error = image.apply(vec![write("/large", "", label)]).unwrap_err();
    assert!(error.to_string().contains("revision 0"), "{error}");
}

#[test]
fn a_block_map_reaches_into_its_double_and_triple_indirect_blocks() {
    for arguments in ["-t ext3 -b 1024 -I 128", "-t ext2 -b 4096", "-b 2048 -O ^extent,^64bit"] {
        let image = Image::with(40 << 20, arguments, None);
        let free = image.debugfs("show_super_stats -h");
        let mut source = MemoryDisk::default();
        source.resize(70_000_000).unwrap();
        let mut source = Staged::new(source);
        let all = imgcore::block::ByteRange::new(0, 70_000_000).unwrap();
        source.write_zeroes_at(all, imgcore::block::Hole::Allow).unwrap();
        for at in [0, 11_000, 13_000, 300_000, 68_000_000, 69_999_000] {
            source.write_all_at(&pattern(1000), at).unwrap();
        }
        let dense = pattern(2_000_000);
        let edits = vec![
            write("/sparse", Content::Disk(Arc::new(source)), Attributes::default()),
            write("/dense", dense.clone(), Attributes::default()),
        ];
        image.apply(edits).unwrap_or_else(|error| panic!("{arguments}: {error}"));
        image.assert_clean();
        let copy = image.folder.path().join("copy");
        image.debugfs(&format!("dump /dense {}", copy.display()));
        assert!(std::fs::read(&copy).unwrap() == dense, "{arguments}");
        image.debugfs(&format!("dump /sparse {}", copy.display()));
        assert!(std::fs::read(&copy).unwrap()[68_000_000..68_001_000] == pattern(1000), "{arguments}");
        image.apply(vec![Edit::Remove { path: path("/dense") }, Edit::Remove { path: path("/sparse") }]).unwrap();
        image.assert_clean();
        let counts = |text: &str| text.lines().find(|line| line.starts_with("Free blocks")).unwrap().to_owned();
        assert_eq!(counts(&image.debugfs("show_super_stats -h")), counts(&free), "{arguments}");
    }
}

#[test]
fn files_that_are_one_hole_are_put_where_there_are_block_maps() {
    for arguments in ["-t ext2 -b 1024", "-t ext3 -b 4096"] {
        let image = Image::with(20 << 20, arguments, None);
        let hole = |size| {
            let mut disk = Staged::new(MemoryDisk::default());
            disk.resize(size).unwrap();
            Content::Disk(Arc::new(disk))
        };
        // Within the inode's own pointers, behind them, and behind each kind of indirect block.
        for size in [1, 12_288, 12_289, 100_000, 5_000_000, 80_000_000] {
            let name = format!("/hole-{size}");
            let edit = write(&name, hole(size), Attributes::default());
            image.apply(vec![edit]).unwrap_or_else(|error| panic!("{arguments}, {size}: {error}"));
            assert!(image.debugfs(&format!("stat {name}")).contains("Blockcount: 0\n"), "{name}");
        }
        image.assert_clean();
    }
}

#[test]
fn a_block_map_that_runs_in_a_circle_or_out_of_the_file_system_is_an_error() {
    let image = Image::with(20 << 20, "-t ext2 -b 1024", None);
    image.apply(vec![write("/large", pattern(3_000_000), Attributes::default())]).unwrap();
    let double: u32 =
        image.debugfs("stat /large").split("(DIND):").nth(1).unwrap().split([',', '\n']).next().unwrap().parse().unwrap();
    let size = 3_000_000;
    for (field, value) in [("block[IND]", double), ("block[TIND]", double), ("block[3]", 1 << 30), ("block[DIND]", 20_480)] {
        let damaged = Image::with(20 << 20, "-t ext2 -b 1024", None);
        std::fs::copy(&image.path, &damaged.path).unwrap();
        damaged.debugfs_write(&format!("sif /large {field} {value}"));
        let ext4 = Ext4::open(damaged.disk()).unwrap();
        let error = ext4.read(&path("/large"), size).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("block map"), "{field}: {error}");
        assert!(damaged.apply(vec![Edit::Remove { path: path("/large") }]).is_err(), "{field}");
    }
    // Two files with one block: the first takes it along, the second says so.
    image.apply(vec![write("/other", pattern(5000), Attributes::default())]).unwrap();
    let block = image.debugfs("blocks /other").split_whitespace().next().unwrap().to_owned();
    image.debugfs_write(&format!("sif /large block[0] {block}"));
    let both = vec![Edit::Remove { path: path("/large") }, Edit::Remove { path: path("/other") }];
    assert!(matches!(image.apply(both), Err(Error::Corrupt { .. })));
}

#[test]
fn a_time_behind_2038_does_not_fit_an_inode_of_128_bytes() {
    let image = Image::make("cirros", None);
    let late = Attributes { mtime: Some(2_200_000_000), ..Attributes::default() };
    let before = image.disk();
    let error = image.apply(vec![write("/late", "", late)]).unwrap_err();
    assert!(matches!(error, Error::Unrepresentable { .. }) && error.to_string().contains("2200000000"), "{error}");
    assert_eq!(image.disk(), before);
}

#[test]
fn a_sparse_source_stays_sparse_and_a_scattered_file_gets_a_deep_tree() {
    let image = Image::make("one-kilobyte", None);
    let mut source = MemoryDisk::default();
    source.resize(6_000_000).unwrap();
    let mut source = Staged::new(source);
    source.write_zeroes_at(imgcore::block::ByteRange::new(0, 6_000_000).unwrap(), imgcore::block::Hole::Allow).unwrap();
    for at in 0..500_u64 {
        source.write_all_at(&[at as u8 | 1; 100], at * 12_288 % 6_000_000).unwrap();
    }
    let mut expected = vec![0; 6_000_000];
    imgcore::block::BlockRead::read_exact_at(&source, &mut expected, 0).unwrap();
    let content = Content::Disk(Arc::new(source));
    image.apply(vec![Edit::Write { path: path("/sparse"), content, attributes: Attributes::default() }]).unwrap();
    image.assert_clean();
    assert!(Ext4::open(image.disk()).unwrap().read(&path("/sparse"), 1 << 23).unwrap() == expected);
    assert!(image.debugfs("ex /sparse").contains("2/ 2"), "the tree has three levels");
}

#[test]
fn a_full_file_system_says_so_and_is_left_as_it_was() {
    let image = Image::make("small-boot", None);
    let before = image.disk();
    let error =
        image.apply(vec![write("/fits", "x", Attributes::default()), write("/big", pattern(60 << 20), Attributes::default())]);
    assert!(matches!(error, Err(Error::NoSpace(_))));
    let many = (0..20_000).map(|at| write(&format!("/d/{at}"), "", Attributes::default())).collect();
    assert!(matches!(image.apply(many), Err(Error::NoSpace(_))));
    assert_eq!(image.disk(), before);
}

#[test]
fn a_file_keeps_inode_owner_mode_attributes_and_links_when_it_is_rewritten() {
    let image = Image::make("debian-12", None);
    let xattrs = BTreeMap::from([("user.kept".to_owned(), b"yes".to_vec())]);
    image.apply(vec![write("/a", pattern(9000), Attributes { xattrs, ..Attributes::owned(0o751, 7, 8) })]).unwrap();
    image.debugfs_write("ln /a /b");
    image.debugfs_write("sif /a links_count 2");
    image.debugfs_write("ea_set /a system.posix_acl_access -f /dev/null");
    let before = Ext4::open(image.disk()).unwrap().metadata(&path("/a")).unwrap();
    image.apply(vec![write("/b", "new", Attributes::default())]).unwrap();
    let ext4 = Ext4::open(image.disk()).unwrap();
    let after = ext4.metadata(&path("/a")).unwrap();
    assert_eq!((after.inode, after.mode, after.uid, after.gid, after.links), (before.inode, 0o751, 7, 8, 2));
    assert_eq!(ext4.read(&path("/a"), 10).unwrap(), b"new");
    assert_eq!(ext4.xattr(&path("/a"), "user.kept").unwrap().as_deref(), Some(&b"yes"[..]));
    image.assert_clean();
    image.apply(vec![Edit::Remove { path: path("/a") }]).unwrap();
    image.assert_clean();
    assert_eq!(image.debugfs("cat /b"), "new");
}

#[test]
fn a_file_that_the_guest_protects_is_refused() {
    for (flag, word) in [("0x80010", "immutable"), ("0x80020", "append-only"), ("0x180000", "verity"), ("0x80800", "encrypted")]
    {
        let image = Image::make("debian-12", None);
        image.apply(vec![write("/d/kept", "old", Attributes::default())]).unwrap();
        image.debugfs_write(&format!("sif /d/kept flags {flag}"));
        for edit in [write("/d/kept", "new", Attributes::default()), Edit::Remove { path: path("/d") }] {
            let error = image.apply(vec![edit]).unwrap_err();
            assert!(matches!(error, Error::Refused(_)) && error.to_string().contains(word), "{error}");
        }
        assert_eq!(image.debugfs("cat /d/kept"), "old");
    }
}

#[test]
fn new_files_take_the_group_of_a_setgid_folder() {
    let image = Image::make("debian-12", None);
    let folder = Attributes::owned(0o2775, 0, 50);
    image
        .apply(vec![
            Edit::CreateDir { path: path("/shared"), attributes: folder },
            write("/shared/below/file", "x", Attributes::default()),
        ])
        .unwrap();
    let ext4 = Ext4::open(image.disk()).unwrap();
    let below = ext4.metadata(&path("/shared/below")).unwrap();
    assert_eq!((below.mode, below.gid), (0o2755, 50));
    assert_eq!(ext4.metadata(&path("/shared/below/file")).unwrap().gid, 50);
    image.assert_clean();
}
