//! What other programs say about a disk that vmimg wrote.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::tool::Tool;

/// Asserts that qemu-img, sgdisk and e2fsck find nothing wrong with a qcow2 disk whose first partition is ext4.
///
/// Converts the disk into a sparse raw file in `scratch`, and removes it again.
///
/// # Panics
///
/// When one of them does.
#[track_caller]
pub fn assert_sound(disk: &Path, scratch: &Path) {
    let raw = scratch.join("sound.raw");
    Tool::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(disk).run();
    Tool::new("qemu-img").args(["convert", "-q", "-f", "qcow2", "-O", "raw"]).arg(disk).arg(&raw).run();
    let verdict = Tool::new("sgdisk").arg("--verify").arg(&raw).run();
    assert!(verdict.contains("No problems found"), "sgdisk: {verdict}");
    let offset = partition(&raw, 1).0;
    Tool::new("e2fsck").arg("-fn").arg(format!("{}?offset={offset}", raw.display())).run();
    std::fs::remove_file(&raw).unwrap();
}

/// Offset and size in bytes of a partition of a raw disk, as sgdisk reads it.
///
/// # Panics
///
/// When there is none.
#[track_caller]
pub fn partition(raw: &Path, number: u32) -> (u64, u64) {
    let table = Tool::new("sgdisk").arg(format!("--info={number}")).arg(raw).run();
    let sectors = |label: &str| -> u64 {
        let line = table.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("sgdisk: {table}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (sectors("First sector:") * 512, sectors("Partition size:") * 512)
}

/// The SHA-256 of a file, in lower-case hexadecimal.
///
/// # Panics
///
/// When it cannot be read.
#[track_caller]
pub fn digest(file: &Path) -> String {
    digest_of(&std::fs::read(file).unwrap())
}

/// The SHA-256 of bytes, in lower-case hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
