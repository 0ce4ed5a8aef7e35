//! Guests on LVM: volume groups that lvm2 has made, file systems that mke2fs has made in them.

use std::fs::{self, File};

use vmimg_tests::lvm::{Physical, ext4, extract};
use vmimg_tests::sandbox::Sandbox;

use crate::sandbox;

const MIB: u64 = 1 << 20;

/// A sandbox with `disk.raw`: `/boot` in partition 1, and in partition 2 the group `vg-0` with the logical volumes `root`, which is in
/// two segments, `home` between them, and `swap`.
fn disk() -> (Sandbox, Physical) {
    let sandbox = sandbox();
    sandbox.file("boot/grub/grub.cfg", "of /boot\n");
    sandbox.file("home/me/hello", "of /home\n");
    sandbox.file("tree/etc/hostname", "base\n");
    sandbox.file("tree/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    sandbox.file("tree/usr/lib/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
    let table = "/dev/mapper/vg--0-root / ext4 defaults 0 1\n/dev/vda1 /boot ext4 defaults 0 2\n\
                 /dev/vg-0/home /home ext4 defaults 0 2\n/dev/mapper/vg--0-swap none swap sw\n";
    sandbox.file("tree/etc/fstab", table);
    for folder in ["boot", "home", "dev", "root", "var/lib"] {
        fs::create_dir_all(sandbox.path("tree").join(folder)).unwrap();
    }
    for (tree, size) in [("boot", "4M"), ("tree", "20M"), ("home", "3M")] {
        ext4(&sandbox.path(tree), tree, &sandbox.path(format!("{tree}.fs")), size);
    }
    File::create(sandbox.path("disk.raw")).unwrap().set_len(64 * MIB).unwrap();
    let script = "label: gpt\nstart=2048, size=8192, type=L\nstart=10240, type=lvm\n";
    sandbox.tool("sfdisk").args(["-q", "disk.raw"]).stdin(script).run();
    sandbox.tool("dd").args(["if=boot.fs", "of=disk.raw", "bs=1M", "seek=1", "conv=notrunc", "status=none"]).run();
    let physical = Physical::of(&sandbox.path("disk.raw"), 5 * MIB, 58 * MIB);
    physical.run(&format!("pvcreate -ff -y {}", physical.path()));
    physical.run(&format!("vgcreate -s 1M vg-0 {}", physical.path()));
    for line in ["-n swap -L 4M vg-0", "-n root -L 12M vg-0", "-n home -L 3M vg-0"] {
        physical.create(line);
    }
    physical.run("lvextend -L 20M vg-0/root");
    physical.write("vg-0/root", &sandbox.path("tree.fs"));
    physical.write("vg-0/home", &sandbox.path("home.fs"));
    (sandbox, physical)
}

/// The file systems are sound, and all but `changed` is as in `before`.
#[track_caller]
fn check(sandbox: &Sandbox, physical: &Physical, image: &str, before: &[u8], changed: &str) {
    sandbox.tool("qemu-img").args(["convert", "-O", "raw", image, "now.raw"]).run();
    for volume in ["vg-0/root", "vg-0/home"] {
        extract(&sandbox.path("now.raw"), &physical.place(volume), &sandbox.path("volume"));
        sandbox.tool("e2fsck").args(["-fn", "volume"]).run();
    }
    let mut now = fs::read(sandbox.path("now.raw")).unwrap();
    for (offset, len) in physical.place(changed) {
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap();
        now[range.clone()].copy_from_slice(&before[range]);
    }
    assert!(now == before, "more than {changed} has changed");
}

#[test]
fn a_guest_on_lvm_is_found_and_shown() {
    let (sandbox, physical) = disk();
    assert_eq!(physical.place("vg-0/root").len(), 2);
    let said = sandbox.done("disk inspect disk.raw");
    for line in [
        "volume group vg-0 on partition 2, extents of 1 MiB",
        "  vg-0/home: 3 MiB",
        "  vg-0/root: 20 MiB",
        "partition 1: ext4, label boot",
        "logical volume vg-0/root: ext4, label tree",
        "logical volume vg-0/swap: no known file system, which is not supported",
        "guest: Debian GNU/Linux 12 (bookworm), root on logical volume vg-0/root",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    let json: serde_json::Value = serde_json::from_str(&sandbox.done("disk inspect --json disk.raw")).unwrap();
    let group = &json["lvm"]["volume_groups"][0];
    assert_eq!((group["seqno"].as_u64(), group["extent_size"].as_u64()), (Some(5), Some(MIB)));
    assert_eq!(group["logical_volumes"].as_array().unwrap().len(), 3);
    assert!(physical.run("pvs --noheadings -o pv_uuid").contains(json["lvm"]["physical_volumes"][0]["uuid"].as_str().unwrap()));
    assert_eq!(json["guest"]["root_partition"], "vg-0/root");
    let mounts: Vec<_> = json["guest"]["mounts"].as_array().unwrap().iter().map(|mount| mount["partition"].clone()).collect();
    assert_eq!(mounts, [serde_json::json!("vg-0/root"), serde_json::json!(1), serde_json::json!("vg-0/home")]);
    assert_eq!(sandbox.done("disk cat disk.raw /etc/hostname"), "base\n");
    assert_eq!(sandbox.done("disk cat --partition vg-0/home disk.raw /me/hello"), "of /home\n");
    assert!(sandbox.done("disk df --json disk.raw").contains("\"inodes\""));
    assert!(sandbox.done("disk diff --partition vg-0/home disk.raw disk.raw").is_empty());
}

#[test]
fn files_of_a_logical_volume_are_changed_in_place_and_nothing_else_is() {
    let (sandbox, physical) = disk();
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    let motd: String = (0..300_000).map(|n| format!("{n}\n")).collect();
    sandbox.file("motd", &motd);
    sandbox.tool("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2"]).run();
    for image in ["disk.raw", "disk.qcow2"] {
        for way in ["--in-place", "--copy"] {
            sandbox.done(&format!("disk put {way} {image} motd /srv/motd"));
            sandbox.done(&format!("disk rm {way} {image} /etc/hostname"));
            assert_eq!(sandbox.done(&format!("disk cat {image} /srv/motd")), motd);
            check(&sandbox, &physical, image, &before, "vg-0/root");
            sandbox.done(&format!("disk rm -r {way} {image} /srv"));
            sandbox.file("name", "base\n");
            sandbox.done(&format!("disk put {way} {image} name /etc/hostname"));
        }
        sandbox.done(&format!("disk put --partition vg-0/home {image} name /me/name"));
    }
    physical.run("vgck vg-0");
    assert!(physical.run(&format!("pvck --dump headers {}", physical.path())).contains("vgname vg-0 seqno 5"));
    let hidden = sandbox.run("disk put disk.raw name /home/me/name");
    assert_eq!(hidden.status, 6);
    assert!(hidden.stderr.contains("`--partition vg-0/home` puts it there"), "{hidden}");
}

#[test]
fn what_cannot_be_used_is_refused_by_name_and_changes_nothing() {
    let (sandbox, physical) = disk();
    sandbox.file("name", "x\n");
    physical.create("-n striped -i 2 -L 4M --alloc anywhere vg-0");
    physical.run("lvchange -pr vg-0/home");
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    for (line, status, words) in [
        ("disk ls --partition vg-0/striped disk.raw /", 5, "the logical volume `vg-0/striped` is not used: it is striped"),
        ("disk ls --partition vg-0/none disk.raw /", 3, "logical volumes vg-0/home, vg-0/root, vg-0/striped, vg-0/swap"),
        ("disk ls --partition 2 disk.raw /", 5, "partition 2 is a physical volume of LVM, and no file system"),
        ("disk ls --partition vg-0 disk.raw /", 2, "a logical volume is GROUP/NAME"),
        ("disk put --partition vg-0/home disk.raw name /me/name", 6, "the logical volume `vg-0/home` is for reading only"),
        ("disk grow --size 80M disk.raw", 5, "the logical volume vg-0/root is not made larger"),
    ] {
        let outcome = sandbox.run(line);
        assert_eq!(outcome.status, status, "{line}\n{outcome}");
        assert!(outcome.stderr.contains(words), "{line}\n{outcome}");
    }
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
    physical.run("vgexport vg-0");
    let outcome = sandbox.run("disk ls --partition vg-0/root disk.raw /");
    assert!(outcome.stderr.contains("its volume group `vg-0` is exported"), "{outcome}");
}

#[test]
fn a_group_on_the_whole_disk_is_used_and_one_on_two_disks_is_not() {
    let (sandbox, _) = disk();
    for name in ["whole.raw", "second.raw"] {
        File::create(sandbox.path(name)).unwrap().set_len(40 * MIB).unwrap();
    }
    let whole = Physical::of(&sandbox.path("whole.raw"), 0, 40 * MIB);
    whole.run(&format!("pvcreate -ff -y --metadatacopies 2 {}", whole.path()));
    whole.run(&format!("vgcreate -s 128K data {}", whole.path()));
    whole.create("-n home -L 20M data");
    whole.write("data/home", &sandbox.path("tree.fs"));
    assert_eq!(sandbox.done("disk cat whole.raw /etc/hostname"), "base\n");
    sandbox.file("name", "x\n");
    sandbox.done("disk put --in-place whole.raw name /etc/hostname");
    extract(&sandbox.path("whole.raw"), &whole.place("data/home"), &sandbox.path("volume"));
    sandbox.tool("e2fsck").args(["-fn", "volume"]).run();
    let second = Physical::of(&sandbox.path("second.raw"), 0, 40 * MIB);
    second.run(&format!("pvcreate -ff -y {}", second.path()));
    whole.run_with(&[&second], &format!("vgextend data {}", second.path()));
    let outcome = sandbox.run("disk cat whole.raw /etc/hostname");
    assert_eq!(outcome.status, 5);
    let reason = "its volume group `data` has 2 physical volumes, of which 1 are not on this disk";
    assert!(outcome.stderr.contains(reason), "{outcome}");
}

#[test]
fn a_machine_is_prepared_from_a_guest_on_lvm() {
    let (sandbox, physical) = disk();
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    sandbox.done("prepare web1 --root machines --image disk.raw --format raw --host-keys keep --hostname web1");
    assert_eq!(sandbox.done("disk cat machines/web1/disk.qcow2 /etc/hostname"), "web1\n");
    check(&sandbox, &physical, "machines/web1/disk.qcow2", &before, "vg-0/root");
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
    let outcome = sandbox.run("prepare web2 --root machines --image disk.raw --format raw --host-keys keep --size 80M");
    assert_eq!(outcome.status, 5, "{outcome}");
    assert!(outcome.stderr.contains("the logical volume vg-0/root is not made larger"), "{outcome}");
}
