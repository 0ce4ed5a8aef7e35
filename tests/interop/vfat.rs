use std::path::Path;

use imgcore::block::{BlockWrite, MemoryDisk, Resize, Staged};
use imgcore::fs::{Error, vfat};
use imgcore::storage::FileDisk;
use vmimg_tests::tool::Tool;

fn sparse(path: &Path, size: u64) -> FileDisk {
    let _old = std::fs::remove_file(path);
    let mut disk = FileDisk::create_new(path).unwrap();
    disk.resize(size).unwrap();
    disk
}

#[test]
fn fsck_and_mtools_find_a_file_system_of_every_size_sound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let mib = 1 << 20;
    let sizes = [64 << 10, mib, 4 * mib, 5 * mib, 16 * mib, 17 * mib, 64 * mib, 128 * mib, 200 * mib, 300 * mib, 511 * mib];
    for size in sizes.into_iter().chain([512 * mib, 600 * mib + 12345, 8 << 30, 20 << 30]) {
        let mut disk = sparse(&path, size);
        disk.write_all_at(&vec![0xA5; 60 << 10], 0).unwrap();
        vfat::create(&mut disk, "ephemeral0", 0x1A2B_3C4D).unwrap();
        drop(disk);
        let said = Tool::new("fsck.vfat").args(["-n", "-v"]).arg(&path).run();
        assert!(!said.contains("differ") && !said.contains("wrong"), "{size}: {said}");
        let found = Tool::new("blkid").args(["-p", "-o", "export"]).arg(&path).run();
        for line in ["TYPE=vfat", "LABEL=ephemeral0", "UUID=1A2B-3C4D"] {
            assert!(found.contains(line), "{size}: {found}");
        }
        std::fs::write(folder.path().join("hello"), [7; 5000]).unwrap();
        let into = Tool::new("mcopy").env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(&path).arg(folder.path().join("hello"));
        into.arg("::a longer name.txt").run();
        let copy = folder.path().join("copy");
        Tool::new("mcopy")
            .env("MTOOLS_SKIP_CHECK", "1")
            .arg("-n")
            .arg("-i")
            .arg(&path)
            .arg("::a longer name.txt")
            .arg(&copy)
            .run();
        assert_eq!(std::fs::read(&copy).unwrap(), [7; 5000]);
        Tool::new("fsck.vfat").arg("-n").arg(&path).run();
        // The same kind as mkfs.vfat chooses, which stays with FAT12 up to 8 MiB.
        if size == 5 * mib {
            continue;
        }
        let ours = kind(&path);
        drop(sparse(&path, size));
        Tool::new("mkfs.vfat").arg(&path).run();
        assert_eq!(ours, kind(&path), "{size}");
    }
}

fn kind(path: &Path) -> String {
    let found = Tool::new("blkid").args(["-p", "-o", "value", "-s", "VERSION"]).arg(path).run();
    found.trim().to_owned()
}

#[test]
fn what_fat_cannot_hold_is_refused() {
    for (size, label) in [(60 << 10, ""), (3 << 40, ""), (1 << 20, "twelve bytes"), (1 << 20, "a/b"), (1 << 20, "ü")] {
        let mut disk = Staged::new(MemoryDisk::new(Vec::new()));
        disk.resize(size).unwrap();
        assert!(matches!(vfat::create(&mut disk, label, 1), Err(Error::Refused(_))), "{label}");
        assert!(disk.changes().is_empty());
    }
}
