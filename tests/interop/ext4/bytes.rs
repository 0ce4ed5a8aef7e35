use imgcore::block::{BlockRead as _, BlockWrite as _, MemoryDisk, Staged};
use imgcore::fs::ext4::{Editor, Ext4};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, FileSystem as _};
use proptest::prelude::{any, proptest};
use proptest::test_runner::Config;

use super::{Image, NOW, path};

/// A small file system without checksums, so that changed bytes reach the code behind them.
fn victim() -> Vec<u8> {
    let image = Image::with(2 << 20, "-b 1024 -O ^metadata_csum,^uninit_bg,^has_journal,^resize_inode -N 64", None);
    let mut edits: Vec<Edit> = (0..20)
        .map(|at| Edit::Write {
            path: path(&format!("/d/e/file-{at}")),
            content: Content::from(vec![at; 3000]),
            attributes: Attributes { xattrs: [("user.a".to_owned(), vec![1; 60])].into(), ..Attributes::default() },
        })
        .collect();
    let target = "/d/e/".repeat(20);
    edits.push(Edit::Symlink { path: path("/l"), target, attributes: Attributes::default() });
    image.apply(edits).unwrap();
    image.index_folders();
    image.disk().into_bytes()
}

proptest! {
    #![proptest_config(Config { cases: 1, max_shrink_iters: 0, ..Config::default() })]
    #[test]
    fn no_bytes_of_a_disk_make_reading_or_editing_panic(changes in proptest::collection::vec(
        proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8), 400)) {
        let sound = MemoryDisk::new(victim());
        // The superblock, the descriptors, the bitmaps and the used part of the inode table, then the folders.
        let metadata: Vec<usize> = (1024..1100).chain(1100..1400).chain(2048..2112).chain((3 << 10)..(14 << 10)).chain(20 << 10..40 << 10).collect();
        for change in changes {
            let mut disk = Staged::new(&sound);
            for (at, byte) in change {
                disk.write_all_at(&[byte], metadata[usize::from(at) % metadata.len()] as u64).unwrap();
            }
            if let Ok(ext4) = Ext4::open(&disk) {
                let mut folders = vec![path("/")];
                let mut seen = 0;
                while let Some(folder) = folders.pop() {
                    for entry in ext4.read_dir(&folder).unwrap_or_default() {
                        seen += 1;
                        let Ok(name) = String::from_utf8(entry.name) else { continue };
                        let Ok(child) = folder.join(&name) else { continue };
                        let _ = ext4.read(&child, 1 << 20);
                        let _ = ext4.read_link(&child);
                        let _ = ext4.xattr(&child, "user.a");
                        if seen < 60 {
                            folders.push(child);
                        }
                    }
                }
            }
            let plan = EditPlan {
                edits: vec![
                    Edit::Write { path: path("/d/e/new"), content: Content::from(vec![7; 5000]), attributes: Attributes::root(0o600) },
                    Edit::AppendLine { path: path("/l/file-1"), line: "x".to_owned(), attributes: Attributes::default() },
                    Edit::Remove { path: path("/d") },
                ],
            };
            if let Ok(mut editor) = Editor::open(Staged::new(&disk), NOW) {
                let _ = editor.apply(&plan);
                if let Ok(staged) = editor.finish() {
                    let _ = imgcore::fs::ext4::verify(&staged, &plan);
                    assert_eq!(staged.size(), disk.size());
                }
            }
        }
    }
}
