use std::sync::Arc;

use super::server::{ALL_FLAGS, HOLE, SIZE, Server, byte, data, hole};
use crate::block::{BlockRead, BlockWrite, ByteRange, ErrorKind, ExtentKind, Hole, Resize, extents};
use crate::nbd::client::Access;
use crate::nbd::wire::{BlockSizes, ChunkKind, Command, Greeting, HeaderStyle, flag};

const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];

fn commands(server: &Server) -> Vec<u16> {
    server.seen.lock().unwrap().iter().map(|request| request.command).collect()
}

#[test]
fn what_is_written_is_read_in_every_style_also_in_parts_of_blocks() {
    for style in STYLES {
        for minimum in [1, 512, 4096] {
            let folder = tempfile::tempdir().unwrap();
            let blocks = BlockSizes { minimum, preferred: 4096, maximum: 64 << 10 };
            let server = Arc::new(Server { blocks, ..Server::new(style) });
            let mut disk = server.open(folder.path(), Access::ReadWrite).unwrap();
            let mut model: Vec<u8> = (0..SIZE).map(byte).collect();
            for (offset, len) in [(0, 10), (4095, 2), (5000, 100_000), (SIZE - 3, 3), (8192, 4096), (700, 0), (100, 5000)] {
                disk.write_all_at(&vec![offset as u8 | 1; len], offset as u64).unwrap();
                model[offset..offset + len].fill(offset as u8 | 1);
            }
            for (offset, len) in [(1, 3), (9000, 20_000), (SIZE - 5000, 5000)] {
                disk.write_zeroes_at(ByteRange::at(offset as u64, len as u64).unwrap(), Hole::Keep).unwrap();
                model[offset..offset + len].fill(0);
            }
            let mut bytes = vec![0; SIZE];
            disk.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, model);
            disk.read_exact_at(&mut bytes[..1000], 777).unwrap();
            assert_eq!(bytes[..1000], model[777..1777]);
            disk.flush().unwrap();
            assert_eq!(*server.disk.lock().unwrap(), model);
            assert_eq!(commands(&server).last(), Some(&Command::Flush.number()));
            let whole = |request: &crate::nbd::wire::Request| {
                request.offset.is_multiple_of(u64::from(minimum)) && request.len.is_multiple_of(u64::from(minimum))
            };
            assert!(server.seen.lock().unwrap().iter().all(whole));
            assert_eq!(disk.read_exact_at(&mut [0], SIZE as u64).unwrap_err().kind(), ErrorKind::OutOfBounds);
            assert_eq!(disk.resize(SIZE as u64 * 2).unwrap_err().kind(), ErrorKind::NoSpace);
        }
    }
}

#[test]
fn holes_are_known_where_the_server_tells_them() {
    for style in STYLES {
        let folder = tempfile::tempdir().unwrap();
        let server = Arc::new(Server::new(style));
        let disk = server.open(folder.path(), Access::Read).unwrap();
        let all = ByteRange::new(0, disk.size()).unwrap();
        let found: Vec<_> = extents(&disk, all).map(|extent| extent.unwrap()).map(|e| (e.range.end(), e.kind)).collect();
        let (start, end, size) = (HOLE.start as u64, HOLE.end as u64, SIZE as u64);
        match style {
            HeaderStyle::Simple => assert_eq!(found, [(size, ExtentKind::Data)]),
            _ => assert_eq!(found, [(start, ExtentKind::Data), (end, ExtentKind::Hole), (size, ExtentKind::Data)]),
        }
        let asked = commands(&server).iter().filter(|command| **command == Command::BlockStatus.number()).count();
        assert_eq!(asked, usize::from(style != HeaderStyle::Simple));
    }
}

#[test]
fn chunks_come_in_any_order() {
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(style).request(Command::Read, move |request, _| {
            let at = request.offset as usize;
            let bytes: Vec<u8> = (at..at + request.len as usize).map(byte).collect();
            let (first, rest) = bytes.split_at(100);
            let (second, third) = rest.split_at(100);
            let offset = request.offset;
            Some(data(style, request, &[(offset + 200, third), (offset, first), (offset + 100, second)]))
        });
        let disk = Arc::new(server).open(folder.path(), Access::Read).unwrap();
        let mut bytes = vec![0; 300];
        disk.read_exact_at(&mut bytes, 50).unwrap();
        assert!(bytes.iter().enumerate().all(|(at, found)| *found == byte(at + 50)));
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(style).request(Command::Read, move |request, _| {
            let holes = hole(style, request, false, request.offset, request.len as u32);
            Some([holes, super::server::chunk(style, request, ChunkKind::None.number(), true, &[])].concat())
        });
        let disk = Arc::new(server).open(folder.path(), Access::Read).unwrap();
        bytes.fill(1);
        disk.read_exact_at(&mut bytes, 50).unwrap();
        assert_eq!(bytes, [0; 300]);
    }
}

#[test]
fn the_oldest_servers_are_understood() {
    // Without the flag of fixed newstyle; with and without the zeros.
    for flags in [0, flag::handshake::NO_ZEROES] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server { greeting: Greeting { flags }.encode(), ..Server::new(HeaderStyle::Simple) };
        let disk = Arc::new(server).open(folder.path(), Access::Read).unwrap();
        let mut bytes = [0; 100];
        disk.read_exact_at(&mut bytes, 9).unwrap();
        assert!(bytes.iter().enumerate().all(|(at, found)| *found == byte(at + 9)));
    }
}

#[test]
fn many_threads_read_over_one_connection_and_over_several() {
    for (style, multi) in STYLES.into_iter().flat_map(|style| [(style, 0), (style, flag::transmission::CAN_MULTI_CONN)]) {
        let folder = tempfile::tempdir().unwrap();
        let server = Arc::new(Server { flags: ALL_FLAGS | multi, ..Server::new(style) });
        let disk = server.open(folder.path(), Access::Read).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..6_usize {
                let disk = &disk;
                scope.spawn(move || {
                    for round in 0..60 {
                        let offset = (thread * 7919 + round * 10_007) % (SIZE - 9000);
                        let mut bytes = vec![0; 1 + (round * 131) % 9000];
                        disk.read_exact_at(&mut bytes, offset as u64).unwrap();
                        assert!(bytes.iter().enumerate().all(|(at, found)| *found == byte(at + offset)));
                    }
                });
            }
        });
    }
}

#[test]
fn a_server_that_cannot_make_writes_durable_is_read_only() {
    use flag::transmission::{HAS_FLAGS, READ_ONLY, SEND_FLUSH};
    for (flags, kind) in [(HAS_FLAGS, ErrorKind::Refused), (HAS_FLAGS | READ_ONLY | SEND_FLUSH, ErrorKind::ReadOnly)] {
        let server = Arc::new(Server { flags, ..Server::new(HeaderStyle::Structured) });
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(server.open(folder.path(), Access::ReadWrite).unwrap_err().kind(), kind);
        let folder = tempfile::tempdir().unwrap();
        let mut disk = server.open(folder.path(), Access::Read).unwrap();
        assert_eq!(disk.write_all_at(&[1], 0).unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}
