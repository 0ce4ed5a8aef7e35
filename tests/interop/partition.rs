use std::path::{Path, PathBuf};

use imgcore::block::{BlockRead, Resize};
use imgcore::partition::{Error, Growth, Table, TableKind, grow};
use imgcore::storage::{Access, FileDisk};
use tempfile::TempDir;
use vmimg_tests::tool::Tool;

/// Debian's layout of cloud images, as sfdisk takes it.
const DEBIAN: &str = "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n\
    1: start=34816, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=\"r\u{f6}\u{f6}t\", attrs=\"GUID:63\"\n\
    14: start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649\n\
    15: start=8192, size=26624, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n";
const MBR: &str = "label: dos\nlabel-id: 0xdeadbeef\n1: start=2048, size=20480, type=83, bootable\n\
    2: start=24576, size=40960, type=5\n5: start=26624, size=8192, type=83\n6: start=36864, size=8192, type=82\n\
    3: start=65536, type=83\n";

/// A disk of `mib` MiB that sfdisk has partitioned by `script`.
fn disk(folder: &TempDir, mib: u64, script: &str) -> PathBuf {
    let path = folder.path().join("disk.raw");
    FileDisk::create_new(&path).unwrap().resize(mib << 20).unwrap();
    Tool::new("sfdisk").args(["-q", "--no-reread", "--no-tell-kernel"]).arg(&path).stdin(script).run();
    path
}

fn enlarged(path: &Path, mib: u64) -> FileDisk {
    let mut disk = FileDisk::open(path, Access::ReadWrite).unwrap();
    disk.resize(mib << 20).unwrap();
    disk
}

/// The table as sfdisk prints it, without what a growth of `number` changes.
fn dump(path: &Path, number: u32) -> Vec<String> {
    let text = Tool::new("sfdisk").arg("-d").arg(path).run();
    let grown = format!("{}{number} :", path.display());
    let size = |field: &&str| !field.trim_start().starts_with("size=");
    let line = |line: &str| if line.starts_with(&grown) { line.split(',').filter(size).collect() } else { line.to_owned() };
    text.lines().filter(|line| !line.starts_with("last-lba")).map(line).collect()
}

#[test]
fn a_gpt_of_sfdisk_reads_as_sfdisk_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(&folder, 64, DEBIAN);
    let table = Table::read(&FileDisk::open(&path, Access::Read).unwrap()).unwrap().unwrap();
    assert_eq!((table.kind, table.sector_size), (TableKind::Gpt, 512));
    assert_eq!(table.disk_id, "11111111-2222-3333-4444-555555555555");
    assert!(table.notes.is_empty(), "{:?}", table.notes);
    let numbers: Vec<_> = table.partitions.iter().map(|partition| partition.number).collect();
    assert_eq!(numbers, [1, 14, 15]);
    let root = table.partition(1).unwrap();
    assert_eq!((root.range.start(), root.name.as_str(), root.attributes), (34816 * 512, "r\u{f6}\u{f6}t", 1 << 63));
    assert_eq!(root.partition_type.to_string(), "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709");
}

#[test]
fn an_mbr_of_sfdisk_reads_with_its_logical_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(&folder, 64, MBR);
    let table = Table::read(&FileDisk::open(&path, Access::Read).unwrap()).unwrap().unwrap();
    assert_eq!((table.kind, table.disk_id.as_str()), (TableKind::Mbr, "deadbeef"));
    let found: Vec<_> = table.partitions.iter().map(|p| (p.number, p.range.start() / 512, p.part_uuid.as_str())).collect();
    let expected = [
        (1, 2048, "deadbeef-01"),
        (2, 24576, "deadbeef-02"),
        (3, 65536, "deadbeef-03"),
        (5, 26624, "deadbeef-05"),
        (6, 36864, "deadbeef-06"),
    ];
    assert_eq!(found, expected);
    assert!(table.partition(1).unwrap().bootable && table.partition(2).unwrap().is_extended());
}

#[test]
fn a_grown_gpt_is_whole_to_sgdisk_and_differs_in_one_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(&folder, 64, DEBIAN);
    let before = dump(&path, 1);
    let mut disk = enlarged(&path, 300);
    let Growth { old, new } = grow(&mut disk, 1).unwrap();
    assert_eq!((old.start(), new.start()), (34816 * 512, 34816 * 512));
    assert_eq!(new.end(), (300 << 20) - 33 * 512, "up to the backup's entries");
    let verdict = Tool::new("sgdisk").arg("-v").arg(&path).run();
    assert!(verdict.contains("No problems found"), "{verdict}");
    assert_eq!(dump(&path, 1), before);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(grow(&mut disk, 1).unwrap(), Growth { old: new, new }, "a second time changes nothing");
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_grown_mbr_keeps_everything_but_one_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(&folder, 64, MBR);
    let before = dump(&path, 3);
    let mut disk = enlarged(&path, 200);
    assert_eq!(grow(&mut disk, 3).unwrap().new.end(), 200 << 20);
    Tool::new("sfdisk").arg("--verify").arg(&path).run();
    assert_eq!(dump(&path, 3), before);
    assert_eq!(grow(&mut disk, 1).unwrap().new.end(), 24576 * 512, "up to the next partition");
    assert!(matches!(grow(&mut disk, 5), Err(Error::Unsupported(_))));
    assert!(matches!(grow(&mut disk, 4), Err(Error::NoPartition(4))));
}

#[test]
fn the_backup_speaks_for_a_damaged_primary_and_growth_is_refused_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(&folder, 64, DEBIAN);
    let mut disk = FileDisk::open(&path, Access::ReadWrite).unwrap();
    let sound = Table::read(&disk).unwrap().unwrap();
    imgcore::block::BlockWrite::write_all_at(&mut disk, &[0xFF], 512 + 16).unwrap();
    let table = Table::read(&disk).unwrap().unwrap();
    assert_eq!(table.partitions, sound.partitions);
    assert_eq!(table.notes.len(), 1);
    let size = disk.size();
    assert!(matches!(grow(&mut disk, 1), Err(Error::Corrupt(_))));
    assert_eq!(disk.size(), size);
}
