//! Clients that are slow, silent or lie: they get nothing, and others do not notice.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmimg_tests::sandbox::Sandbox;

use crate::PROGRAM;
use crate::served::{Served, greeted};

fn served(options: &str) -> (Sandbox, Served) {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.file("disk.raw", vec![7; 64 << 20]);
    let served = Served::start(&sandbox, &format!("-f raw -k s.sock {options} disk.raw"), 1);
    (sandbox, served)
}

/// Asserts that an honest client is served at once.
#[track_caller]
fn assert_serves(sandbox: &Sandbox, served: &Served) {
    let begun = Instant::now();
    sandbox.tool("qemu-io").args(["-f", "raw", "-c", "read -P 7 0 65536", &served.uris[0]]).run();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// A client in transmission with simple replies.
fn transmitting(sandbox: &Sandbox) -> UnixStream {
    let mut stream = greeted(&sandbox.path("s.sock"));
    stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    stream
}

fn request(command: u8, cookie: u8, len: u32) -> Vec<u8> {
    let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, command, 0, 0, 0, 0, 0, 0, 0, cookie];
    bytes.extend(0_u64.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// Reads until the other side ends.
fn read_to_end(mut stream: UnixStream) -> bool {
    let mut buf = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn handshakes_that_never_end_make_room_for_others() {
    let (sandbox, served) = served("--handshake-limit 2");
    let silent: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(sandbox.path("s.sock")).unwrap()).collect();
    assert_serves(&sandbox, &served);
    // Those that had to make room are about to leave.
    let begun = Instant::now();
    while served.status("Threads") > 80 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} threads", served.status("Threads"));
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(silent);
    let begun = Instant::now();
    let mut half = greeted(&sandbox.path("s.sock"));
    half.write_all(b"IHAVEOPT\0\0\0\x06\0\0\xff\0").unwrap();
    // One byte now and then does not make the time longer.
    while half.write_all(b"O").is_ok() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!((1..60).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(served.stop().0, Some(0));
}

#[test]
fn lengths_that_lie_hold_no_memory_and_end_the_connection() {
    let (sandbox, served) = served("");
    let before = served.status("VmHWM");
    let mut huge = greeted(&sandbox.path("s.sock"));
    huge.write_all(b"IHAVEOPT\0\0\0\x06\xff\xff\xff\xff").unwrap();
    assert!(read_to_end(huge));
    let mut long = transmitting(&sandbox);
    long.write_all(&request(1, 1, u32::MAX)).unwrap();
    assert!(read_to_end(long));
    // Thirty clients that promise 32 MiB each, and never send them.
    let waiting: Vec<UnixStream> = (0..30)
        .map(|_| {
            let mut stream = transmitting(&sandbox);
            stream.write_all(&request(1, 1, 32 << 20)).unwrap();
            stream
        })
        .collect();
    assert_serves(&sandbox, &served);
    let grown = served.status("VmHWM").saturating_sub(before);
    assert!(grown < 100 << 10, "{grown} KiB");
    drop(waiting);
    assert_serves(&sandbox, &served);
}

#[test]
fn clients_that_do_not_take_their_replies_hold_a_few_pieces_and_nobody_up() {
    let (sandbox, served) = served("");
    let before = served.status("VmHWM");
    let deaf: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = transmitting(&sandbox);
            for cookie in 0..50 {
                stream.write_all(&request(0, cookie, 32 << 20)).unwrap();
            }
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    assert_serves(&sandbox, &served);
    let grown = served.status("VmHWM").saturating_sub(before);
    assert!(grown < 150 << 10, "{grown} KiB");
    // The end does not wait for them for long.
    let begun = Instant::now();
    assert_eq!(served.stop().0, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    drop(deaf);
}

#[test]
fn there_are_no_more_clients_than_there_may_be() {
    let (sandbox, served) = served("--shared 2");
    let (first, _second) = (transmitting(&sandbox), transmitting(&sandbox));
    let mut third = greeted(&sandbox.path("s.sock"));
    third.write_all(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0").unwrap();
    let mut reply = [0; 20];
    third.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..16], [0x80, 0, 0, 2], "against the policy");
    drop((first, third));
    let begun = Instant::now();
    while served.status("Threads") > 6 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} threads", served.status("Threads"));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_serves(&sandbox, &served);
}
