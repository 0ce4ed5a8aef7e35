//! A guest with XFS on LVM, made by lvm2 on this machine: the guest of the test needs neither lvm2 nor device-mapper.

use std::fs::File;

use vmimg_tests::lvm::Physical;
use vmimg_tests::tool::Tool;

use crate::guest::Guest;

const MIB: u64 = 1 << 20;

#[test]
fn a_guest_with_xfs_on_lvm_is_changed_and_the_kernel_sees_no_physical_volume() {
    let guest = Guest::new();
    let raw = guest.file("disk.raw");
    File::create(&raw).unwrap().set_len(400 * MIB).unwrap();
    Tool::new("sfdisk").arg("-q").arg(&raw).stdin("label: gpt\nstart=2048, size=8192\nstart=10240, type=lvm\n").run();
    let physical = Physical::of(&raw, 5 * MIB, 394 * MIB);
    physical.run(&format!("pvcreate -ff -y {}", physical.path()));
    physical.run(&format!("vgcreate -s 1M vg-0 {}", physical.path()));
    physical.create("-n root -L 100M vg-0");
    physical.create("-n home -L 20M vg-0");
    physical.run("lvextend -L 320M vg-0/root");
    assert_eq!(physical.place("vg-0/root").len(), 2);
    drop(physical);
    Tool::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(guest.file("lvm.qcow2")).run();
    std::fs::remove_file(raw).unwrap();
    let said = guest.run(super::COMMON, include_str!("via_nbd_lvm.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}
