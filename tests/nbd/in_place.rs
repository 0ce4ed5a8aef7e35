//! File systems behind exports are changed in place.

use std::fs;

use vmimg_tests::sandbox::Sandbox;

use crate::peer::Peer;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(crate::PROGRAM);
    sandbox.tool("mke2fs").args(["-q", "-t", "ext4", "fs.raw", "32M"]).run();
    sandbox.file("motd", "hello\n");
    sandbox
}

#[test]
fn an_export_is_changed_by_a_transaction_of_the_journal() {
    let sandbox = sandbox();
    for format in ["raw", "qcow2"] {
        let image = format!("served.{format}");
        sandbox.tool("qemu-img").args(["convert", "-f", "raw", "-O", format, "fs.raw", &image]).run();
        let server = Peer::start(&sandbox, "qemu-nbd", &format!("--persistent -f {format} --socket SOCKET {image}"));
        sandbox.done(&format!("disk mkdir {} /etc", server.uri));
        sandbox.done(&format!("disk put {} motd /etc/motd", server.uri));
        assert_eq!(sandbox.done(&format!("disk cat {} /etc/motd", server.uri)), "hello\n");
        let refused = sandbox.run(&format!("disk put --copy {} motd /etc/motd", server.uri));
        assert_eq!(refused.status, 2, "{refused}");
        drop(server);
        sandbox.tool("qemu-img").args(["convert", "-f", format, "-O", "raw", &image, "after.raw"]).run();
        sandbox.tool("e2fsck").args(["-fn", "after.raw"]).run();
    }
}

#[test]
fn a_qcow2_image_behind_an_export_is_changed_as_one() {
    let sandbox = sandbox();
    sandbox.tool("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2", "fs.raw", "image.qcow2"]).run();
    // What grows must have room: an export keeps its size.
    fs::File::options().write(true).open(sandbox.path("image.qcow2")).unwrap().set_len(64 << 20).unwrap();
    let server = Peer::start(&sandbox, "qemu-nbd", "--persistent -f raw --socket SOCKET image.qcow2");
    sandbox.done(&format!("disk mkdir -f qcow2 {} /etc", server.uri));
    drop(server);
    sandbox.tool("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw", "image.qcow2", "after.raw"]).run();
    sandbox.tool("e2fsck").args(["-fn", "after.raw"]).run();
    assert_eq!(sandbox.done("disk ls after.raw"), "etc\nlost+found\n");
}

#[test]
fn a_server_without_flush_gets_no_write() {
    let sandbox = sandbox();
    let before = fs::read(sandbox.path("fs.raw")).unwrap();
    // 3 is "no": it can be written and not be flushed.
    let script = "case $1 in
        get_size) stat -L -c %s fs.raw ;;
        pread) dd if=fs.raw iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none ;;
        pwrite) dd of=fs.raw oflag=seek_bytes seek=$4 conv=notrunc status=none ;;
        can_write) exit 0 ;;
        can_flush) exit 3 ;;
        *) exit 2 ;;
    esac\n";
    sandbox.file("server.sh", format!("#!/bin/sh\ncd {}\n{script}", sandbox.path("").display()));
    sandbox.tool("chmod").args(["+x", "server.sh"]).run();
    let server = Peer::start(&sandbox, "nbdkit", "-f -U SOCKET sh server.sh");
    let refused = sandbox.run(&format!("disk mkdir {} /etc", server.uri));
    assert_eq!(refused.status, 6, "{refused}");
    assert!(refused.stderr.contains("offers no FLUSH"), "{refused}");
    drop(server);
    assert!(fs::read(sandbox.path("fs.raw")).unwrap() == before);
}
