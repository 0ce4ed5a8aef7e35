//! An SSH key is put into a disk behind other servers, and the connection ends at every write: the disk has the old files or
//! the new ones, also when the server then loses any of what it was not told to keep.

use std::fs;

use vmimg_tests::fuzz::Random;
use vmimg_tests::sandbox::Sandbox;

use crate::PROGRAM;
use crate::peer::Peer;
use crate::proxy::{Change, Cut, Proxy};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNob3J0bHkgYmVmb3JlIHRoZSBlbmQgb2YgbGlmZQ operator\n";

/// A sandbox with `base.raw`, a file system of a guest, the same as `base.qcow2`, and what is to be done to it.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.file("guest/etc/motd", "hello\n");
    sandbox.file("guest/root/.profile", "mesg n\n".repeat(900));
    let shape = "-q -t ext4 -b 1024 -J size=1 -d guest base.raw 16M";
    sandbox.tool("mke2fs").args(shape.split(' ')).run();
    sandbox.tool("qemu-img").args("convert -f raw -O qcow2 base.raw base.qcow2".split(' ')).run();
    // What grows must have room: an export keeps its size.
    fs::File::options().write(true).open(sandbox.path("base.qcow2")).unwrap().set_len(32 << 20).unwrap();
    sandbox.file("key", KEY);
    let edits = r#"[{"op": "mkdir", "path": "/root/.ssh", "mode": "0700"},
        {"op": "write", "path": "/root/.ssh/authorized_keys", "src": "key", "mode": "0600"}]"#;
    sandbox.file("edits.json", edits);
    sandbox
}

/// Returns whether `disk.raw` has the new files; otherwise it has the old ones.
#[track_caller]
fn is_new(sandbox: &Sandbox, what: &str) -> bool {
    let seen = |path: &str| sandbox.run(&format!("disk cat -f raw disk.raw {path}"));
    // Our own reader takes the journal into account, e2fsck brings it home: both see the same.
    let before = seen("/root/.ssh/authorized_keys");
    let replayed = sandbox.tool("e2fsck").args(["-fp", "disk.raw"]).output().status.code();
    assert!(matches!(replayed, Some(0 | 1)), "{what}: {replayed:?}");
    let sound = sandbox.tool("e2fsck").args(["-fn", "disk.raw"]).output();
    assert!(sound.status.success(), "{what}: {}", String::from_utf8_lossy(&sound.stdout));
    let after = seen("/root/.ssh/authorized_keys");
    assert_eq!(before, after, "{what}");
    assert_eq!(seen("/etc/motd").stdout, "hello\n", "{what}");
    assert_eq!(seen("/root/.profile").stdout, "mesg n\n".repeat(900), "{what}");
    match after.status {
        0 => assert_eq!(after.stdout, KEY, "{what}"),
        status => assert!(status == 3 && after.stderr.contains("/root/.ssh"), "{what}: {after}"),
    }
    after.status == 0
}

/// Has `program` serve a fresh `disk.FORMAT`, and cuts the connection; returns the changes that came through, and whether the
/// disk is new.
#[track_caller]
fn inject(sandbox: &Sandbox, program: &str, line: &str, image: &str, format: &str, cut: Cut) -> (Vec<Change>, bool) {
    fs::copy(sandbox.path(format!("base.{image}")), sandbox.path(format!("served.{image}"))).unwrap();
    let peer = Peer::start(sandbox, program, line);
    let proxy = Proxy::start(sandbox, &peer.uri, cut);
    let outcome = sandbox.run(&format!("disk inject -f {format} --manifest edits.json {}", proxy.uri));
    let what = format!("{program} {line} {cut:?}");
    assert_eq!(outcome.status == 0, cut == Cut::Never, "{what}: {outcome}");
    // The server is killed, and keeps what it was told to keep.
    drop(peer);
    sandbox.tool("qemu-img").args(["convert", "-f", image, "-O", "raw", &format!("served.{image}"), "disk.raw"]).run();
    (proxy.changes(), is_new(sandbox, &what))
}

#[expect(clippy::disallowed_methods, reason = "whoever runs the tests asks for more of them in the environment")]
fn every_cut() -> bool {
    std::env::var_os("VMIMG_EVERY_CUT").is_some()
}

#[test]
fn a_key_behind_any_server_is_there_or_not_whatever_write_is_the_last() {
    let sandbox = sandbox();
    for (program, line, image, format, step) in [
        ("qemu-nbd", "-t -f raw -e 8 -k SOCKET served.raw", "raw", "raw", 1),
        ("qemu-nbd", "-t -f qcow2 -e 8 -k SOCKET served.qcow2", "qcow2", "raw", 3),
        ("nbdkit", "-f -U SOCKET file served.raw", "raw", "raw", 5),
        ("nbdkit", "-f -U SOCKET file served.qcow2", "qcow2", "qcow2", 5),
    ] {
        let (changes, new) = inject(&sandbox, program, line, image, format, Cut::Never);
        assert!(new && changes.len() > 10, "{}", changes.len());
        let mut ends = Vec::new();
        for change in (0..changes.len()).step_by(if every_cut() { 1 } else { step }) {
            ends.push(inject(&sandbox, program, line, image, format, Cut::Change(change)).1);
        }
        // Once the new files are there, they stay.
        assert!(!ends[0] && ends.is_sorted(), "{program} {line}: {ends:?}");
    }
}

#[test]
fn what_a_server_loses_of_what_was_not_flushed_does_no_harm() {
    let sandbox = sandbox();
    let (changes, _) = inject(&sandbox, "qemu-nbd", "-t -f raw -e 8 -k SOCKET served.raw", "raw", "raw", Cut::Never);
    let base = fs::read(sandbox.path("base.raw")).unwrap();
    let mut random = Random::new(7);
    let mut durable = base;
    let epochs: Vec<&[Change]> = changes.split_inclusive(|change| *change == Change::Flush).collect();
    assert!(epochs.len() > 3, "{changes:?}");
    let rounds = if every_cut() { 40 } else { 5 };
    let mut ends = Vec::new();
    for epoch in epochs {
        for round in 0..rounds {
            let mut disk = durable.clone();
            epoch.iter().for_each(|change| apply(&mut disk, change, |_| random.below(2) == 0));
            fs::write(sandbox.path("disk.raw"), disk).unwrap();
            ends.push(is_new(&sandbox, &format!("round {round} after {} epochs", ends.len() / rounds)));
        }
        epoch.iter().for_each(|change| apply(&mut durable, change, |_| true));
        fs::write(sandbox.path("disk.raw"), &durable).unwrap();
        let new = is_new(&sandbox, "flushed");
        assert!(new || !ends.contains(&true), "what was new is old again");
    }
    assert!(ends.contains(&true) && ends.contains(&false));
}

/// Applies those sectors of a change that `stays` lets through.
fn apply(disk: &mut [u8], change: &Change, mut stays: impl FnMut(usize) -> bool) {
    let (offset, bytes) = match change {
        Change::Write(offset, bytes) => (*offset, bytes.clone()),
        Change::Zeroes(offset, len) => (*offset, vec![0; *len as usize]),
        Change::Flush => return,
    };
    for (index, sector) in bytes.chunks(512).enumerate() {
        if stays(index) {
            let at = offset as usize + index * 512;
            disk[at..at + sector.len()].copy_from_slice(sector);
        }
    }
}
