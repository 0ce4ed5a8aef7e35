//! For how long a server is waited for, and with how much memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::server::{ALL_FLAGS, CONTEXT, SIZE, Sent, Server, at, byte, error, status};
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Hole, extents};
use crate::nbd::Stop;
use crate::nbd::client::reply::Answer;
use crate::nbd::client::{Access, NbdDisk, Patience};
use crate::nbd::wire::{BlockSizes, Command, HeaderStyle, OptionCode, Request, StatusExtent};

/// Returns what `work` ends with, which takes less than half a minute.
fn soon<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(work()));
    told.recv_timeout(Duration::from_secs(30)).expect("it is waited for")
}

/// What a client does.
type Work = fn(&mut NbdDisk) -> Result<(), Error>;

fn silent(_: &Request, _: Vec<u8>) -> Sent {
    Some(Vec::new())
}

#[test]
fn a_server_that_does_not_tell_its_holes_is_waited_for_as_for_any_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server { size: 1 << 40, ..Server::new(HeaderStyle::Extended) }.request(Command::BlockStatus, silent);
    let disk = Arc::new(server).open(folder.path(), Access::Read).unwrap();
    assert_eq!(soon(move || disk.extent_at(0).unwrap_err().kind()), ErrorKind::Io);
}

#[test]
fn requests_without_a_payload_cost_what_does_not_grow_with_them() {
    let cost = |command, len| {
        let range = ByteRange::at(0, len).unwrap();
        Answer::new(HeaderStyle::Extended, command, range, 0, &mut []).cost()
    };
    assert_eq!([cost(Command::Read, 1 << 20), cost(Command::Write, 1 << 20)], [1 << 20; 2]);
    assert_eq!([cost(Command::BlockStatus, 1 << 30), cost(Command::Flush, 0)], [0; 2]);
    assert!(cost(Command::WriteZeroes, 1 << 40) < 4 << 20);
}

#[test]
fn zeros_are_asked_for_in_requests_of_the_length_that_the_server_takes() {
    for maximum in [4096, 64 << 10, u32::MAX] {
        let folder = tempfile::tempdir().unwrap();
        let blocks = BlockSizes { minimum: 512, preferred: 4096, maximum };
        let server =
            Server { blocks, ..Server::new(HeaderStyle::Structured) }.request(Command::WriteZeroes, move |request, honest| {
                Some(if request.len > u64::from(maximum) {
                    error(HeaderStyle::Structured, request, true, 22, None)
                } else {
                    honest
                })
            });
        let server = Arc::new(server);
        let mut disk = server.open(folder.path(), Access::ReadWrite).unwrap();
        disk.write_zeroes_at(ByteRange::new(0, SIZE as u64).unwrap(), Hole::Allow).unwrap();
        disk.flush().unwrap();
        assert!(server.disk.lock().unwrap().iter().all(|byte| *byte == 0));
        let longest = server.seen.lock().unwrap().iter().map(|request| request.len).max();
        assert_eq!(longest, Some((SIZE as u64).min(u64::from(maximum))));
    }
}

#[test]
fn a_long_read_in_small_pieces_is_read_in_batches() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = BlockSizes { minimum: 1, preferred: 512, maximum: 512 };
    let server = Arc::new(Server { blocks, ..Server::new(HeaderStyle::Simple) });
    let disk = server.open(folder.path(), Access::Read).unwrap();
    let mut bytes = vec![0; SIZE - 5];
    disk.read_exact_at(&mut bytes, 5).unwrap();
    assert!(bytes.iter().enumerate().all(|(at, found)| *found == byte(at + 5)));
}

/// What a client does with a server that it was asked not to wait for, some time before or while it does.
fn stopped(server: Server, work: impl Fn(&mut NbdDisk) -> Result<(), Error> + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(server).start(folder.path());
    let asked = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&asked);
    let uri = at(folder.path()).with_stop(Stop::when(move || stop.load(SeqCst)));
    let begun = Instant::now();
    let worker = std::thread::spawn(move || {
        soon(move || NbdDisk::open(&uri, Access::ReadWrite, Patience::default()).and_then(|mut disk| work(&mut disk)))
    });
    std::thread::sleep(Duration::from_millis(300));
    asked.store(true, SeqCst);
    let why = worker.join().unwrap().unwrap_err();
    let why = std::iter::successors(Some(&why as &dyn std::error::Error), |error| error.source()).last().unwrap().to_string();
    assert!(why.contains("interrupted"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_silent_server_is_not_waited_for_once_the_program_is_to_stop() {
    let of = |command| Server::new(HeaderStyle::Extended).request(command, silent);
    let zeros = |disk: &mut NbdDisk| {
        disk.write_zeroes_at(ByteRange::new(0, 4096).unwrap(), Hole::Allow)?;
        disk.flush()
    };
    let works: Vec<(Server, Work)> = vec![
        (Server::new(HeaderStyle::Extended).option(OptionCode::Go, |_| Some(Vec::new())), |_| Ok(())),
        (of(Command::Read), |disk| disk.read_exact_at(&mut [0; 9000], 0)),
        (of(Command::BlockStatus), |disk| disk.extent_at(0).map(drop)),
        (of(Command::Flush), |disk| disk.flush()),
        (of(Command::WriteZeroes), zeros),
    ];
    std::thread::scope(|scope| {
        for (server, work) in works {
            scope.spawn(move || stopped(server, work));
        }
    });
}

#[test]
fn a_server_with_extents_without_end_is_not_listened_to_once_the_program_is_to_stop() {
    let one = |request: &Request, _| {
        Some(status(HeaderStyle::Extended, request, CONTEXT, vec![StatusExtent { len: request.len.min(4096), flags: 0 }]))
    };
    let server =
        Server { size: 1 << 62, flags: ALL_FLAGS, ..Server::new(HeaderStyle::Extended) }.request(Command::BlockStatus, one);
    stopped(server, |disk| {
        let all = ByteRange::new(0, disk.size()).unwrap();
        extents(disk, all).try_for_each(|extent| extent.map(drop))
    });
}
