//! `vmimg disk` changes images where they are: files, block devices.

use std::fs;
use std::os::unix::fs::MetadataExt;

use vmimg_tests::device::Loop;
use vmimg_tests::mount::Mounted;
use vmimg_tests::sandbox::Sandbox;

use crate::disk::{check, disk};

fn inode(sandbox: &Sandbox, name: &str) -> u64 {
    fs::metadata(sandbox.path(name)).unwrap().ino()
}

/// The partition's file system is unmounted, with an empty journal.
#[track_caller]
fn is_settled(sandbox: &Sandbox, image: &str) {
    sandbox.tool("qemu-img").args(["convert", "-O", "raw", image, "settled"]).run();
    sandbox.tool("dd").args(["if=settled", "of=part", "bs=1M", "skip=1", "count=32", "conv=sparse", "status=none"]).run();
    sandbox.tool("e2fsck").args(["-fn", "part"]).run();
    let said = sandbox.tool("dumpe2fs").args(["-h", "part"]).run();
    assert!(!said.contains("needs_recovery"), "{said}");
}

#[test]
fn an_image_stays_the_same_file_and_its_file_system_is_settled() {
    let sandbox = disk();
    sandbox.file("motd", "hello\n");
    for format in ["raw", "qcow2"] {
        let image = format!("in.{format}");
        sandbox.tool("qemu-img").args(["convert", "-f", "raw", "-O", format, "disk.raw", &image]).run();
        let before = inode(&sandbox, &image);
        for way in ["", "--in-place "] {
            sandbox.done(&format!("disk put {way}{image} motd /etc/motd"));
            sandbox.done(&format!("disk rm {way}{image} /etc/motd"));
            sandbox.done(&format!("disk put {way}{image} motd /srv/deep/motd"));
        }
        assert_eq!(inode(&sandbox, &image), before, "{image}");
        is_settled(&sandbox, &image);
        assert_eq!(sandbox.done(&format!("disk cat {image} /srv/deep/motd")), "hello\n");
        sandbox.done(&format!("disk mkdir --copy {image} /srv/copy"));
        assert_ne!(inode(&sandbox, &image), before, "{image}");
        is_settled(&sandbox, &image);
    }
    sandbox.tool("qemu-img").args(["check", "-q", "in.qcow2"]).run();
}

#[test]
fn other_names_of_a_file_see_the_change_when_that_is_meant() {
    let sandbox = disk();
    fs::hard_link(sandbox.path("disk.raw"), sandbox.path("other.raw")).unwrap();
    assert_eq!(sandbox.run("disk mkdir disk.raw /srv").status, 6);
    sandbox.done("disk mkdir --in-place disk.raw /srv");
    assert!(sandbox.done("disk ls other.raw").contains("srv"));
    check(&sandbox, "32");
}

#[test]
fn what_has_no_journal_is_changed_in_a_copy_or_refused() {
    let sandbox = disk();
    sandbox.tool("mke2fs").args(["-q", "-t", "ext2", "-d", "tree", "disk2.raw", "16M"]).run();
    let (before, bytes) = (inode(&sandbox, "disk2.raw"), fs::read(sandbox.path("disk2.raw")).unwrap());
    insta::assert_snapshot!(sandbox.run("disk mkdir --in-place disk2.raw /srv"), @r"
    exit status 5
    --- stderr
    error: the ext4 file system has no journal, so it cannot be changed in place at once or not at all

    hint: nothing was changed
    hint: `--undo-log FILE` keeps the old contents in a file, from which `vmimg disk undo` brings them back
    ");
    assert!(fs::read(sandbox.path("disk2.raw")).unwrap() == bytes);
    sandbox.done("disk mkdir disk2.raw /srv");
    assert_ne!(inode(&sandbox, "disk2.raw"), before);
    sandbox.tool("e2fsck").args(["-fn", "disk2.raw"]).run();
}

#[test]
fn more_than_the_journal_takes_is_changed_in_a_copy_or_refused() {
    let sandbox = crate::sandbox();
    // Each inode has a block of its own.
    (0..1100).for_each(|number| drop(sandbox.file(&format!("many/{number}"), "")));
    let new = "-q -t ext4 -b 1024 -I 1024 -N 2000 -J size=1 -d many fs.raw 32M";
    sandbox.tool("mke2fs").args(new.split(' ')).run();
    let before = fs::read(sandbox.path("fs.raw")).unwrap();
    let outcome = sandbox.run("disk chown -R --in-place fs.raw 1000 /");
    assert_eq!(outcome.status, 5, "{outcome}");
    assert!(outcome.stderr.contains("journal has room for 1023 blocks"), "{outcome}");
    assert!(fs::read(sandbox.path("fs.raw")).unwrap() == before);
    sandbox.done("disk chown -R fs.raw 1000 /");
    sandbox.tool("e2fsck").args(["-fn", "fs.raw"]).run();
}

#[test]
fn a_block_device_is_changed_in_place_unless_it_is_in_use() {
    let sandbox = disk();
    sandbox.file("motd", "hello\n");
    let device = Loop::attach(&sandbox.path("disk.raw"));
    let name = device.path();
    sandbox.done(&format!("disk put {name} motd /etc/motd"));
    assert_eq!(sandbox.done(&format!("disk cat {name} /etc/motd")), "hello\n");
    sandbox.done(&format!("disk grow {name}"));
    let refused = sandbox.run(&format!("disk mkdir --copy {name} /srv"));
    assert_eq!(refused.status, 2, "{refused}");
    drop(device);
    check(&sandbox, "63");
    // The same with the file system alone, mounted.
    sandbox.tool("mke2fs").args(["-q", "-t", "ext4", "alone.raw", "32M"]).run();
    let device = Loop::attach(&sandbox.path("alone.raw"));
    let mounted = Mounted::device(device.path(), "ro").unwrap();
    let refused = sandbox.run(&format!("disk mkdir {} /srv", device.path()));
    assert_eq!(refused.status, 6, "{refused}");
    assert!(refused.stderr.contains("is in use: it is mounted"), "{refused}");
    drop(mounted);
    sandbox.done(&format!("disk mkdir {} /srv", device.path()));
    let mounted = Mounted::device(device.path(), "rw").unwrap();
    assert!(mounted.path("srv").is_dir());
}

#[test]
fn a_file_behind_a_loop_device_is_left_alone_and_stays_readable() {
    let sandbox = disk();
    sandbox.file("motd", "hello\n");
    sandbox.tool("mke2fs").args(["-q", "-t", "ext4", "-d", "tree", "live.raw", "32M"]).run();
    fs::hard_link(sandbox.path("live.raw"), sandbox.path("other name")).unwrap();
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    let writes = [
        "disk put live.raw motd /etc/motd",
        "disk put --copy live.raw motd /etc/motd",
        "disk put --undo-log log live.raw motd /etc/motd",
        "disk mkfs --force ext4 live.raw",
        "nbd serve --socket socket live.raw",
    ];
    let refused = |line: &str| {
        let refused = sandbox.run(line);
        assert_ne!(refused.status, 0, "{line}: {refused}");
        assert!(refused.stderr.contains("live.raw` is in use: it is behind the loop device `/dev/loop"), "{line}: {refused}");
    };
    for options in ["rw", "ro"] {
        let _mounted = Mounted::open(&sandbox.path("live.raw"), options).unwrap();
        writes.iter().for_each(|line| refused(line));
        refused("image resize -f raw live.raw 64M");
        refused("image convert -f raw -O raw disk.raw live.raw");
        assert_eq!(sandbox.done("disk cat live.raw /etc/hostname"), "base\n");
        if options == "rw" {
            refused("prepare web1 --root machines --image live.raw --format raw");
        }
    }
    // Somebody still looks at the device of a file system that was unmounted.
    let mounted = Mounted::open(&sandbox.path("live.raw"), "rw").unwrap();
    let name = sandbox.tool("losetup").args(["-n", "-O", "NAME", "-j", "live.raw"]).run();
    let looks = fs::File::open(name.trim()).unwrap();
    drop(mounted);
    sandbox.done("disk mkdir --in-place live.raw /srv");
    drop(looks);
    let device = Loop::attach(&sandbox.path("other name"));
    writes.iter().for_each(|line| refused(line));
    drop(device);
    let device = Loop::attach_read_only(&sandbox.path("live.raw"));
    sandbox.done("disk put --in-place live.raw motd /etc/motd");
    drop(device);
    sandbox.tool("e2fsck").args(["-fn", "live.raw"]).run();
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
}

#[test]
fn the_disk_of_an_image_is_made_larger_with_its_file_system() {
    let sandbox = disk();
    sandbox.tool("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2"]).run();
    for image in ["disk.raw", "disk.qcow2"] {
        let before = inode(&sandbox, image);
        let grown: serde_json::Value =
            serde_json::from_str(&sandbox.done(&format!("disk grow --json --size 200M {image}"))).unwrap();
        assert!(grown["file_system"]["new_size"].as_u64().unwrap() > 198 << 20, "{grown}");
        assert_eq!(inode(&sandbox, image), before);
        assert_eq!(sandbox.run(&format!("disk grow --size 100M {image}")).status, 6);
        sandbox.done(&format!("disk grow --copy --size 210M {image}"));
        assert_ne!(inode(&sandbox, image), before);
    }
    check(&sandbox, "209");
    assert!(sandbox.tool("sgdisk").args(["-v", "disk.raw"]).run().contains("No problems found"));
    sandbox.tool("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2", "disk.raw", "disk.qcow2"]).run();
}

#[test]
fn what_has_no_journal_is_changed_in_place_with_an_undo_log() {
    let sandbox = disk();
    sandbox.tool("mke2fs").args(["-q", "-t", "ext2", "-d", "tree", "ext2.raw", "16M"]).run();
    sandbox.tool("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2", "ext2.raw", "ext2.qcow2"]).run();
    let old = fs::read(sandbox.path("ext2.raw")).unwrap();
    let device = Loop::attach(&sandbox.path("ext2.raw"));
    let refused = sandbox.run(&format!("disk mkdir {} /srv", device.path()));
    assert_eq!(refused.status, 5, "{refused}");
    assert!(refused.stderr.contains("`--undo-log FILE`"), "{refused}");
    for image in [device.path(), "ext2.qcow2"] {
        sandbox.done(&format!("disk mkdir --undo-log log {image} /srv"));
        assert_eq!(sandbox.run(&format!("disk mkdir --undo-log log {image} /tmp")).status, 6);
        assert!(sandbox.done(&format!("disk ls {image}")).contains("srv"));
        assert!(sandbox.done(&format!("disk undo {image} log")).ends_with(" restored\n"));
        assert_eq!(sandbox.done(&format!("disk undo {image} log")), "nothing to undo: the disk is as before the change\n");
        fs::rename(sandbox.path("log"), sandbox.path(format!("log-{}", image.contains("qcow2")))).unwrap();
    }
    drop(device);
    assert!(fs::read(sandbox.path("ext2.raw")).unwrap() == old);
    sandbox.tool("qemu-img").args(["compare", "-q", "ext2.raw", "ext2.qcow2"]).run();
    sandbox.tool("qemu-img").args(["check", "-q", "ext2.qcow2"]).run();
    // Another disk, even one with the same contents, unless that is meant; and never one that was written since.
    let refused = sandbox.run("disk undo ext2.raw log-true");
    assert_eq!(refused.status, 6, "{refused}");
    sandbox.done("disk undo --moved ext2.raw log-true");
    sandbox.done("disk mkdir ext2.qcow2 /other");
    let refused = sandbox.run("disk undo ext2.qcow2 log-true");
    assert_eq!(refused.status, 6, "{refused}");
    assert!(refused.stderr.contains("neither as before the change nor as after it"), "{refused}");
    let log = fs::read(sandbox.path("log-true")).unwrap();
    sandbox.file("torn", &log[..log.len() / 2]);
    let refused = sandbox.run("disk undo ext2.qcow2 torn");
    assert_eq!(refused.status, 4, "{refused}");
    assert!(sandbox.done("disk ls ext2.qcow2").contains("other"));
}

#[test]
fn a_partition_table_and_a_new_file_system_are_taken_back_as_well() {
    let sandbox = disk();
    let old = fs::read(sandbox.path("disk.raw")).unwrap();
    sandbox.done("disk grow --undo-log grown disk.raw");
    check(&sandbox, "63");
    sandbox.done("disk mkfs --force --partition 1 --undo-log made ext4 disk.raw");
    let refused = sandbox.run("disk undo disk.raw grown");
    assert_eq!(refused.status, 6, "{refused}");
    sandbox.done("disk undo disk.raw made");
    sandbox.done("disk undo disk.raw grown");
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == old);
}
