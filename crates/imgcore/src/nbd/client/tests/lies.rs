use std::sync::Arc;

use super::server::{CONTEXT, SIZE, Sent, Server, byte, chunk, data, error, hole, none, status};
use crate::block::{BlockRead, BlockWrite, ByteRange, ErrorKind, Hole};
use crate::nbd::client::{Access, NbdDisk};
use crate::nbd::wire::{ChunkKind, Command, HeaderStyle, Request, StatusExtent};

const OFFSET: u64 = 4096;
const LEN: u64 = 1000;

type Lie = fn(HeaderStyle, &Request, Vec<u8>) -> Sent;

/// Opens a server that answers `command` with `lie`.
fn liar(style: HeaderStyle, command: Command, lie: Lie) -> (tempfile::TempDir, NbdDisk) {
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Server::new(style).request(command, move |request, honest| lie(style, request, honest)));
    let disk = server.open(folder.path(), Access::ReadWrite).unwrap();
    (folder, disk)
}

fn read(disk: &NbdDisk) -> Result<(), ErrorKind> {
    let mut bytes = vec![0; LEN as usize];
    disk.read_exact_at(&mut bytes, OFFSET).map_err(|error| error.kind())
}

fn bytes(len: usize) -> Vec<u8> {
    vec![1; len]
}

/// An extent, of data.
fn run(len: u64) -> StatusExtent {
    StatusExtent { len, flags: 0 }
}

#[test]
fn no_read_is_short_or_invented() {
    use HeaderStyle::{Extended, Simple, Structured};
    const BOTH: &[HeaderStyle] = &[Structured, Extended];
    const ALL: &[HeaderStyle] = &[Simple, Structured, Extended];
    let lies: &[(&str, &[HeaderStyle], Lie)] = &[
        ("wrong magic", ALL, |_, _, honest| Some([&[0x11], &honest[1..]].concat())),
        ("a cookie that nobody sent", ALL, |style, request, _| {
            Some(data(style, &Request { cookie: request.cookie + 9, ..*request }, &[(OFFSET, &bytes(1000))]))
        }),
        ("a reply in chunks that was not agreed on", &[Simple], |_, request, _| {
            Some(data(Structured, request, &[(OFFSET, &bytes(1000))]))
        }),
        ("an extended reply that was not agreed on", &[Structured], |_, request, _| {
            Some(data(Extended, request, &[(OFFSET, &bytes(1000))]))
        }),
        ("a simple reply to a read", BOTH, |_, request, _| Some(data(Simple, request, &[(OFFSET, &bytes(1000))]))),
        ("a request for an answer", ALL, |style, request, _| Some(request.encode(style))),
        ("too short", BOTH, |style, request, _| Some(data(style, request, &[(OFFSET, &bytes(999))]))),
        ("too long", BOTH, |style, request, _| Some(data(style, request, &[(OFFSET, &bytes(1001))]))),
        ("before the request", BOTH, |style, request, _| Some(data(style, request, &[(OFFSET - 1, &bytes(1000))]))),
        ("behind the request", BOTH, |style, request, _| Some(data(style, request, &[(OFFSET + 1000, &bytes(1))]))),
        ("at the end of all", BOTH, |style, request, _| Some(data(style, request, &[(u64::MAX, &bytes(1000))]))),
        ("the same bytes twice", BOTH, |style, request, _| {
            Some(data(style, request, &[(OFFSET, &bytes(600)), (OFFSET, &bytes(400))]))
        }),
        ("chunks that overlap", BOTH, |style, request, _| {
            Some(data(style, request, &[(OFFSET, &bytes(600)), (OFFSET + 599, &bytes(401))]))
        }),
        ("chunks that overlap backwards", BOTH, |style, request, _| {
            Some(data(style, request, &[(OFFSET + 400, &bytes(600)), (OFFSET, &bytes(401))]))
        }),
        ("a gap", BOTH, |style, request, _| Some(data(style, request, &[(OFFSET, &bytes(400)), (OFFSET + 401, &bytes(599))]))),
        ("nothing at all", BOTH, |style, request, _| Some(chunk(style, request, 0, true, &[]))),
        ("an empty chunk", BOTH, |style, request, _| Some(data(style, request, &[(OFFSET, &[]), (OFFSET, &bytes(1000))]))),
        ("a chunk without its offset", BOTH, |style, request, _| Some(chunk(style, request, 1, true, &[0; 7]))),
        ("an empty hole", BOTH, |style, request, _| Some(hole(style, request, true, OFFSET, 0))),
        ("a hole that is too long", BOTH, |style, request, _| Some(hole(style, request, true, OFFSET, 1001))),
        ("a hole over data", BOTH, |style, request, _| {
            let first = data(style, request, &[(OFFSET, &bytes(1000))]);
            Some([&first[..4], &[0, 0], &first[6..], &hole(style, request, true, OFFSET, 1)].concat())
        }),
        ("a hole with a tail", BOTH, |style, request, _| Some(chunk(style, request, 2, true, &[0; 13]))),
        ("4 GiB of data", BOTH, |style, request, _| {
            let mut sent = data(style, request, &[(OFFSET, &bytes(1000))]);
            let at = if style == Extended { 28 } else { 16 };
            sent[at..at + 4].fill(255);
            Some(sent)
        }),
        ("status for a read", BOTH, |style, request, _| Some(status(style, request, CONTEXT, vec![run(1000)]))),
        ("a chunk of an unknown kind", BOTH, |style, request, _| Some(chunk(style, request, 77, true, &[0; 20]))),
        ("nothing that is not the end", BOTH, |style, request, _| Some(chunk(style, request, 0, false, &[]))),
        ("nothing with something in it", BOTH, |style, request, _| Some(chunk(style, request, 0, true, &[1]))),
        ("error 0", BOTH, |style, request, _| Some(error(style, request, true, 0, None))),
        ("an error somewhere else", BOTH, |style, request, _| Some(error(style, request, true, 5, Some(OFFSET + 1000)))),
        ("an error that is cut", BOTH, |style, request, _| Some(chunk(style, request, 0x8001, true, &[0, 0, 0, 5, 0, 9, 1]))),
        ("an error of a mebibyte", BOTH, |style, request, _| Some(chunk(style, request, 0x8001, true, &vec![1; 1 << 20]))),
        ("errors without end", BOTH, |style, request, _| {
            Some((0..9000).flat_map(|_| error(style, request, false, 5, None)).collect())
        }),
        ("the offset of another request", &[Extended], |style, request, honest| {
            let other = chunk(style, &Request { offset: 1, ..*request }, 1, true, &[]);
            Some([&other[..28], &honest[28..]].concat())
        }),
        ("a simple error after data", &[Structured], |_, request, _| {
            let mut first = data(Structured, request, &[(OFFSET, &bytes(10))]);
            first[5] = 0;
            Some([first, error(Simple, request, true, 5, None)].concat())
        }),
    ];
    for (what, styles, lie) in lies {
        for style in *styles {
            let (_folder, disk) = liar(*style, Command::Read, *lie);
            assert_eq!(read(&disk), Err(ErrorKind::Corrupt), "{what}, {style:?}");
            assert_eq!(read(&disk), Err(ErrorKind::Corrupt), "{what}, {style:?}: it is believed again");
        }
    }
}

#[test]
fn a_server_that_fails_vanishes_or_is_silent_gives_an_error_and_no_bytes() {
    let faults: &[(&str, Lie)] = &[
        ("an error", |style, request, _| Some(error(style, request, true, 5, None))),
        ("an unknown error", |style, request, _| Some(error(style, request, true, 4711, None))),
        ("it leaves", |_, _, _| None),
        ("silence", |_, _, _| Some(Vec::new())),
        ("half a header", |_, _, honest| Some(honest[..9].to_vec())),
        ("half of the bytes", |_, _, honest| Some(honest[..honest.len() / 2].to_vec())),
        ("all but one byte", |_, _, honest| Some(honest[..honest.len() - 1].to_vec())),
    ];
    for style in [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended] {
        for (what, fault) in faults {
            let (_folder, disk) = liar(style, Command::Read, *fault);
            assert_eq!(read(&disk), Err(ErrorKind::Io), "{what}, {style:?}");
        }
    }
    // Data, then an error at an offset; and an error that is followed by the end.
    let (_folder, disk) = liar(HeaderStyle::Structured, Command::Read, |style, request, _| {
        let failed = error(style, request, false, 5, Some(OFFSET + 5));
        Some([failed, chunk(style, request, 0, true, &[])].concat())
    });
    assert_eq!(read(&disk), Err(ErrorKind::Io));
}

#[test]
fn no_status_is_believed_that_is_not_about_the_request() {
    let lies: &[(&str, Lie)] = &[
        ("another context", |style, request, _| Some(status(style, request, CONTEXT + 1, vec![run(request.len)]))),
        ("an empty extent", |style, request, _| Some(status(style, request, CONTEXT, vec![run(0), run(4096)]))),
        ("no extent", |style, request, _| Some(status(style, request, CONTEXT, vec![]))),
        ("beyond the export", |style, request, _| Some(status(style, request, CONTEXT, vec![run(SIZE as u64), run(1)]))),
        ("far beyond the export", |style, request, _| Some(status(style, request, CONTEXT, vec![run(SIZE as u64 + 4096)]))),
        ("extents behind the end of the question", |style, request, _| {
            Some(status(style, request, CONTEXT, vec![run(SIZE as u64), run(4096), run(4096)]))
        }),
        ("half an extent", |style, request, honest| {
            let kind = if style == HeaderStyle::Extended { ChunkKind::BlockStatusExt } else { ChunkKind::BlockStatus };
            let from = honest.len() - 20;
            Some(chunk(style, request, kind.number(), true, &honest[from..]))
        }),
        ("the other width", |style, request, _| {
            let kind = if style == HeaderStyle::Extended { 5 } else { 6 };
            Some(chunk(style, request, kind, true, &[0, 0, 0, 7, 0, 0, 16, 0, 0, 0, 0, 0]))
        }),
        ("twice", |style, request, _| {
            let mut first = status(style, request, CONTEXT, vec![run(4096)]);
            first[5] = 0;
            Some([first, status(style, request, CONTEXT, vec![run(4096)])].concat())
        }),
        ("extents without end", |style, request, _| {
            let mut sent = status(style, request, CONTEXT, vec![run(1); 100]);
            let at = if style == HeaderStyle::Extended { 24 } else { 16 };
            sent[at..at + 4].copy_from_slice(&[0x7f, 0, 0, 0]);
            Some(sent)
        }),
        ("bytes instead", |style, request, _| Some(data(style, request, &[(0, &bytes(10))]))),
        ("nothing", |style, request, _| Some(chunk(style, request, 0, true, &[]))),
        ("a simple reply", |_, request, _| Some(none(HeaderStyle::Structured, request))),
    ];
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        for (what, lie) in lies {
            let (_folder, disk) = liar(style, Command::BlockStatus, *lie);
            assert_eq!(disk.extent_at(OFFSET).map_err(|error| error.kind()), Err(ErrorKind::Corrupt), "{what}, {style:?}");
        }
        let (_folder, disk) =
            liar(style, Command::BlockStatus, |style, request, _| Some(error(style, request, true, 22, None)));
        assert_eq!(disk.extent_at(0).unwrap_err().kind(), ErrorKind::Io);
    }
}

#[test]
fn a_write_that_fails_is_told_at_the_latest_by_every_flush() {
    let faults: &[(&str, Lie, ErrorKind)] = &[
        ("an error", |style, request, _| Some(error(style, request, true, 5, None)), ErrorKind::Io),
        ("no space", |style, request, _| Some(error(style, request, true, 28, None)), ErrorKind::NoSpace),
        ("not permitted", |style, request, _| Some(error(style, request, true, 1, None)), ErrorKind::PermissionDenied),
        ("it leaves", |_, _, _| None, ErrorKind::Io),
        ("silence", |_, _, _| Some(Vec::new()), ErrorKind::Io),
        ("another cookie", |style, request, _| Some(none(style, &Request { cookie: 99, ..*request })), ErrorKind::Corrupt),
        ("bytes", |_, request, _| Some(data(HeaderStyle::Structured, request, &[(0, &bytes(5))])), ErrorKind::Corrupt),
        (
            "the answer twice",
            |style, request, _| Some([none(style, request), none(style, request)].concat()),
            ErrorKind::Corrupt,
        ),
    ];
    for style in [HeaderStyle::Simple, HeaderStyle::Structured] {
        for command in [Command::Write, Command::WriteZeroes, Command::Flush] {
            for (what, fault, kind) in faults {
                let (_folder, mut disk) = liar(style, command, *fault);
                let written = disk
                    .write_all_at(&[5; 100], OFFSET)
                    .and_then(|()| disk.write_zeroes_at(ByteRange::at(8192, 512).unwrap(), Hole::Allow))
                    .and_then(|()| disk.flush());
                // What comes behind the answer to a flush is found when the next answer is read.
                let written = written.and_then(|()| disk.flush());
                assert_eq!(written.map_err(|error| error.kind()), Err(*kind), "{what}, {command:?}");
                assert!(disk.flush().is_err() && disk.write_all_at(&[1], 0).and_then(|()| disk.flush()).is_err(), "{what}");
            }
        }
    }
}

#[test]
fn what_waits_for_a_write_reads_it() {
    let (_folder, mut disk) = liar(HeaderStyle::Extended, Command::Write, |style, request, _| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        Some(none(style, request))
    });
    for round in 0..5_u8 {
        disk.write_all_at(&[round; 600], 100).unwrap();
        disk.write_all_at(&[round + 1; 600], 400).unwrap();
        let mut found = [0; 900];
        disk.read_exact_at(&mut found, 100).unwrap();
        assert!(found[..300].iter().all(|byte| *byte == round) && found[300..].iter().all(|byte| *byte == round + 1));
    }
    let mut untouched = [0; 10];
    disk.read_exact_at(&mut untouched, 5000).unwrap();
    assert!(untouched.iter().enumerate().all(|(at, found)| *found == byte(at + 5000)));
}
