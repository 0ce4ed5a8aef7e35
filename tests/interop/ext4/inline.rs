//! Files and folders that lie in their inode: Linux and mke2fs make them.

use std::collections::BTreeMap;
use std::fs;

use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Attributes, Content, Edit, FileSystem as _};

use super::{Image, path};

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 5 % 251) as u8).collect()
}

fn write(name: &str, content: Vec<u8>) -> Edit {
    Edit::Write { path: path(name), content: Content::from(content), attributes: Attributes::default() }
}

/// Sizes around the limits of what an inode holds.
const SIZES: &[usize] = &[0, 1, 59, 60, 61, 100, 156, 160, 161, 800];

fn made_by_linux(arguments: &str) -> Image {
    let image = Image::with(20 << 20, arguments, None);
    image.mounted(|root| {
        for len in SIZES {
            fs::write(root.join(format!("file-{len}")), bytes(*len)).unwrap();
        }
        for names in [0, 1, 3, 9] {
            let folder = root.join(format!("folder-{names}"));
            fs::create_dir(&folder).unwrap();
            for name in 0..names {
                fs::write(folder.join(format!("name-{name}")), name.to_string()).unwrap();
            }
            fs::create_dir(folder.join("below")).unwrap();
        }
        std::os::unix::fs::symlink(format!("./{}folder-3", "./".repeat(30)), root.join("link")).unwrap();
    });
    image
}

#[test]
fn what_linux_keeps_in_inodes_is_read_and_changed() {
    for arguments in
        ["-b 1024 -I 256 -O inline_data", "-b 4096 -I 1024 -O inline_data", "-b 1024 -I 512 -O inline_data,^metadata_csum"]
    {
        let image = made_by_linux(arguments);
        let flags = image.debugfs("stat /folder-1");
        assert!(flags.contains("Flags: 0x10000000"), "{flags}");
        let ext4 = Ext4::open(image.disk()).unwrap();
        for len in SIZES {
            assert!(ext4.read(&path(&format!("/file-{len}")), 9999).unwrap() == bytes(*len), "{arguments}: {len}");
        }
        assert_eq!(ext4.read(&path("/link/name-2"), 9).unwrap(), b"2");
        for names in [0, 1, 3, 9] {
            assert_eq!(ext4.read_dir(&path(&format!("/folder-{names}"))).unwrap().len(), names + 1, "{arguments}");
        }
        let label = BTreeMap::from([("security.selinux".to_owned(), b"system_u:object_r:etc_t:s0\0".to_vec())]);
        let labelled = |name: &str| Edit::SetAttributes {
            path: path(name),
            attributes: Attributes { xattrs: label.clone(), ..Attributes::default() },
        };
        image
            .apply(vec![
                write("/file-1", bytes(50)),
                write("/file-100", bytes(5000)),
                Edit::AppendLine { path: path("/file-59"), line: "more".to_owned(), attributes: Attributes::default() },
                labelled("/file-60"),
                labelled("/folder-3"),
                Edit::Remove { path: path("/file-61") },
                Edit::Remove { path: path("/link/name-1") },
                write("/folder-3/new", bytes(3)),
                write("/folder-0/below/deep/new", bytes(3)),
                write("/folder-9/name-8", bytes(3)),
                Edit::Remove { path: path("/folder-1") },
                Edit::Symlink { path: path("/link"), target: "folder-9".to_owned(), attributes: Attributes::default() },
            ])
            .unwrap_or_else(|error| panic!("{arguments}: {error}"));
        image.assert_clean();
        image.mounted(|root| {
            let read = |name: &str| fs::read(root.join(name)).unwrap();
            assert_eq!((read("file-1"), read("file-100"), read("file-60")), (bytes(50), bytes(5000), bytes(60)), "{arguments}");
            assert!(read("file-59") == [bytes(59), b"\nmore\n".to_vec()].concat(), "{arguments}");
            assert_eq!(
                (read("folder-3/new"), read("folder-0/below/deep/new"), read("link/name-8")),
                (bytes(3), bytes(3), bytes(3))
            );
            let mut names: Vec<_> =
                fs::read_dir(root.join("folder-3")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["below", "name-0", "name-2", "new"]);
            assert!(!root.join("folder-1").exists() && !root.join("file-61").exists());
            fs::write(root.join("file-60"), bytes(70)).unwrap();
            fs::write(root.join("folder-3/more"), bytes(70)).unwrap();
        });
        image.assert_clean();
    }
}
