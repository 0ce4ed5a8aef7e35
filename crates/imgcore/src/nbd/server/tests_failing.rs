//! Requests that fail, of clients that negotiate nothing: before and behind the first bytes of the reply, and when the server ends.

use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::net::sockopt;

use super::{Agreed, Export, Limits, Listener, PIECE, ServedDisk, Server, Stream};
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Hole};
use crate::nbd::wire::{Command, HeaderStyle, ReplyHeader, Request};

/// A disk of sevens of which nothing can be read from the second piece on.
#[derive(Debug)]
struct Failing(Option<File>);

impl BlockRead for Failing {
    fn size(&self) -> u64 {
        1 << 30
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        if offset + buf.len() as u64 > PIECE as u64 {
            std::thread::sleep(Duration::from_millis(5));
            return Err(Error::new(ErrorKind::Io, "on purpose"));
        }
        buf.fill(7);
        Ok(())
    }
}

impl BlockWrite for Failing {
    fn write_all_at(&mut self, _buf: &[u8], _offset: u64) -> Result<(), Error> {
        Ok(())
    }
    fn write_zeroes_at(&mut self, range: ByteRange, _hole: Hole) -> Result<(), Error> {
        assert!(range.start() > 0, "what is not fast is refused before anything is changed");
        Ok(())
    }
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl ServedDisk for Failing {
    fn write_zeroes_fast(&mut self, range: ByteRange, _hole: Hole) -> Result<bool, Error> {
        Ok(range.start() == 0)
    }
    fn plain_file(&self) -> Option<File> {
        self.0.as_ref().map(|file| file.try_clone().unwrap())
    }
}

const LONG: u64 = 3 * PIECE as u64;

/// A reply: its cookie, its error, and the bytes behind it.
type Replied = (u64, u32, usize);

/// Sends reads, each of a place and a length, and returns the replies up to the end of the connection.
fn replies(disk: Failing, reads: &[(u64, u64)], ends: bool) -> Vec<Replied> {
    let (own, other) = UnixStream::pair().unwrap();
    own.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let server = Server::new(vec![Export::new("", Box::new(disk), true)], Limits::default(), Box::new(|_| ()));
    let stream = Stream::Unix(other);
    let request = |command: Command, (cookie, (offset, len)): (u64, &(u64, u64))| {
        Request { flags: 0, command: command.number(), cookie, offset: *offset, len: *len }.encode(HeaderStyle::Simple)
    };
    let mut sent: Vec<u8> = (0..).zip(reads).flat_map(|read| request(Command::Read, read)).collect();
    if ends {
        sent.extend(request(Command::Disconnect, (0, &(0, 0))));
    }
    let mut got = Vec::new();
    let end = std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ended = server.transmit(&server.exports()[0], &stream);
            stream.shutdown(Shutdown::Both);
        });
        let _cut = (&own).write_all(&sent);
        let end = (&own).read_to_end(&mut got).map_err(|error| error.kind());
        let _gone = own.shutdown(Shutdown::Both);
        end
    });
    assert!(matches!(end, Ok(_) | Err(IoErrorKind::ConnectionReset)), "the server holds the connection: {end:?}");
    let mut rest = got.as_slice();
    let mut replies = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let Ok(ReplyHeader::Simple(reply)) = ReplyHeader::decode(header, HeaderStyle::Simple) else { panic!("{header:?}") };
        let len = if reply.error == 0 { reads[reply.cookie as usize].1 as usize } else { 0 };
        let (data, behind) = behind.split_at(len.min(behind.len()));
        assert!(data.iter().all(|byte| *byte == 7), "something else is in the reply");
        replies.push((reply.cookie, reply.error, data.len()));
        rest = behind;
    }
    assert!(rest.is_empty());
    replies.sort_unstable();
    replies
}

#[test]
fn a_failure_behind_the_beginning_of_a_reply_ends_the_connection_of_an_idle_client() {
    assert_eq!(replies(Failing(None), &[(0, LONG)], false), [(0, 0, PIECE)]);
}

#[test]
fn nothing_is_sent_behind_a_reply_that_stays_incomplete() {
    for _ in 0..20 {
        let mut reads = vec![(0, LONG)];
        reads.extend([(512, 512); 100]);
        let replies = replies(Failing(None), &reads, false);
        assert_eq!(replies[0], (0, 0, PIECE));
        assert!(replies[1..].iter().all(|(_, error, len)| (*error, *len) == (0, 512)));
    }
}

#[test]
fn a_failure_before_the_beginning_of_a_reply_is_told_and_the_next_read_is_not_touched() {
    let sevens = tempfile::tempfile().unwrap();
    (&sevens).write_all(&vec![7; PIECE]).unwrap();
    let piece = PIECE as u64;
    for file in [None, Some(sevens)] {
        let reads = [(piece, 512), (piece - 512, 1024), (piece - 512, piece), (piece, LONG), (0, piece), (0, 512)];
        let expected = [(0, 5, 0), (1, 5, 0), (2, 5, 0), (3, 5, 0), (4, 0, PIECE), (5, 0, 512)];
        assert_eq!(replies(Failing(file), &reads, true), expected);
    }
}

#[test]
fn every_request_that_came_is_answered_when_the_server_ends() {
    let (own, other) = UnixStream::pair().unwrap();
    let server = Server::new(vec![Export::new("", Box::new(Failing(None)), false)], Limits::default(), Box::new(|_| ()));
    let mut sent = Vec::new();
    for cookie in 0..256 {
        let (command, len) = if cookie % 2 == 0 { (Command::Read, 512) } else { (Command::Write, 8) };
        let request = Request { flags: 0, command: command.number(), cookie, offset: 0, len };
        sent.extend(request.encode(HeaderStyle::Simple));
        sent.extend(vec![1; if command == Command::Write { 8 } else { 0 }]);
    }
    // At once: a socket takes a few hundred messages, however short they are.
    (&own).write_all(&sent).unwrap();
    own.shutdown(Shutdown::Write).unwrap();
    let agreed = Agreed { export: &server.exports()[0], style: HeaderStyle::Simple, contexts: Vec::new() };
    let stream = Stream::Unix(other);
    server.transmit_agreed(agreed, &stream, &AtomicBool::new(true)).unwrap();
    stream.shutdown(Shutdown::Both);
    let mut got = Vec::new();
    (&own).read_to_end(&mut got).unwrap();
    let (headers, rest) = got.as_chunks::<16>();
    assert_eq!((headers.len(), rest.len()), (256, 0));
    for header in headers {
        let reply = ReplyHeader::decode(header, HeaderStyle::Simple).unwrap();
        assert!(matches!(reply, ReplyHeader::Simple(reply) if reply.error == 108), "{reply:?}");
    }
}

#[test]
fn zeros_that_are_fast_in_part_are_not_refused() {
    let (own, other) = UnixStream::pair().unwrap();
    let server = Server::new(vec![Export::new("", Box::new(Failing(None)), false)], Limits::default(), Box::new(|_| ()));
    let flags = crate::nbd::wire::flag::command::FAST_ZERO;
    for (cookie, offset, len) in [(0, 4096, 512), (1, 0, 1 << 30)] {
        let request = Request { flags, command: Command::WriteZeroes.number(), cookie, offset, len };
        (&own).write_all(&request.encode(HeaderStyle::Simple)).unwrap();
    }
    own.shutdown(Shutdown::Write).unwrap();
    let stream = Stream::Unix(other);
    server.transmit(&server.exports()[0], &stream).unwrap();
    for _ in 0..2 {
        let mut header = [0; 16];
        (&own).read_exact(&mut header).unwrap();
        let Ok(ReplyHeader::Simple(reply)) = ReplyHeader::decode(&header, HeaderStyle::Simple) else { panic!("{header:?}") };
        assert_eq!(reply.error, if reply.cookie == 0 { 95 } else { 0 });
    }
}

#[test]
fn a_client_whose_machine_is_gone_holds_its_place_for_two_minutes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let Stream::Tcp(stream) = Listener::Tcp(listener).accept().unwrap() else { panic!("a Unix socket") };
    let silent = sockopt::tcp_keepidle(&stream).unwrap();
    let probed = sockopt::tcp_keepintvl(&stream).unwrap() * sockopt::tcp_keepcnt(&stream).unwrap();
    assert!(sockopt::socket_keepalive(&stream).unwrap() && silent + probed <= Duration::from_secs(120));
}
