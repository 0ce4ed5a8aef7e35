//! Servers that leave at some byte, are slow, or are another one when they are met again.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::server::{ALL_FLAGS, HOLE, SIZE, Sent, Server, byte};
use crate::block::{BlockRead, BlockWrite, ErrorKind, ExtentKind};
use crate::nbd::client::{Access, NbdDisk};
use crate::nbd::wire::{Command, ExportSummary, HeaderStyle, Info, OptionCode, OptionReplyCode, OptionReplyHeader, flag};

const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];

/// Everything that a client does, which ends at the first failure; what it is told is true.
fn talk(server: &Arc<Server>, folder: &std::path::Path) -> Result<(), ErrorKind> {
    let work = || -> Result<(), crate::block::Error> {
        let mut disk = server.open(folder, Access::ReadWrite)?;
        assert_eq!(disk.size(), SIZE as u64);
        let mut bytes = [0xee; 60];
        disk.read_exact_at(&mut bytes, 9)?;
        assert!(bytes.iter().enumerate().all(|(at, found)| *found == byte(at + 9)));
        let extent = disk.extent_at(HOLE.start as u64)?;
        assert!(server.style == HeaderStyle::Simple || extent.kind == ExtentKind::Hole);
        disk.write_all_at(&[7; 40], 5000)?;
        disk.flush()?;
        assert_eq!(server.disk.lock().unwrap()[5000..5040], [7; 40], "a flush that succeeds has written everything");
        disk.read_exact_at(&mut bytes[..40], 5000)?;
        assert_eq!(bytes[..40], [7; 40]);
        Ok(())
    };
    work().map_err(|error| error.kind())
}

#[test]
fn a_server_that_leaves_after_any_byte_gives_an_error() {
    for style in STYLES {
        let mut whole = 0;
        for breath in (0..2000).step_by(if style == HeaderStyle::Structured { 1 } else { 7 }) {
            let folder = tempfile::tempdir().unwrap();
            let server = Arc::new(Server { breath: AtomicUsize::new(breath), ..Server::new(style) });
            match talk(&server, folder.path()) {
                Ok(()) => {
                    whole = breath;
                    break;
                }
                Err(kind) => assert!(matches!(kind, ErrorKind::Io | ErrorKind::NotFound), "{style:?} {breath}: {kind:?}"),
            }
        }
        assert!(whole > 200, "{style:?}: {whole}");
    }
}

#[test]
fn a_server_that_sends_byte_by_byte_is_not_waited_for_longer_than_a_silent_one() {
    for style in STYLES {
        let folder = tempfile::tempdir().unwrap();
        let server = Arc::new(Server { pace: Some((0, Duration::from_millis(30))), ..Server::new(style) });
        let begun = Instant::now();
        assert_eq!(talk(&server, folder.path()), Err(ErrorKind::Io));
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
    // Long answers alone.
    let folder = tempfile::tempdir().unwrap();
    let server = Server { pace: Some((4096, Duration::from_millis(1))), ..Server::new(HeaderStyle::Structured) };
    let disk = Arc::new(server).open(folder.path(), Access::Read).unwrap();
    let begun = Instant::now();
    assert_eq!(disk.read_exact_at(&mut vec![0; 20_000], 0).map_err(|error| error.kind()), Err(ErrorKind::Io));
    assert!((Duration::from_millis(400)..Duration::from_secs(30)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

/// Reads from many threads at once, so that more connections are made, until one of them fails.
fn crowd(disk: &NbdDisk) -> Result<(), ErrorKind> {
    let together = Barrier::new(4);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4_usize)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    let mut bytes = [0; 500];
                    (0..20).try_for_each(|round| {
                        disk.read_exact_at(&mut bytes, round * 500)?;
                        assert!(bytes.iter().zip(round as usize * 500..).all(|(found, at)| *found == byte(at)));
                        Ok::<(), crate::block::Error>(())
                    })
                })
            })
            .collect();
        let ends = readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>();
        ends.into_iter().collect::<Result<(), _>>().map_err(|error| error.kind())
    })
}

/// A server of `CAN_MULTI_CONN` that answers [`OptionCode::Go`] with `later` on all connections but the first.
fn changed(later: impl Fn(Vec<u8>) -> Sent + Send + Sync + 'static) -> Arc<Server> {
    let met = AtomicUsize::new(0);
    let server = Server { flags: ALL_FLAGS | flag::transmission::CAN_MULTI_CONN, ..Server::new(HeaderStyle::Structured) };
    let server = server.option(OptionCode::Go, move |honest| match met.fetch_add(1, Relaxed) {
        0 => Some(honest),
        _ => later(honest),
    });
    Arc::new(server.request(Command::Read, |_, honest| {
        std::thread::sleep(Duration::from_millis(2));
        Some(honest)
    }))
}

fn described(size: u64, flags: u16) -> Vec<u8> {
    let message = |code, data: &[u8]| OptionReplyHeader::message(OptionCode::Go.number(), code, data);
    let info = Info::Export(ExportSummary { size, flags }).encode();
    [message(OptionReplyCode::Info, &info), message(OptionReplyCode::Ack, &[])].concat()
}

#[test]
fn a_server_that_shows_another_export_to_another_connection_is_found_out() {
    let multi = ALL_FLAGS | flag::transmission::CAN_MULTI_CONN;
    for (what, size, flags) in
        [("another size", SIZE as u64 / 2, multi), ("other flags", SIZE as u64, multi | flag::transmission::READ_ONLY)]
    {
        let folder = tempfile::tempdir().unwrap();
        let disk = changed(move |_| Some(described(size, flags))).open(folder.path(), Access::Read).unwrap();
        assert_eq!(crowd(&disk), Err(ErrorKind::Corrupt), "{what}");
    }
}

#[test]
fn a_server_that_takes_no_other_connection_is_used_over_the_first() {
    let refusal = |_| Some(OptionReplyHeader::message(OptionCode::Go.number(), OptionReplyCode::Policy, b"one is enough"));
    for server in [changed(refusal), changed(|_| None), changed(|_| Some(Vec::new()))] {
        let folder = tempfile::tempdir().unwrap();
        let disk = server.open(folder.path(), Access::Read).unwrap();
        assert_eq!(crowd(&disk), Ok(()));
    }
}
