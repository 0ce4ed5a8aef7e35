//! Images behind /dev/nbdX, in a guest whose kernel has nbd: this machine's need not, and its devices are not ours to use.

mod grown;
mod guest;
mod lvm;

use guest::Guest;

/// What the scripts share.
const COMMON: &str = include_str!("common.sh");

#[test]
fn devices_are_connected_listed_refused_and_disconnected() {
    let said = Guest::new().run(COMMON, include_str!("devices.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}

#[test]
fn without_netlink_devices_are_told_by_themselves() {
    let said = Guest::new().run(COMMON, include_str!("ioctl.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}

#[test]
fn file_systems_are_made_changed_grown_and_sound_afterwards() {
    let said = Guest::new().run(COMMON, include_str!("file_systems.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}

#[test]
fn linux_counts_on_with_the_quota_of_file_systems_that_were_changed_here() {
    let said = Guest::new().run(COMMON, include_str!("quota.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}

#[test]
fn however_a_server_ends_no_device_mount_or_process_is_left() {
    let said = Guest::new().run(COMMON, include_str!("ends.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}

#[test]
fn guests_of_ext4_xfs_and_btrfs_are_read_changed_and_grown_by_the_kernel() {
    let said = Guest::new().run(COMMON, include_str!("via_nbd.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}

#[test]
fn a_change_by_the_kernel_that_is_cut_leaves_the_old_image_and_nothing_else() {
    let said = Guest::new().run(COMMON, include_str!("via_nbd_ends.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}

#[test]
fn machines_are_prepared_from_guests_on_xfs_and_btrfs() {
    let said = Guest::new().run(COMMON, include_str!("via_nbd_prepare.sh"));
    assert!(said.contains("ALL GOOD"), "{said}");
}
