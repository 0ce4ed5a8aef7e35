//! Servers that vanish or lie: the program says so, soon, and leaves nothing behind.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use vmimg_tests::sandbox::Sandbox;

use crate::PROGRAM;
use crate::peer::Peer;
use crate::proxy::{Cut, Proxy};

/// Asserts that the program fails with words, within a few seconds and little memory, and makes no file.
#[track_caller]
fn assert_fails(sandbox: &Sandbox, line: &str, what: &str) -> String {
    let names = sandbox.names();
    let begun = Instant::now();
    let limited = format!("ulimit -v 1000000; exec {PROGRAM} {line}");
    let outcome = sandbox.outcome(sandbox.tool("bash").args(["-c", &limited]).output());
    assert!(begun.elapsed() < Duration::from_secs(15), "{what}: {line}: {:?}", begun.elapsed());
    assert!((1..100).contains(&outcome.status), "{what}: {line}: {outcome}");
    assert!(outcome.stderr.starts_with("error: ") && !outcome.stderr.contains('\x1b'), "{what}: {line}: {outcome}");
    assert_eq!(sandbox.names(), names, "{what}: {line}");
    outcome.stderr
}

#[test]
fn a_server_that_vanishes_at_any_moment_leaves_no_half_copy() {
    let sandbox = Sandbox::new(PROGRAM);
    let bytes: Vec<u8> = (0..5_u32 << 20).map(|at| (at / 1000 % 251) as u8).collect();
    sandbox.file("disk.raw", &bytes);
    sandbox.file("there.raw", &bytes);
    let peer = Peer::start(&sandbox, "qemu-nbd", "-t -f raw -e 8 -k SOCKET disk.raw");
    let whole = Proxy::start(&sandbox, &peer.uri, Cut::Never);
    sandbox.done(&format!("image compare there.raw {}", whole.uri));
    // The handshake byte by byte in steps, and the middle and the end of the contents.
    let said = whole.said();
    assert!(said > bytes.len());
    for byte in (0..600).step_by(37).chain([3 << 20, bytes.len() - 1]) {
        for line in ["image convert -O qcow2 URI out.qcow2", "image compare there.raw URI", "disk inspect URI"] {
            if line.starts_with("disk") && byte > 600 {
                continue;
            }
            let proxy = Proxy::start(&sandbox, &peer.uri, Cut::Byte(byte));
            let said = assert_fails(&sandbox, &line.replace("URI", &proxy.uri), &format!("after {byte} bytes"));
            assert!(said.contains(&proxy.uri), "{said}");
        }
    }
    // Writing: at some of the requests, of which the last is the flush.
    let whole = Proxy::start(&sandbox, &peer.uri, Cut::Never);
    sandbox.done(&format!("image convert -n -O raw there.raw {}", whole.uri));
    let changes = whole.changes().len();
    for change in [0, 1, changes / 2, changes - 1] {
        let proxy = Proxy::start(&sandbox, &peer.uri, Cut::Change(change));
        assert_fails(&sandbox, &format!("image convert -n -O raw there.raw {}", proxy.uri), &format!("at change {change}"));
        assert_eq!(proxy.changes().len(), change);
    }
}

#[test]
fn errors_of_a_server_come_through_and_are_not_taken_for_bytes() {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.file("disk.raw", vec![7; 3 << 20]);
    for (filter, line, why) in [
        ("error-pread-rate=100% error-pread=EIO", "image convert -O raw URI out.raw", "cannot read"),
        ("error-pread-rate=100% error-pread=ENOMEM", "image info URI", "cannot read"),
        ("error-extents-rate=100%", "image map URI", "cannot find holes"),
        ("error-pwrite-rate=100% error-pwrite=ENOSPC", "image convert -n -O raw disk.raw URI", "no space"),
        ("error-pwrite-rate=100% error-pwrite=EPERM", "image convert -n -O raw disk.raw URI", "not permitted"),
        ("error-rate=90%", "image convert -n -O raw disk.raw URI", "nbd+unix"),
    ] {
        let peer = Peer::start(&sandbox, "nbdkit", &format!("-f -U SOCKET --filter=error memory 3M {filter}"));
        let said = assert_fails(&sandbox, &line.replace("URI", &peer.uri), filter);
        assert!(said.to_lowercase().contains(why), "{filter}: {said}");
    }
}

#[test]
fn what_is_no_nbd_server_is_told_apart() {
    let sandbox = Sandbox::new(PROGRAM);
    let oldstyle = [&b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53"[..], &[0; 136]].concat();
    for (number, (what, said)) in [
        ("a web server", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("an SSH server", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n".to_vec()),
        ("a server of the oldest style", oldstyle),
        ("escape sequences", [&b"NBDMAGICIHAVEOPT\0\x03"[..], b"\x1b[2Joops".repeat(100).as_slice()].concat()),
        ("nothing", Vec::new()),
    ]
    .into_iter()
    .enumerate()
    {
        let listener = UnixListener::bind(sandbox.path(format!("s{number}"))).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _gone = stream.write_all(&said);
            let _gone = stream.shutdown(std::net::Shutdown::Write);
            let _gone = stream.read_to_end(&mut Vec::new());
        });
        let line = format!("image convert -O raw nbd+unix:///?socket=s{number} out.raw");
        let said = assert_fails(&sandbox, &line, what);
        assert!(said.contains("NBD protocol") || said.contains("the connection"), "{what}: {said}");
        thread.join().unwrap();
    }
}
