//! Power cuts while a file system is changed in place: after a cut at any write, with any part of what was not flushed, down to
//! single sectors, e2fsck and the kernel find the old files or the new ones.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use imgcore::block::{BlockRead, BlockWrite, MemoryDisk, Staged};
use imgcore::fs::ext4::{Commit, Editor, Ext4, Timestamp, verify};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, FileKind, FileSystem, GuestPath};
use imgcore::qcow2::Image;
use vmimg_tests::mount::Mounted;
use vmimg_tests::tool::Tool;

use crate::power::{Recorded, Step, after_cut};

/// Shapes of file systems, as arguments of mke2fs.
pub(crate) const SHAPES: &[(&str, &str)] = &[
    ("ext3", "-t ext3 -b 1024 -I 128 -J size=1"),
    ("ext4", "-t ext4 -b 4096 -g 2048 -O metadata_csum,64bit -J size=4"),
    ("seed", "-t ext4 -b 1024 -O metadata_csum,64bit,metadata_csum_seed,orphan_file -J size=1"),
    ("narrow", "-t ext4 -b 2048 -g 4096 -O metadata_csum,^64bit -J size=2"),
    ("quota", "-t ext4 -b 1024 -O metadata_csum,64bit,quota,project -J size=2"),
    // A block has 16 descriptors, so that more of them need one that is reserved.
    ("descriptors", "-t ext4 -b 1024 -g 1024 -O metadata_csum,64bit -J size=1"),
    ("meta-bg", "-t ext4 -b 1024 -g 1024 -O metadata_csum,64bit,meta_bg,^resize_inode -J size=1"),
    ("no-descriptors", "-t ext4 -b 1024 -g 1024 -O ^metadata_csum,64bit,^resize_inode -J size=1"),
];

/// One whose bitmaps count clusters, which does not grow.
const BIGALLOC: (&str, &str) = ("bigalloc", "-t ext4 -b 1024 -O metadata_csum,64bit,bigalloc -C 8192 -J size=1");

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

fn walk(ext4: &dyn FileSystem, folder: &str, files: &mut Files) {
    for entry in ext4.read_dir(&path(if folder.is_empty() { "/" } else { folder })).unwrap() {
        let name = format!("{folder}/{}", String::from_utf8(entry.name).unwrap());
        match entry.kind {
            FileKind::Directory => {
                walk(ext4, &name, files);
                files.insert(name, Vec::new());
            }
            _ => drop(files.insert(name.clone(), ext4.read(&path(&name), 1 << 22).unwrap())),
        }
    }
}

pub(crate) fn files_of(bytes: &[u8]) -> Files {
    let mut files = Files::new();
    walk(&Ext4::open(MemoryDisk::new(bytes.to_vec())).unwrap(), "", &mut files);
    files
}

fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

fn write(name: &str, content: Vec<u8>) -> Edit {
    Edit::Write { path: path(name), content: Content::from(content), attributes: Attributes::default() }
}

/// Changes a file system in place, in one transaction.
fn change<D: BlockWrite>(disk: &mut D, edits: Vec<Edit>) {
    let plan = EditPlan { edits };
    let mut staged = Staged::new(&*disk);
    let mut editor = Editor::open(&mut staged, Timestamp { secs: 1_760_000_000, nanos: 0 }).unwrap();
    editor.apply(&plan).unwrap();
    editor.finish().unwrap();
    verify(&staged, &plan).unwrap();
    let changes = staged.into_changes();
    Commit::plan(&*disk, &changes.changes()).unwrap().run(disk).unwrap();
}

pub(crate) fn make(folder: &Path, arguments: &str) -> Vec<u8> {
    let file = folder.join("fs.raw");
    std::fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
    Tool::new("mke2fs").args(["-q", "-F"]).args(arguments.split_whitespace()).arg(&file).run();
    let mut disk = MemoryDisk::new(std::fs::read(&file).unwrap());
    let some = (0..40).map(|number| write(&format!("/old/{number}"), vec![number; 900])).collect();
    change(&mut disk, some);
    disk.into_bytes()
}

pub(crate) fn edits() -> Vec<Edit> {
    // A block that begins as those of the journal do is escaped.
    let magic = [&[0xC0, 0x3B, 0x39, 0x98], &[7; 70_000][..]].concat();
    let mut edits = vec![write("/new/a", magic), write("/old/3", vec![0xC0; 5000]), Edit::Remove { path: path("/old/7") }];
    edits.extend((0..30_u8).map(|number| Edit::Write {
        path: path(&format!("/new/b{number}")),
        content: Content::from(vec![number; 300]),
        attributes: Attributes::owned(0o600, u32::from(number) << 20, number.into()),
    }));
    edits.push(Edit::Symlink { path: path("/new/link"), target: "a".to_owned(), attributes: Attributes::default() });
    edits
}

pub(crate) struct Judge {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) old: Files,
    pub(crate) new: Files,
}

impl Judge {
    /// Returns whether the new files are there; anything but the old or the new ones is a failure.
    #[track_caller]
    fn is_new(&self, bytes: &[u8], by_kernel: bool, what: &str) -> bool {
        let file = self.folder.path().join("cut.raw");
        std::fs::write(&file, bytes).unwrap();
        if by_kernel {
            self.used_by_kernel(&file, what);
        } else {
            let output = Tool::new("e2fsck").arg("-fy").arg(&file).output();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(matches!(output.status.code(), Some(0 | 1)), "{what}: {said}");
            assert!(!said.contains("Fix? ") && !said.contains("Clear? ") && !said.contains("Update quota"), "{what}: {said}");
        }
        let found = files_of(&std::fs::read(&file).unwrap());
        assert!(found == self.old || found == self.new, "{what}: {:?}", found.keys());
        // Where a log belongs to a file system that says that it is unmounted, Linux and we drop it, and e2fsck replays it.
        assert!(files_of(bytes) == found || !by_kernel && found == self.new && !is_to_be_replayed(bytes), "{what}");
        found == self.new
    }

    /// Has Linux fill the file system, which must then have what was written, and be without an error.
    #[track_caller]
    fn used_by_kernel(&self, file: &Path, what: &str) {
        let mount = || Mounted::open(file, "rw").unwrap_or_else(|error| panic!("{what}: {error}"));
        let mounted = mount();
        mounted.shell("touch fill; chmod 666 fill");
        let mut fill = std::fs::File::options().write(true).open(mounted.path("fill")).unwrap();
        let piece = vec![b'f'; 1 << 20];
        let written: usize = std::iter::from_fn(|| fill.write(&piece).ok()).take(64).sum();
        fill.sync_all().unwrap_or_else(|error| panic!("{what}: {error}"));
        drop(fill);
        drop(mounted);
        let mounted = mount();
        let found = std::fs::read(mounted.path("fill")).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found.len() == written && found.iter().all(|byte| *byte == b'f'), "{what}: {written} bytes were written");
        mounted.shell("rm fill");
        drop(mounted);
        let said = Tool::new("e2fsck").arg("-fn").arg(file).run();
        assert!(!said.contains("wrong"), "{what}: {said}");
    }
}

/// Whether the superblock says that the journal is to be replayed.
fn is_to_be_replayed(bytes: &[u8]) -> bool {
    // `s_feature_incompat`, and in it the feature `recover`.
    bytes[1024 + 0x60] & 4 != 0
}

/// Whether the power is cut at every write, and not at a choice of them.
#[expect(clippy::disallowed_methods, reason = "how long the tests take is said by their caller")]
pub(crate) fn is_every_cut() -> bool {
    std::env::var_os("VMIMG_EVERY_CUT").is_some()
}

pub(crate) fn cut_everywhere(name: &str, before: &[u8], steps: &[Step], judge: &Judge, disk_of: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    let every = is_every_cut();
    let (mut was_new, mut was_kernels) = (false, false);
    let (mut states, mut by_kernel) = (0, 0);
    // Without VMIMG_EVERY_CUT: around every flush, and some of the others.
    let is_flush = |step: usize| matches!(steps.get(step), Some(Step::Flush));
    let chosen =
        |cut: &usize| every || cut.is_multiple_of(40) || is_flush(*cut) || is_flush(cut + 1) || is_flush(cut.wrapping_sub(1));
    for cut in (0..=steps.len()).filter(chosen) {
        let what = format!("{name}, cut before step {cut}");
        let whole = disk_of(after_cut(before, steps, cut, None));
        let is_new = judge.is_new(&whole, false, &what);
        assert!(is_new || !was_new, "{what}: old again");
        was_new = is_new;
        let lucky = disk_of(after_cut(before, steps, cut, Some(cut as u64)));
        let luckily_new = judge.is_new(&lucky, false, &format!("{what}, with losses"));
        states += 2;
        // The kernel sees the same; without VMIMG_EVERY_CUT it is asked about every fourth. Not every kernel can write quota.
        if (every || cut.is_multiple_of(4)) && !name.starts_with("quota") {
            let is_kernels = judge.is_new(&whole, true, &what);
            let is_kernels_luckily = judge.is_new(&lucky, true, &format!("{what}, with losses"));
            assert!(is_kernels == is_new || !is_kernels && !is_to_be_replayed(&whole), "{what}: by the kernel");
            assert!(is_kernels_luckily == luckily_new || !is_to_be_replayed(&lucky), "{what}: by the kernel, with losses");
            assert!(is_kernels || !was_kernels, "{what}: old again");
            was_kernels = is_kernels;
            by_kernel += 2;
        }
    }
    println!("{name}: {} writes and flushes, {states} states, of which the kernel saw {by_kernel}", steps.len());
    assert!(was_new, "{name}");
}

#[test]
fn a_file_system_that_is_changed_in_place_has_the_old_files_or_the_new_ones() {
    for (name, arguments) in SHAPES.iter().chain([&BIGALLOC]) {
        let folder = tempfile::tempdir().unwrap();
        let before = make(folder.path(), arguments);
        let steps = Arc::default();
        let mut disk = Recorded { disk: MemoryDisk::new(before.clone()), steps: Arc::clone(&steps) };
        change(&mut disk, edits());
        let judge = Judge { folder, old: files_of(&before), new: files_of(&disk.disk.into_bytes()) };
        assert_ne!(judge.old, judge.new);
        let steps = steps.lock().unwrap();
        cut_everywhere(name, &before, &steps, &judge, &|disk| disk);
    }
}

#[test]
fn so_it_has_in_a_qcow2_image() {
    let folder = tempfile::tempdir().unwrap();
    let raw = make(folder.path(), SHAPES[1].1);
    let (from, to) = (folder.path().join("from.raw"), folder.path().join("to.qcow2"));
    std::fs::write(&from, &raw).unwrap();
    Tool::new("qemu-img").args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(&from).arg(&to).run();
    let before = std::fs::read(&to).unwrap();
    let steps = Arc::default();
    let storage = Recorded { disk: MemoryDisk::new(before.clone()), steps: Arc::clone(&steps) };
    let mut image = Image::open(storage).unwrap();
    change(&mut image, edits());
    image.close().unwrap();
    let disk_of = |bytes: Vec<u8>| {
        let image = Image::open(MemoryDisk::new(bytes)).unwrap();
        let mut disk = vec![0; image.size() as usize];
        image.read_exact_at(&mut disk, 0).unwrap();
        disk
    };
    let steps = steps.lock().unwrap();
    let after = disk_of(after_cut(&before, &steps, steps.len(), None));
    let judge = Judge { folder, old: files_of(&raw), new: files_of(&after) };
    cut_everywhere("qcow2", &before, &steps, &judge, &disk_of);
}
