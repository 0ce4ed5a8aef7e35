//! Conversations with a server over bytes in memory.

use std::io;

use super::{Both, Export, Handshake, Limits, PIECE, ServedDisk, Server};
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, Extent, ExtentKind, Hole, MemoryDisk};
use crate::nbd::wire::flag::{command, transmission};
use crate::nbd::wire::{
    ChunkHeader, ChunkKind, Command, ErrorCode, ExportRequest, Failure, GREETING_LEN, HeaderStyle, Info, MetaRequest,
    OptionCode, OptionHeader, OptionReplyCode, OptionReplyHeader, ReplyHeader, Request, Status, StatusExtent,
};

/// A disk in memory of which the second half is a hole.
#[derive(Debug)]
struct Disk(MemoryDisk);

impl BlockRead for Disk {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.0.read_exact_at(buf, offset)
    }
    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let half = self.size() / 2;
        let (end, kind) = if offset < half { (half, ExtentKind::Data) } else { (self.size(), ExtentKind::Hole) };
        Ok(Extent::new(ByteRange::new(offset, end).unwrap(), kind))
    }
}

impl BlockWrite for Disk {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.0.write_all_at(buf, offset)
    }
    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.0.write_zeroes_at(range, hole)
    }
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl ServedDisk for Disk {}

const SIZE: u64 = 4 << 20;

fn server() -> Server {
    let disk = || Box::new(Disk(MemoryDisk::new(vec![7; SIZE as usize])));
    let exports = vec![
        Export::new("", disk(), false),
        Export::new("fixed", disk(), true).described("for reading"),
        Export::private("own", SIZE, || Ok(Box::new(Disk(MemoryDisk::new(vec![1; SIZE as usize]))))),
    ];
    Server::new(exports, Limits::default(), Box::new(|_| ()))
}

/// What a client sends, and what it gets.
struct Client {
    sent: Vec<u8>,
    style: HeaderStyle,
}

impl Client {
    fn new() -> Self {
        Self { sent: vec![0, 0, 0, 3], style: HeaderStyle::Simple }
    }

    fn option(mut self, option: OptionCode, data: &[u8]) -> Self {
        self.sent.extend(OptionHeader::message(option, data));
        self
    }

    /// Agrees on everything, and goes to the export.
    fn go(mut self, name: &str, style: HeaderStyle) -> Self {
        self.style = style;
        let all = MetaRequest { name: name.into(), queries: vec!["base:allocation".into(), "qemu:allocation-depth".into()] };
        let this = match style {
            HeaderStyle::Simple => self,
            HeaderStyle::Structured => self.option(OptionCode::StructuredReply, b""),
            HeaderStyle::Extended => self.option(OptionCode::ExtendedHeaders, b""),
        };
        let this = if style == HeaderStyle::Simple { this } else { this.option(OptionCode::SetMetaContext, &all.encode()) };
        this.option(OptionCode::Go, &ExportRequest { name: name.into(), infos: vec![1, 2, 3] }.encode())
    }

    fn request(mut self, command: Command, flags: u16, offset: u64, len: u64, payload: &[u8]) -> Self {
        let request = Request { flags, command: command.number(), cookie: 9, offset, len };
        self.sent.extend(request.encode(self.style));
        self.sent.extend(payload);
        self
    }

    fn talk_to(&self, server: &Server) -> (io::Result<()>, Vec<u8>) {
        let mut got = Vec::new();
        let done = server.converse(&*self.sent, &mut got);
        (done, got)
    }

    /// The replies to the options, and what follows them.
    fn answers(&self, server: &Server) -> (Vec<(u32, Vec<u8>)>, Vec<u8>) {
        let (_, got) = self.talk_to(server);
        let mut rest = &got[GREETING_LEN..];
        let mut replies = Vec::new();
        while let Some((header, behind)) = rest.split_first_chunk()
            && let Ok(header) = OptionReplyHeader::decode(header)
        {
            let (data, behind) = behind.split_at(header.len as usize);
            replies.push((header.reply, data.to_vec()));
            rest = behind;
        }
        (replies, rest.to_vec())
    }

    /// The replies to the requests: headers and payloads.
    fn chunks(&self, server: &Server) -> Vec<(ChunkHeader, Vec<u8>)> {
        let (_, mut rest) = self.answers(server);
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let len = ReplyHeader::len(*rest.first_chunk().unwrap(), self.style).unwrap();
            let ReplyHeader::Chunk(header) = ReplyHeader::decode(&rest[..len], self.style).unwrap() else { panic!("simple") };
            let end = len + header.len as usize;
            chunks.push((header, rest[len..end].to_vec()));
            rest.drain(..end);
        }
        chunks
    }
}

fn last(replies: &[(u32, Vec<u8>)]) -> Option<OptionReplyCode> {
    OptionReplyCode::from_number(replies.last()?.0)
}

fn error(chunk: &(ChunkHeader, Vec<u8>)) -> Option<ErrorCode> {
    ErrorCode::from_number(Failure::decode(chunk.0.kind, &chunk.1).ok()?.error)
}

#[test]
fn options_are_answered_as_the_specification_says() {
    let server = server();
    let ask = |option, data: &[u8]| Client::new().option(option, data).answers(&server).0;
    let (listed, described) = (ask(OptionCode::List, b""), ask(OptionCode::List, b"x"));
    assert_eq!((listed.len(), last(&listed)), (4, Some(OptionReplyCode::Ack)));
    assert_eq!(last(&described), Some(OptionReplyCode::Invalid));
    assert_eq!(last(&ask(OptionCode::StartTls, b"")), Some(OptionReplyCode::Policy));
    assert_eq!(last(&ask(OptionCode::Abort, b"")), Some(OptionReplyCode::Ack));
    let no = ExportRequest { name: "none".into(), infos: Vec::new() }.encode();
    assert_eq!(last(&ask(OptionCode::Go, &no)), Some(OptionReplyCode::Unknown));
    assert_eq!(last(&ask(OptionCode::Go, b"\0\0")), Some(OptionReplyCode::Invalid));
    let meta = MetaRequest { name: String::new(), queries: vec!["base:allocation".into()] }.encode();
    assert_eq!(last(&ask(OptionCode::SetMetaContext, &meta)), Some(OptionReplyCode::Invalid), "structured replies come first");
    let both = Client::new().option(OptionCode::ExtendedHeaders, b"").option(OptionCode::StructuredReply, b"");
    assert_eq!(last(&both.answers(&server).0), Some(OptionReplyCode::ExtendedHeadersRequired));
    let long = Client::new().option(OptionCode::List, &vec![0; 100_000]).option(OptionCode::List, b"");
    let long = long.answers(&server).0;
    assert_eq!(OptionReplyCode::from_number(long[0].0), Some(OptionReplyCode::TooBig));
    assert_eq!(last(&long), Some(OptionReplyCode::Ack), "it goes on behind a long option");
}

#[test]
fn options_that_are_too_long_have_the_reply_of_their_kind() {
    let server = server();
    let long = vec![b'x'; 100_000];
    let name = Client::new().option(OptionCode::ExportName, &long).option(OptionCode::List, b"").answers(&server);
    assert_eq!(name, (Vec::new(), Vec::new()), "a name that is not there ends the session");
    let abort = Client::new().option(OptionCode::Abort, &long).answers(&server).0;
    assert_eq!(last(&abort), Some(OptionReplyCode::Ack));
    let mut unknown = Client::new();
    unknown.sent.extend(OptionHeader { option: 4711, len: 100_000 }.encode());
    unknown.sent.extend(&long);
    assert_eq!(last(&unknown.answers(&server).0), Some(OptionReplyCode::Unsupported));
    let secret = |client: Client| {
        let mut got = Vec::new();
        let mut both = Both(&*client.sent, &mut got);
        let _ended = Handshake::new(server.exports(), true, || true).run(&mut both);
        let reply = got[GREETING_LEN..].first_chunk().and_then(|header| OptionReplyHeader::decode(header).ok());
        reply.and_then(|header| OptionReplyCode::from_number(header.reply))
    };
    assert_eq!(secret(Client::new().option(OptionCode::List, &long)), Some(OptionReplyCode::TlsRequired));
    assert_eq!(secret(Client::new().option(OptionCode::StartTls, &long)), Some(OptionReplyCode::Invalid));
    assert_eq!(secret(Client::new().option(OptionCode::ExportName, &long)), None);
}

#[test]
fn exports_say_what_can_be_done_with_them() {
    let server = server();
    let flags = |name: &str, style| {
        let (replies, _) = Client::new().go(name, style).answers(&server);
        let infos = replies.iter().filter(|(code, _)| *code == OptionReplyCode::Info.number());
        let infos: Vec<Info> = infos.map(|(_, data)| Info::decode(data).unwrap()).collect();
        let Info::Export(summary) = &infos[0] else { panic!("{infos:?}") };
        assert_eq!(summary.size, SIZE);
        summary.flags
    };
    let (open, fixed, own) =
        (flags("", HeaderStyle::Extended), flags("fixed", HeaderStyle::Extended), flags("own", HeaderStyle::Simple));
    assert_eq!(open & (transmission::READ_ONLY | transmission::CAN_MULTI_CONN), transmission::CAN_MULTI_CONN);
    assert_eq!(fixed & (transmission::READ_ONLY | transmission::SEND_TRIM), transmission::READ_ONLY);
    assert_eq!(own & (transmission::CAN_MULTI_CONN | transmission::SEND_DF), 0, "what is private is seen by one alone");
}

#[test]
fn what_is_written_is_read_in_every_style() {
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let server = server();
        let flags = if style == HeaderStyle::Extended { command::PAYLOAD_LEN } else { 0 };
        let len = 2 * PIECE as u64 + 1000;
        let chunks = Client::new()
            .go("", style)
            .request(Command::Write, flags | command::FUA, 100, len, &vec![9; len as usize])
            .request(Command::Write, flags, 5, 3, b"abc")
            .request(Command::WriteZeroes, command::NO_HOLE, 200, 50, b"")
            .request(Command::Read, 0, 0, len + 200, b"")
            .chunks(&server);
        let bytes: Vec<u8> = chunks[3..].iter().flat_map(|(_, payload)| payload[8..].to_vec()).collect();
        assert_eq!(chunks[3..].len(), 3, "in pieces");
        assert!(chunks[..3].iter().all(|(header, _)| header.kind == ChunkKind::None.number()));
        assert!(chunks.last().unwrap().0.is_done() && !chunks[3].0.is_done());
        assert_eq!((&bytes[5..8], bytes[100], bytes[200], bytes[249], bytes[250]), (&b"abc"[..], 9, 0, 0, 9));
        assert_eq!((bytes[len as usize + 99], bytes[len as usize + 100]), (9, 7));
    }
}

#[test]
fn a_simple_reply_is_one_message_however_long() {
    let client = Client::new().go("", HeaderStyle::Simple).request(Command::Read, 0, 0, SIZE, b"");
    let (_, rest) = client.answers(&server());
    assert_eq!(rest.len(), 16 + SIZE as usize);
    assert!(rest[16..].iter().all(|byte| *byte == 7));
}

#[test]
fn requests_that_break_a_rule_are_refused_and_the_next_one_is_not() {
    let server = server();
    let cases = [
        ("", Command::Read, 0, SIZE, 1, ErrorCode::Invalid),
        ("", Command::Read, 0, u64::MAX, 1, ErrorCode::Invalid),
        ("", Command::Read, command::NO_HOLE, 0, 1, ErrorCode::Invalid),
        ("", Command::Read, 1 << 15, 0, 1, ErrorCode::Invalid),
        ("", Command::Read, command::DF, 0, 2 << 20, ErrorCode::Overflow),
        ("", Command::WriteZeroes, 0, SIZE - 1, 2, ErrorCode::NoSpace),
        ("", Command::WriteZeroes, command::FAST_ZERO, 0, 1, ErrorCode::NotSupported),
        ("", Command::Trim, 0, SIZE, 1, ErrorCode::Invalid),
        ("", Command::BlockStatus, 0, 0, 0, ErrorCode::Invalid),
        ("", Command::BlockStatus, command::PAYLOAD_LEN, 0, 0, ErrorCode::Invalid),
        ("fixed", Command::WriteZeroes, 0, 0, 1, ErrorCode::NotPermitted),
        ("fixed", Command::Trim, 0, 0, 1, ErrorCode::NotPermitted),
    ];
    for (name, code, flags, offset, len, expected) in cases {
        let client = Client::new().go(name, HeaderStyle::Extended).request(code, flags, offset, len, b"");
        let chunks = client.request(Command::Read, command::FUA, 0, 1, b"").chunks(&server);
        assert_eq!(error(&chunks[0]), Some(expected), "{name} {code:?} {flags} {offset} {len}");
        assert_eq!(chunks[1].1[8..], [7], "{code:?}");
    }
    let payload = Client::new().go("fixed", HeaderStyle::Structured).request(Command::Write, 0, 0, 3, b"abc");
    let chunks = payload.request(Command::Read, 0, 0, 1, b"").chunks(&server);
    assert_eq!((error(&chunks[0]), chunks[1].1[8]), (Some(ErrorCode::NotPermitted), 7), "the payload is passed over");
}

#[test]
fn block_status_covers_what_was_asked_for() {
    let server = server();
    let run = |len, flags| StatusExtent { len, flags };
    let status = |style, flags, offset, len| {
        let chunks = Client::new().go("", style).request(Command::BlockStatus, flags, offset, len, b"").chunks(&server);
        let decode = |(header, payload): &(ChunkHeader, Vec<u8>)| {
            Status::decode(ChunkKind::from_number(header.kind).unwrap(), payload).unwrap()
        };
        chunks.iter().map(decode).collect::<Vec<Status>>()
    };
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let all = status(style, 0, 100, SIZE - 100);
        assert_eq!(all[0].extents, [run(SIZE / 2 - 100, 0), run(SIZE / 2, 3)]);
        assert_eq!(all[1].extents, [run(SIZE - 100, 1)], "the depth");
        assert_eq!(status(style, command::REQ_ONE, 0, 5)[0].extents, [run(5, 0)]);
    }
}

#[test]
fn what_one_client_writes_to_its_own_copy_no_other_sees() {
    let server = server();
    let write = Client::new().go("own", HeaderStyle::Structured).request(Command::Write, 0, 0, 1, b"x");
    assert_eq!(write.request(Command::Read, 0, 0, 1, b"").chunks(&server)[1].1[8], b'x');
    let read = Client::new().go("own", HeaderStyle::Structured).request(Command::Read, 0, 0, 1, b"");
    assert_eq!(read.chunks(&server)[0].1[8], 1);
}

#[test]
fn what_ends_a_connection_ends_it() {
    let server = server();
    let ends = |sent: &[u8]| server.converse(sent, io::sink()).is_err();
    assert!(ends(&[0x80, 0, 0, 3]), "unknown client flags");
    assert!(ends(b"\0\0\0\x03IHAVEOPX\0\0\0\x03\0\0\0\0"), "a wrong magic number");
    assert!(ends(b"\0\0\0\x03IHAVEOPT\0\0\0\x06\xff\xff\xff\xff"), "an option of 4 GiB");
    let mut broken = Client::new().go("", HeaderStyle::Simple);
    broken.sent.extend([0xde; 28]);
    assert!(broken.talk_to(&server).0.is_err());
    let long = Client::new().go("", HeaderStyle::Simple).request(Command::Write, 0, 0, 0xffff_ffff, b"");
    assert!(long.talk_to(&server).0.is_err(), "a payload of 4 GiB");
    let cut = Client::new().go("", HeaderStyle::Simple).request(Command::Write, 0, 0, 1000, b"half");
    assert!(cut.talk_to(&server).0.is_err());
    let whole = Client::new().go("", HeaderStyle::Structured).request(Command::Read, 0, 0, 4, b"");
    assert_eq!(whole.chunks(&server)[0].1[8..], [7; 4], "half a request changes nothing");
    let end = Client::new().go("", HeaderStyle::Structured).request(Command::Disconnect, 0, 0, 0, b"");
    assert!(end.request(Command::Read, 0, 0, 4, b"").chunks(&server).is_empty(), "nothing is read behind the end");
}
