//! What is neither a file nor a folder, on the host and in a guest.

use std::fs;

use vmimg_tests::device::Loop;
use vmimg_tests::sandbox::Sandbox;

use crate::disk::{check, disk};

/// Runs a shell script in which `$vmimg` is the program, and returns its exit status and what it said.
fn shell(sandbox: &Sandbox, script: &str) -> (i32, String) {
    let output = sandbox.tool("bash").env("vmimg", env!("CARGO_BIN_EXE_vmimg-program")).args(["-c", script]).output();
    let outcome = sandbox.outcome(output);
    (outcome.status, outcome.to_string())
}

#[test]
fn what_comes_through_a_pipe_becomes_a_file() {
    let sandbox = disk();
    for (script, path, text) in [
        ("$vmimg disk put disk.raw <(echo one) /etc/hostname", "/etc/hostname", "one\n"),
        ("echo two | $vmimg disk put disk.raw /dev/stdin /etc/two", "/etc/two", "two\n"),
        (
            "(sleep 0.5; echo three; sleep 0.5; echo four) | $vmimg disk put disk.raw - /etc/three",
            "/etc/three",
            "three\nfour\n",
        ),
        ("$vmimg disk put --mode 0600 disk.raw - /etc/four < tree/etc/hostname", "/etc/four", "base\n"),
        ("$vmimg disk put disk.raw /dev/null /etc/machine-id", "/etc/machine-id", ""),
        ("$vmimg disk put --tar <(tar -C tree/etc -c hostname) disk.raw /srv", "/srv/hostname", "base\n"),
        ("mkfifo fifo; (sleep 0.5; echo five > fifo) & $vmimg disk put disk.raw fifo /etc/five; wait", "/etc/five", "five\n"),
    ] {
        let (status, said) = shell(&sandbox, script);
        assert_eq!(status, 0, "{script}: {said}");
        assert_eq!(sandbox.done(&format!("disk cat disk.raw {path}")), text, "{script}");
    }
    assert!(sandbox.done("disk ls -l disk.raw /etc").contains("-rw-r--r--"));
    let modes = sandbox.done("disk stat disk.raw /etc/two /etc/four /etc/machine-id");
    assert_eq!(modes.matches("mode 0644").count(), 2, "{modes}");
    check(&sandbox, "32");
}

#[test]
fn a_copy_that_copies_nothing_fails() {
    let sandbox = disk();
    sandbox.done("disk mkdir disk.raw /srv");
    sandbox.tool("mknod").args(["null", "c", "1", "3"]).run();
    sandbox.done("disk put --archive disk.raw null /srv/null");
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    for (script, status) in [
        ("$vmimg disk put disk.raw /dev/zero /srv/x", 5),
        ("$vmimg disk put --json disk.raw /dev/zero /srv/x", 5),
        ("$vmimg disk get disk.raw /srv/null out", 5),
        ("head -c 40M /dev/zero | $vmimg disk put disk.raw - /srv/x", 6),
        ("echo x | $vmimg disk put disk.raw - /srv", 6),
        // Nothing comes, and a signal ends the wait.
        ("mkfifo fifo; timeout 1 $vmimg disk put disk.raw fifo /srv/x", 124),
    ] {
        let (found, said) = shell(&sandbox, script);
        assert_eq!(found, status, "{script}: {said}");
        assert!(!sandbox.path("out").exists());
    }
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
}

#[test]
fn an_archive_for_a_device_is_kept_where_temporary_files_are() {
    let sandbox = disk();
    let device = Loop::attach(&sandbox.path("disk.raw"));
    let script = format!("tar -C tree -c etc | TMPDIR=none $vmimg disk put --tar - {} /srv", device.path());
    let (status, said) = shell(&sandbox, &script);
    assert!(status == 3 && said.contains("cannot keep standard input in `[SANDBOX]/none`"), "{said}");
    let (status, said) = shell(&sandbox, &script.replace("TMPDIR=none ", ""));
    assert_eq!(status, 0, "{said}");
    drop(device);
    assert_eq!(sandbox.done("disk cat disk.raw /srv/etc/hostname"), "base\n");
}

#[test]
fn an_image_is_not_put_into_itself() {
    let sandbox = disk();
    sandbox.file("list", r#"[{"op": "write", "path": "/srv/x", "src": "link"}]"#);
    std::os::unix::fs::symlink("disk.raw", sandbox.path("link")).unwrap();
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    for command in ["put -a disk.raw . /srv", "put --copy disk.raw link /srv/x", "inject --manifest list disk.raw"] {
        let outcome = sandbox.run(&format!("disk {command}"));
        assert_eq!(outcome.status, 6, "{command}: {outcome}");
        assert!(outcome.stderr.contains("is the image itself"), "{command}: {outcome}");
    }
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
}
