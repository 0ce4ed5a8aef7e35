use std::path::Path;
use std::process::Output;

use imgcore::block::ErrorKind;
use imgcore::storage::{Access, FileDisk, Lock, LockKind};
use tempfile::TempDir;
use vmimg_tests::tool::Tool;

fn image(folder: &TempDir) -> std::path::PathBuf {
    let path = folder.path().join("disk.qcow2");
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M").run();
    path
}

fn qemu_io(path: &Path, options: &[&str], command: &str) -> Output {
    Tool::new("qemu-io").args(["-f", "qcow2"]).args(options).args(["-c", command]).arg(path).output()
}

#[test]
fn qemu_keeps_off_an_image_that_is_locked_for_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(&folder);
    let disk = FileDisk::open(&path, Access::ReadWrite).unwrap();
    let lock = Lock::acquire(&disk, LockKind::Write).unwrap();
    for options in [&["-r"][..], &[]] {
        let refused = qemu_io(&path, options, "read 0 512");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("lock"), "{refused:?}");
    }
    drop((lock, disk));
    assert!(qemu_io(&path, &[], "write 0 512").status.success());
}

#[test]
fn qemu_reads_beside_a_reader_and_does_not_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(&folder);
    let disk = FileDisk::open(&path, Access::Read).unwrap();
    let _lock = Lock::acquire(&disk, LockKind::Read).unwrap();
    assert!(qemu_io(&path, &["-r"], "read 0 512").status.success());
    let refused = qemu_io(&path, &[], "write 0 512");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lock"), "{refused:?}");
}

#[test]
fn an_image_that_qemu_writes_to_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(&folder);
    let script = format!("(exec sleep 300) | exec qemu-io -f qcow2 '{}'", path.display());
    let mut qemu = Tool::new("sh").args(["-c", &script]).log_to(&folder.path().join("log")).spawn();
    let begun = std::time::Instant::now();
    let disk = FileDisk::open(&path, Access::Read).unwrap();
    // Until qemu-io has started there is no lock to meet.
    let error = loop {
        match Lock::acquire(&disk, LockKind::Read) {
            Err(error) => break error,
            Ok(lock) => drop(lock),
        }
        assert!(begun.elapsed().as_secs() < 60, "qemu-io never locked the image");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    assert_eq!(error.kind(), ErrorKind::InUse);
}
