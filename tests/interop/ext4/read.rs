use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Attributes, Edit, Error, FileKind, FileSystem as _};
use vmimg_tests::tool::Tool;

use super::{Image, SHAPES, path};

fn tree(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    fs::write(root.join("etc/hostname"), "guest\n").unwrap();
    fs::write(root.join("etc/empty"), "").unwrap();
    fs::write(root.join("etc/deep/er/big"), (0..300_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    fs::set_permissions(root.join("etc/hostname"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("/etc/hostname", root.join("absolute")).unwrap();
    symlink("../../../../etc/deep/../hostname", root.join("etc/climber")).unwrap();
    symlink(format!("./{}etc", "./".repeat(60)), root.join("slow")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(9_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 5_000_000).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..700 {
        fs::write(root.join(format!("many/a-file-with-a-rather-long-name-{number:04}")), number.to_string()).unwrap();
    }
}

#[test]
fn a_tree_of_mke2fs_reads_back_in_every_shape() {
    let source = tempfile::tempdir().unwrap();
    tree(source.path());
    for (shape, ..) in SHAPES {
        let image = Image::make(shape, Some(source.path()));
        let ext4 = Ext4::open(image.disk()).unwrap();
        let read = |name: &str| ext4.read(&path(name), 1 << 24).unwrap();
        for name in ["/etc/hostname", "/absolute", "/etc/climber", "/slow/hostname"] {
            assert_eq!(read(name), b"guest\n", "{shape}: {name}");
        }
        assert_eq!(read("/etc/empty"), b"");
        assert_eq!(read("/etc/deep/er/big"), fs::read(source.path().join("etc/deep/er/big")).unwrap(), "{shape}");
        // With inline_data, mke2fs 1.47.0 forgets the hole at the end.
        let whole = fs::read(source.path().join("sparse")).unwrap();
        let stored = read("/sparse");
        assert!(whole.starts_with(&stored) && (stored.len() == whole.len() || shape.starts_with("inline")), "{shape}");
        let hostname = ext4.metadata(&path("/absolute")).unwrap();
        assert_eq!((hostname.kind, hostname.mode, hostname.size), (FileKind::File, 0o640, 6));
        assert_eq!(ext4.symlink_metadata(&path("/absolute")).unwrap().kind, FileKind::Symlink);
        assert_eq!(ext4.read_link(&path("/absolute")).unwrap(), b"/etc/hostname");
        assert!(matches!(ext4.metadata(&path("/loop")), Err(Error::TooManyLinks(_))));
        assert!(matches!(ext4.read(&path("/etc"), 9), Err(Error::WrongKind { kind: FileKind::Directory, .. })));
        assert!(matches!(ext4.read(&path("/etc/hostname"), 5), Err(Error::TooLarge { size: 6, limit: 5, .. })));
        assert!(matches!(ext4.read(&path("/etc/none/x"), 5), Err(Error::NotFound(_))));
        assert!(matches!(ext4.read(&path("/etc/hostname/x"), 5), Err(Error::WrongKind { .. })));
        let many = ext4.read_dir(&path("/many")).unwrap();
        assert_eq!(many.len(), 700, "{shape}");
        assert_eq!(many[9].name, b"a-file-with-a-rather-long-name-0009");
    }
}

#[test]
fn attributes_that_debugfs_set_read_back_from_the_inode_and_from_the_block() {
    let image = Image::make("debian-12", None);
    let value = "v".repeat(1500);
    let script = format!("mkdir d\nea_set d user.short one\nea_set d user.long {value}\nsif d uid_high 1\nsif d uid 2\n");
    let commands = image.folder.path().join("commands");
    fs::write(&commands, script).unwrap();
    Tool::new("debugfs").arg("-w").arg("-f").arg(&commands).arg(&image.path).run();
    let ext4 = Ext4::open(image.disk()).unwrap();
    let xattr = |name: &str| ext4.xattr(&path("/d"), name).unwrap();
    assert_eq!(xattr("user.short").as_deref(), Some(&b"one"[..]));
    assert_eq!(xattr("user.long").as_deref(), Some(value.as_bytes()));
    assert_eq!(xattr("user.none"), None);
}

#[test]
fn what_cannot_be_changed_safely_is_refused_by_name() {
    for (arguments, word) in [("-o hurd -t ext2", "Hurd"), ("-o hurd -t ext2 -b 1024", "Hurd")] {
        let image = Image::with(64 << 20, arguments, None);
        let before = image.disk();
        let error = image.apply(vec![]).unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains(word), "{arguments}: {error}");
        assert_eq!(image.disk(), before);
    }
    let image = Image::make("features", None);
    image.apply(vec![]).unwrap();
    let block: u64 =
        image.debugfs("dump_mmp").split("block_number: ").nth(1).unwrap().lines().next().unwrap().trim().parse().unwrap();
    let file = fs::File::options().write(true).open(&image.path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7, 0, 0, 0], block * 1024 + 4).unwrap();
    let error = image.apply(vec![]).unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("in use"), "{error}");
    let image = Image::with(20 << 20, "-O casefold", None);
    image.apply(vec![Edit::CreateDir { path: path("/d"), attributes: Attributes::default() }]).unwrap();
    image.debugfs_write("sif /d flags 0x40080000");
    let below = Edit::CreateDir { path: path("/d/e"), attributes: Attributes::default() };
    let error = image.apply(vec![below]).unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("case"), "{error}");
    for (command, word) in [
        ("ssv state 0", "errors"),
        ("feature read-only", "read-only"),
        ("feature shared_blocks", "shared_blocks"),
        ("feature dirdata", "dirdata"),
        ("feature journal_dev", "journal_dev"),
    ] {
        let image = Image::make("debian-12", None);
        Tool::new("debugfs").args(["-w", "-R", command]).arg(&image.path).run();
        let error = image.apply(vec![]).unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains(word), "{command}: {error}");
    }
}
