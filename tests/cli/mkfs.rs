//! `vmimg disk mkfs`.

use std::fs;

use crate::sandbox;

const UUID: &str = "0a0b0c0d-1111-4222-8333-444455556666";

#[test]
fn a_new_image_holds_a_clean_file_system_and_the_same_bytes_each_time() {
    let sandbox = sandbox();
    let line = format!("disk mkfs -L data -U {UUID} ext4 -f raw one.raw 64M");
    insta::assert_snapshot!(sandbox.done(&line), @"ext4: 64 MiB, UUID 0a0b0c0d-1111-4222-8333-444455556666, label data");
    sandbox.tool("e2fsck").args(["-fn", "one.raw"]).run();
    sandbox.done(&line.replace("one.raw", "two.raw"));
    assert!(fs::read(sandbox.path("one.raw")).unwrap() == fs::read(sandbox.path("two.raw")).unwrap());
    sandbox.done("disk mkfs -f qcow2 --like debian-13 ext4 three.qcow2 2G");
    sandbox.tool("qemu-img").args(["check", "-q", "three.qcow2"]).run();
    assert!(fs::metadata(sandbox.path("three.qcow2")).unwrap().len() < 16 << 20);
    sandbox.tool("qemu-img").args(["convert", "-O", "raw", "three.qcow2", "three.raw"]).run();
    sandbox.tool("e2fsck").args(["-fn", "three.raw"]).run();
    let found = sandbox.tool("dumpe2fs").args(["-h", "three.raw"]).run();
    assert!(found.contains("orphan_file") && found.contains("metadata_csum_seed"), "{found}");
    insta::assert_snapshot!(sandbox.run(&line), @r"
    exit status 6
    --- stderr
    error: `one.raw` exists

    hint: without SIZE, its disk is used as it is
    hint: `--force` makes a new image in its place
    ");
}

#[test]
fn what_is_on_a_disk_is_overwritten_only_by_force() {
    let sandbox = sandbox();
    fs::File::create(sandbox.path("disk.raw")).unwrap().set_len(64 << 20).unwrap();
    let table = "label: gpt\nstart=2048, size=65536, type=L\nstart=67584, size=40960, type=S\n";
    sandbox.tool("sfdisk").args(["-q", "disk.raw"]).stdin(table).run();
    insta::assert_snapshot!(sandbox.run("disk mkfs -f raw ext4 disk.raw"), @r"
    exit status 6
    --- stderr
    error: the disk has a partition table on it

    hint: `--force` overwrites it
    hint: `vmimg disk inspect` shows what is there
    ");
    sandbox.done("disk mkfs -f raw --partition 1 -L root ext3 disk.raw");
    sandbox.done("disk mkfs -f raw --partition 2 -L swap0 swap disk.raw");
    insta::assert_snapshot!(sandbox.run("disk mkfs -f raw --partition 2 ext2 disk.raw"), @r"
    exit status 6
    --- stderr
    error: partition 2 has swap space on it

    hint: `--force` overwrites it
    hint: `vmimg disk inspect` shows what is there
    ");
    sandbox.done("disk mkfs -f raw --partition 2 --force ext2 disk.raw");
    let report = sandbox.done("disk inspect --json -f raw disk.raw");
    assert!(report.contains(r#""label": "root""#) && !report.contains("swap"), "{report}");
    sandbox.tool("e2fsck").args(["-fn", "disk.raw?offset=1048576"]).run();
    sandbox.tool("e2fsck").args(["-fn", "disk.raw?offset=34603008"]).run();
    // What has no name here is something as well, wherever it begins.
    for at in [0, 1024, 4096, 1 << 20, (64 << 20) - 4096] {
        let mut bytes = vec![0; 64 << 20];
        bytes[at..][..4].copy_from_slice(&[0x10, 0x20, 0xf5, 0xf2]);
        sandbox.file("other.raw", bytes);
        let refused = sandbox.run("disk mkfs -f raw ext4 other.raw");
        assert!(refused.status == 6 && refused.stderr.contains("the disk has something on it"), "{refused}");
    }
    sandbox.tool("qemu-img").args(["create", "-q", "-f", "qcow2", "image.qcow2", "8M"]).run();
    assert!(sandbox.run("disk mkfs -f raw ext4 image.qcow2").stderr.contains("a qcow2 image on it"));
    sandbox.done("disk mkfs -f raw --force swap disk.raw");
    assert!(sandbox.tool("blkid").args(["-p", "disk.raw"]).run().contains("swap"));
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let sandbox = sandbox();
    insta::assert_snapshot!(sandbox.run("disk mkfs -b 4096 swap swap.raw 1M"), @r"
    exit status 2
    --- stderr
    error: swap space and vfat have a label and a UUID, and no other options
    ");
    insta::assert_snapshot!(sandbox.run("disk mkfs -O bigalloc ext4 new.raw 1M"), @r"
    exit status 5
    --- stderr
    error: the feature `bigalloc` is not one that a new file system can be given

    hint: ext4(5) explains the features and their names
    ");
    insta::assert_snapshot!(sandbox.run("disk mkfs ext4 new.raw 20k"), @r"
    exit status 5
    --- stderr
    error: the ext4 file system cannot be made: 20480 bytes are too few for it

    hint: nothing was changed
    ");
    insta::assert_snapshot!(sandbox.done(&format!("disk mkfs -L ephemeral1 -U {UUID} vfat new.raw 20M")), @"vfat: 20 MiB, UUID 0A0B-0C0D, label ephemeral1");
    assert_eq!(sandbox.names(), ["new.raw"]);
}

#[test]
fn a_slip_of_a_new_user_is_told_with_what_was_meant() {
    let sandbox = sandbox();
    sandbox.file("tree/big", vec![7; 3 << 20]);
    for (line, status, said) in [
        ("ext4 20G", 3, "error: there is no `20G`\n\nhint: a new image has its SIZE behind its name, as in `data.raw 20G`\n"),
        (
            "--from tree ext4 new.raw 3M",
            6,
            "error: files of 3 MiB do not fit into a file system of 3 MiB\ncaused by: no space left",
        ),
        ("-N 100000 ext4 new.raw 1M", 5, "it has no room for so many inodes"),
        ("ext4 new.qcow2 1M", 0, "warning: `new.qcow2` becomes a raw image: `-f qcow2` makes one of qcow2\n"),
    ] {
        let outcome = sandbox.run(&format!("disk mkfs {line}"));
        assert!(outcome.status == status && outcome.stderr.contains(said), "{line}: {outcome}");
    }
    assert_eq!(sandbox.names(), ["new.qcow2", "tree"]);
}

#[test]
fn a_file_system_gets_the_size_that_is_asked_for() {
    let sandbox = sandbox();
    sandbox.done("disk mkfs ext4 disk.raw 64M");
    sandbox.done("image resize -f raw disk.raw 300M");
    insta::assert_snapshot!(sandbox.done("disk resize --fs 200M disk.raw"), @"file system: 64 MiB -> 200 MiB");
    sandbox.tool("e2fsck").args(["-fn", "disk.raw"]).run();
    insta::assert_snapshot!(sandbox.run("disk resize --fs 100M disk.raw"), @r"
    exit status 5
    --- stderr
    error: the ext4 file system has 209715200 bytes and is not made smaller: what lies behind the new end would have to move, which is not supported

    hint: nothing was changed
    ");
}

#[test]
fn a_folder_becomes_a_file_system() {
    let sandbox = sandbox();
    sandbox.file("tree/etc/hostname", "web1\n");
    sandbox.file("tree/big", vec![7; 3 << 20]);
    sandbox.tool("ln").args(["tree/big", "tree/etc/other name"]).run();
    sandbox.tool("ln").args(["-s", "../etc/hostname", "tree/etc/link"]).run();
    sandbox.tool("mkfifo").args(["tree/pipe"]).run();
    sandbox.tool("chmod").args(["0750", "tree/etc"]).run();
    sandbox.tool("touch").args(["-d", "@1700000000", "tree/etc", "tree/big", "tree"]).run();
    sandbox.done("disk mkfs --from tree ext4 disk.raw 64M");
    sandbox.tool("e2fsck").args(["-fn", "disk.raw"]).run();
    sandbox.tool("mkdir").args(["out"]).run();
    sandbox.tool("debugfs").args(["-R", "rdump / out", "disk.raw"]).run();
    sandbox.tool("rm").args(["-r", "out/lost+found"]).run();
    for name in ["big", "etc/hostname", "etc/other name"] {
        let bytes = |root: &str| fs::read(sandbox.path(root).join(name)).unwrap();
        assert!(bytes("tree") == bytes("out"), "{name}");
    }
    let said = |path: &str| sandbox.tool("debugfs").args(["-R", &format!("stat \"{path}\""), "disk.raw"]).run();
    assert!(said("/etc").contains("Mode:  0750") && said("/etc").contains("mtime: 0x6553f100"), "{}", said("/etc"));
    assert!(
        said("/big").contains("Links: 2") && said("/pipe").contains("FIFO") && said("/etc/link").contains("../etc/hostname")
    );
    assert!(said("/").contains("mtime: 0x6553f100"), "{}", said("/"));
}

#[test]
fn what_a_disk_was_before_leaves_no_trace() {
    let sandbox = sandbox();
    let (btrfs, gpt, xfs) = ("mkfs.btrfs -q x.raw", "sgdisk -n 1:2048:4096 x.raw", "mkfs.xfs -q x.raw");
    for (kind, before) in [("swap", btrfs), ("swap", gpt), ("vfat", gpt), ("vfat", xfs), ("ext4", btrfs)] {
        sandbox.tool("sh").args(["-ec", &format!("rm -f x.raw; truncate -s 350M x.raw; {before}")]).run();
        assert_eq!(sandbox.run(&format!("disk mkfs {kind} x.raw")).status, 6, "{before}");
        sandbox.done(&format!("disk mkfs --force {kind} x.raw"));
        assert_eq!(sandbox.tool("blkid").args(["-p", "-o", "value", "-s", "TYPE", "x.raw"]).run().trim(), kind, "{before}");
        let traces = sandbox.tool("wipefs").args(["-p", "x.raw"]).run();
        let types: Vec<&str> = traces.lines().filter_map(|line| line.rsplit(',').next()).collect();
        assert!(!types.iter().any(|kind| ["btrfs", "gpt", "PMBR", "xfs"].contains(kind)), "{before}: {traces}");
    }
}
