//! Power cuts while `vmimg disk` changes a whole disk in place: it becomes longer, its partition and file system grow, files change.
//! After any of them there is a sound primary partition table, and behind it the old files or the new ones;
//! and where there is no journal, an undo log has the old disk.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use imgcore::block::{BlockRead, MemoryDisk, Resize, Slice, Staged, UndoLog};
use imgcore::fs::EditPlan;
use imgcore::fs::ext4::{self, Editor, Timestamp};
use imgcore::partition::{self, Table};
use imgcore::qcow2::Image;
use vmimg::in_place::InPlace;
use vmimg_tests::tool::Tool;

use crate::ext4_cuts::{Judge, SHAPES, cut_everywhere, edits, files_of, is_every_cut, make};
use crate::power::{Recorded, Step, after_cut};

/// A disk with a partition table and one of the file systems, 1 MiB from its start.
fn disk(folder: &Path, label: &str, shape: &str) -> Vec<u8> {
    let file = folder.join("disk.raw");
    std::fs::File::create(&file).unwrap().set_len(20 << 20).unwrap();
    let script = format!("label: {label}\nstart=2048, size=32768, type=L\n");
    Tool::new("sfdisk").arg("-q").arg(&file).stdin(script).run();
    let mut disk = std::fs::read(&file).unwrap();
    let files = make(folder, shape);
    disk[1 << 20..][..files.len()].copy_from_slice(&files);
    disk
}

/// What `vmimg disk` does: changes in memory, then in place.
fn change<D: Resize>(disk: &mut D) {
    let mut staged = Staged::new(&*disk);
    let size = 24 << 20;
    staged.resize(size).unwrap();
    let grown = partition::grow(&mut staged, 1).unwrap();
    let plan = EditPlan { edits: edits() };
    let mut part = Slice::open(&mut staged, grown.new).unwrap();
    ext4::grow(&mut part).unwrap();
    let mut editor = Editor::open(&mut part, Timestamp { secs: 1_760_000_000, nanos: 0 }).unwrap();
    editor.apply(&plan).unwrap();
    editor.finish().unwrap();
    let changes = staged.into_changes();
    let plan = InPlace::plan(&*disk, size, &changes.changes(), Some((1, grown))).unwrap();
    plan.run(disk).unwrap();
    plan.verify(disk).unwrap();
}

/// The partition of a disk whose primary table is sound, also to sfdisk, which looks at each of those `seen` once.
fn partition_of(folder: &Path, seen: &Mutex<HashSet<Vec<u8>>>, disk: Vec<u8>) -> Vec<u8> {
    if seen.lock().unwrap().insert([&disk[..20 << 10], &disk[disk.len() - (20 << 10)..]].concat()) {
        let file = folder.join("table.raw");
        std::fs::write(&file, &disk).unwrap();
        let said = Tool::new("sfdisk").arg("--dump").arg(&file).output();
        let complaint = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success() && !complaint.contains("corrupt"), "{complaint}");
    }
    let table = Table::read(&MemoryDisk::new(disk.clone())).unwrap().unwrap();
    assert!(!table.notes.iter().any(|note| note.contains("damaged")), "{:?}", table.notes);
    let range = table.partition(1).unwrap().range;
    assert!(range.len() == 16 << 20 || range.len() > 22 << 20, "{range:?}");
    disk[range.start() as usize..range.end() as usize].to_vec()
}

#[test]
fn a_disk_that_grows_in_place_has_a_table_and_the_old_files_or_the_new_ones() {
    let chosen = |name: &str| is_every_cut() || ["ext3", "descriptors", "meta-bg"].contains(&name);
    for (name, shape) in SHAPES.iter().filter(|(name, _)| chosen(name)) {
        let label = if *name == "ext3" { "dos" } else { "gpt" };
        let folder = tempfile::tempdir().unwrap();
        let before = disk(folder.path(), label, shape);
        let steps = Arc::default();
        let mut recorded = Recorded { disk: MemoryDisk::new(before.clone()), steps: Arc::clone(&steps) };
        change(&mut recorded);
        let place = folder.path().to_owned();
        let seen = Mutex::default();
        let disk_of = move |disk| partition_of(&place, &seen, disk);
        let after = disk_of(recorded.disk.into_bytes());
        let judge = Judge { folder, old: files_of(&disk_of(before.clone())), new: files_of(&after) };
        let steps = steps.lock().unwrap();
        cut_everywhere(name, &before, &steps, &judge, &disk_of);
    }
}

#[test]
fn so_it_has_in_a_qcow2_image_that_becomes_larger() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from.raw"), folder.path().join("to.qcow2"));
    std::fs::write(&from, disk(folder.path(), "gpt", SHAPES[1].1)).unwrap();
    Tool::new("qemu-img").args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(&from).arg(&to).run();
    let before = std::fs::read(&to).unwrap();
    let steps = Arc::default();
    let storage = Recorded { disk: MemoryDisk::new(before.clone()), steps: Arc::clone(&steps) };
    let mut image = Image::open(storage).unwrap();
    change(&mut image);
    image.close().unwrap();
    let place = folder.path().to_owned();
    let seen = Mutex::default();
    let disk_of = move |bytes: Vec<u8>| {
        let image = Image::open(MemoryDisk::new(bytes)).unwrap();
        let mut disk = vec![0; image.size() as usize];
        image.read_exact_at(&mut disk, 0).unwrap();
        partition_of(&place, &seen, disk)
    };
    let steps = steps.lock().unwrap();
    let after = disk_of(after_cut(&before, &steps, steps.len(), None));
    let judge = Judge { folder, old: files_of(&disk_of(before.clone())), new: files_of(&after) };
    cut_everywhere("qcow2", &before, &steps, &judge, &disk_of);
}

/// Writes the edits over an ext2 file system as they come, behind a log of the old contents.
fn change_logged<D: Resize>(disk: &mut D) -> Vec<u8> {
    let mut staged = Staged::new(&*disk);
    let mut editor = Editor::open(&mut staged, Timestamp { secs: 1_760_000_000, nanos: 0 }).unwrap();
    editor.apply(&EditPlan { edits: edits() }).unwrap();
    editor.finish().unwrap();
    let changes = staged.into_changes();
    let log = UndoLog::record(&*disk, "a disk", &changes.changes(), MemoryDisk::new(Vec::new())).unwrap();
    for change in changes.changes() {
        change.write_to(disk).unwrap();
    }
    disk.flush().unwrap();
    log.into_inner().into_bytes()
}

/// Puts back what a log holds into the bytes of a disk, and returns the writes of it.
type Undo = dyn Fn(Vec<u8>, &UndoLog<MemoryDisk>) -> (Vec<u8>, Vec<Step>);

/// After any cut, of the change or of an undo that came after it, the log makes the old disk of what is there.
fn undo_everywhere(before: &[u8], steps: &[Step], log: &[u8], old: &[u8], undo: &Undo) {
    let log = UndoLog::open(MemoryDisk::new(log.to_vec())).unwrap();
    for cut in (0..=steps.len()).step_by(3).chain([steps.len()]) {
        for luck in [None, Some(cut as u64), Some(cut as u64 + 1000)] {
            let torn = after_cut(before, steps, cut, luck);
            let (disk, again) = undo(torn.clone(), &log);
            assert!(disk == old, "cut before step {cut}, {luck:?}");
            let cut_again = again.len() / 2;
            let (disk, _) = undo(after_cut(&torn, &again, cut_again, Some(cut as u64)), &log);
            assert!(disk == old, "cut before step {cut}, {luck:?}, and in the undo before step {cut_again}");
        }
    }
}

#[test]
fn a_change_without_a_journal_is_taken_back_by_its_undo_log_after_a_cut() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fs.raw");
    std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("old")).unwrap();
    (0..20).for_each(|number| std::fs::write(tree.join(format!("old/{number}")), vec![number; 2000]).unwrap());
    Tool::new("mke2fs").args(["-q", "-F", "-t", "ext2", "-b", "1024", "-d"]).arg(&tree).arg(&file).run();
    let old = std::fs::read(&file).unwrap();

    let steps = Arc::default();
    let mut raw = Recorded { disk: MemoryDisk::new(old.clone()), steps: Arc::clone(&steps) };
    let log = change_logged(&mut raw);
    assert_ne!(raw.disk.into_bytes(), old);
    let undo = |torn: Vec<u8>, log: &UndoLog<MemoryDisk>| {
        let steps = Arc::default();
        let mut disk = Recorded { disk: MemoryDisk::new(torn), steps: Arc::clone(&steps) };
        log.apply(&mut disk).unwrap();
        (disk.disk.into_bytes(), std::mem::take(&mut *steps.lock().unwrap()))
    };
    undo_everywhere(&old, &steps.lock().unwrap(), &log, &old, &undo);

    let image = folder.path().join("image.qcow2");
    Tool::new("qemu-img").args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(&file).arg(&image).run();
    let before = std::fs::read(&image).unwrap();
    let steps = Arc::default();
    let mut image = Image::open(Recorded { disk: MemoryDisk::new(before.clone()), steps: Arc::clone(&steps) }).unwrap();
    let log = change_logged(&mut image);
    image.close().unwrap();
    let undo = |torn: Vec<u8>, log: &UndoLog<MemoryDisk>| {
        let steps = Arc::default();
        let storage = Recorded { disk: MemoryDisk::new(torn), steps: Arc::clone(&steps) };
        let mut image = Image::open(storage).unwrap();
        log.apply(&mut image).unwrap();
        image.close().unwrap();
        let mut disk = vec![0; image.size() as usize];
        image.read_exact_at(&mut disk, 0).unwrap();
        (disk, std::mem::take(&mut *steps.lock().unwrap()))
    };
    undo_everywhere(&before, &steps.lock().unwrap(), &log, &old, &undo);
}
