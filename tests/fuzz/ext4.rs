//! Hostile file systems: what mke2fs made, damaged.

use imgcore::block::{BlockWrite as _, MemoryDisk};
use imgcore::fs::ext4::{Editor, Timestamp};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, GuestPath};
use vmimg_tests::fuzz_ext4;
use vmimg_tests::tool::Tool;

/// File systems of which most bytes have no checksum, so that damage reaches the code behind, and two that have.
const SHAPES: &[&str] = &[
    "-t ext4 -O ^metadata_csum,^uninit_bg,^has_journal,^resize_inode",
    "-t ext4 -O ^metadata_csum,^uninit_bg,^has_journal,inline_data,^64bit -I 512",
    "-t ext2 -I 128",
    "-t ext2 -r 0",
    "-t ext4 -O ^metadata_csum,uninit_bg,^has_journal,meta_bg,^resize_inode -g 512",
    "-t ext4 -O ^has_journal,ea_inode,large_dir,mmp",
    "-t ext4 -O ^has_journal,^extent,^64bit",
    "-t ext4 -O ^metadata_csum,^uninit_bg,^has_journal,bigalloc -C 4096",
    "-t ext4 -O ^metadata_csum,^uninit_bg,^has_journal,^resize_inode,quota,project",
];

fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

/// Sound file systems with files of every kind.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let made = SHAPES.iter().map(|arguments| {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("d/inline")).unwrap();
        std::fs::write(tree.join("d/short"), [1; 130]).unwrap();
        std::fs::write(tree.join("d/inline/short"), "s").unwrap();
        std::os::unix::fs::symlink("n".repeat(80), tree.join("d/link")).unwrap();
        let file = folder.path().join("fs");
        std::fs::File::create(&file).unwrap().set_len(2 << 20).unwrap();
        let tool = Tool::new("mke2fs").args(["-q", "-F", "-b", "1024", "-N", "128"]).args(arguments.split_whitespace());
        tool.arg("-d").arg(&tree).arg(&file).run();
        let has_attributes = !arguments.contains("-r 0");
        let write = |name: String, len| Edit::Write {
            path: path(&name),
            content: Content::from(vec![9; len]),
            attributes: Attributes {
                xattrs: has_attributes.then(|| ("user.a".to_owned(), vec![3; len % 600])).into_iter().collect(),
                ..Attributes::default()
            },
        };
        let mut edits: Vec<Edit> = (0..50).map(|at| write(format!("/big/{at}-{}", "b".repeat(at * 4)), at * 20)).collect();
        edits.push(write("/d/large".to_owned(), 400_000));
        let disk = MemoryDisk::new(std::fs::read(&file).unwrap());
        let mut editor = Editor::open(disk, Timestamp { secs: 1_700_000_000, nanos: 0 }).unwrap();
        editor.apply(&EditPlan { edits }).unwrap();
        let mut disk = editor.finish().unwrap();
        disk.flush().unwrap();
        disk.into_bytes()
    });
    made.collect()
}

#[test]
fn no_file_system_that_is_read_changed_or_grown_is_a_panic_or_takes_long_or_much_memory() {
    super::run_on("ext4", fuzz_ext4::change, &seeds(), fuzz_ext4::mutate);
}
