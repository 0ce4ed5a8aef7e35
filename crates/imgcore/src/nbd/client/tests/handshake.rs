use std::sync::Arc;

use super::server::{ALL_FLAGS, Server};
use crate::block::ErrorKind;
use crate::nbd::client::Access;
use crate::nbd::wire::{
    BlockSizes, Command, ExportSummary, Greeting, HeaderStyle, Info, MetaContext, OptionCode, OptionReplyCode,
    OptionReplyHeader, flag,
};

fn open(server: Server) -> Result<(), (ErrorKind, String)> {
    let folder = tempfile::tempdir().unwrap();
    let opened = Arc::new(server).open(folder.path(), Access::Read).map(drop);
    opened.map_err(|error| (error.kind(), std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()))
}

fn new() -> Server {
    Server::new(HeaderStyle::Structured)
}

fn infos(infos: &[Info]) -> Vec<u8> {
    let mut out = Vec::new();
    for info in infos {
        out.extend(OptionReplyHeader::message(OptionCode::Go.number(), OptionReplyCode::Info, &info.encode()));
    }
    out.extend(OptionReplyHeader::message(OptionCode::Go.number(), OptionReplyCode::Ack, &[]));
    out
}

fn reply(option: OptionCode, code: OptionReplyCode, data: &[u8]) -> Vec<u8> {
    OptionReplyHeader::message(option.number(), code, data)
}

fn context(id: u32, name: &str) -> Vec<u8> {
    let context = MetaContext { id, name: name.to_owned() };
    reply(OptionCode::SetMetaContext, OptionReplyCode::MetaContext, &context.encode())
}

#[test]
fn a_server_that_lies_in_the_handshake_is_found_out() {
    use OptionCode::{Go, SetMetaContext, StructuredReply};
    let export = |size, flags| Info::Export(ExportSummary { size, flags });
    let raw_info = |data: &[u8]| [reply(Go, OptionReplyCode::Info, data), reply(Go, OptionReplyCode::Ack, &[])].concat();
    let sizes = |minimum, preferred, maximum| Info::BlockSize(BlockSizes { minimum, preferred, maximum });
    let honest = export(1 << 20, ALL_FLAGS);
    let name = flag::allocation::CONTEXT;
    let go = |sent: Vec<u8>| new().option(Go, move |_| Some(sent.clone()));
    let meta = |sent: Vec<u8>| new().option(SetMetaContext, move |_| Some(sent.clone()));
    let ack = || reply(SetMetaContext, OptionReplyCode::Ack, &[]);
    let mut magic = Greeting { flags: 3 }.encode();
    magic[0] ^= 1;
    let oldstyle = [&b"NBDMAGIC"[..], &0x0000_4202_8186_1253_u64.to_be_bytes(), &[0, 0]].concat();
    let lies: Vec<(&str, Server)> = vec![
        ("the magic of the greeting", Server { greeting: magic, ..new() }),
        ("oldstyle", Server { greeting: oldstyle, ..new() }),
        ("noise", Server { greeting: b"HTTP/1.1 400 Bad Request\r\n".to_vec(), ..new() }),
        ("the magic of a reply", new().option(Go, |honest| Some([&[1], &honest[1..]].concat()))),
        ("a reply to another option", new().option(Go, |_| Some(reply(OptionCode::List, OptionReplyCode::Ack, &[])))),
        ("a reply that is no reply", new().option(Go, |_| Some(reply(Go, OptionReplyCode::Server, &[0; 4])))),
        (
            "an acknowledgement with data",
            new().option(StructuredReply, |_| Some(reply(StructuredReply, OptionReplyCode::Ack, b"x"))),
        ),
        ("a reply of 4 GiB", new().option(Go, |_| Some([&reply(Go, OptionReplyCode::Info, &[])[..16], &[255; 4]].concat()))),
        ("replies without end", new().option(Go, move |_| Some(infos(&vec![Info::Other(9); 2000])))),
        ("no size", go(infos(&[]))),
        ("two sizes", go(infos(&[export(5, 1), export(6, 1)]))),
        ("a size beyond 63 bits", go(infos(&[export(1 << 63, 1)]))),
        ("no flags", go(raw_info(&[0; 12]))),
        ("a short size", go(raw_info(&[0, 0, 1]))),
        ("a long size", go(raw_info(&[&Info::Export(ExportSummary { size: 1, flags: 1 }).encode()[..], &[0]].concat()))),
        ("blocks of 3", go(infos(&[honest.clone(), sizes(3, 4096, 1 << 20)]))),
        ("blocks of 0", go(infos(&[honest.clone(), sizes(0, 4096, 1 << 20)]))),
        ("a maximum below the minimum", go(infos(&[honest.clone(), sizes(512, 512, 0)]))),
        ("a maximum below the preferred size", go(infos(&[honest.clone(), sizes(1, 4096, 2048)]))),
        ("a maximum below the size", go(infos(&[export(100, 1), sizes(1, 4096, 99)]))),
        ("two block sizes", go(infos(&[honest.clone(), sizes(1, 512, 1024), sizes(2, 512, 1024)]))),
        (
            "a context instead of information",
            go([reply(Go, OptionReplyCode::MetaContext, &[0; 9]), reply(Go, OptionReplyCode::Ack, &[])].concat()),
        ),
        ("DF without chunks", Server { flags: 1 | flag::transmission::SEND_DF, ..Server::new(HeaderStyle::Simple) }),
        ("fast zeros without zeros", Server { flags: 1 | flag::transmission::SEND_FAST_ZERO, ..new() }),
        ("a status payload without extended headers", Server { flags: 1 | flag::transmission::BLOCK_STATUS_PAYLOAD, ..new() }),
        ("another context", meta([context(1, "x:y"), ack()].concat())),
        ("a context twice", meta([context(1, name), context(2, name), ack()].concat())),
        ("a context that is too short", meta([reply(SetMetaContext, OptionReplyCode::MetaContext, &[0; 3]), ack()].concat())),
        ("a context that is information", meta([reply(SetMetaContext, OptionReplyCode::Info, &[0; 3]), ack()].concat())),
        (
            "zeros that are not",
            Server { greeting: Greeting { flags: 0 }.encode(), ..Server::new(HeaderStyle::Simple) }
                .option(OptionCode::ExportName, |honest| Some([&honest[..10], &[1; 124]].concat())),
        ),
    ];
    for (what, server) in lies {
        let (kind, why) = open(server).expect_err(what);
        assert_eq!((kind, why.starts_with("the server breaks the NBD protocol")), (ErrorKind::Corrupt, true), "{what}: {why}");
    }
}

#[test]
fn a_server_that_says_no_or_nothing_is_told_apart() {
    use OptionCode::Go;
    let refusal = |code| new().option(Go, move |_| Some(reply(Go, code, b"says \x1b[1mwhy")));
    let odd = BlockSizes { minimum: 4096, preferred: 4096, maximum: 1 << 20 };
    for (what, server, kind) in [
        ("no such export", refusal(OptionReplyCode::Unknown), ErrorKind::NotFound),
        ("policy", refusal(OptionReplyCode::Policy), ErrorKind::PermissionDenied),
        ("encryption", refusal(OptionReplyCode::TlsRequired), ErrorKind::Refused),
        ("the end is near", refusal(OptionReplyCode::Shutdown), ErrorKind::Io),
        ("it leaves", new().option(Go, |_| None), ErrorKind::Io),
        ("it leaves in the middle", new().option(Go, |honest| Some(honest[..5].to_vec())), ErrorKind::Io),
        ("silence", new().option(Go, |_| Some(Vec::new())), ErrorKind::Io),
        ("not even a greeting", Server { greeting: Vec::new(), ..new() }, ErrorKind::Io),
        ("half a block at the end", Server { blocks: odd, size: 4097, ..new() }, ErrorKind::Refused),
    ] {
        let (found, why) = open(server).expect_err(what);
        assert_eq!(found, kind, "{what}: {why}");
        assert!(!why.contains('\x1b'), "{why}");
    }
    open(Server { size: 0, ..new() }).unwrap();
    open(Server { size: 100, blocks: BlockSizes { minimum: 1, preferred: 4096, maximum: 100 }, ..new() }).unwrap();
}

#[test]
fn a_server_that_refuses_is_told_that_nothing_comes_of_it() {
    use OptionCode::{ExtendedHeaders, Go, SetMetaContext};
    for (refused, code) in [
        (Go, OptionReplyCode::Unknown),
        (Go, OptionReplyCode::Policy),
        (Go, OptionReplyCode::Shutdown),
        (ExtendedHeaders, OptionReplyCode::Shutdown),
        (SetMetaContext, OptionReplyCode::Shutdown),
    ] {
        let (tell, told) = std::sync::mpsc::channel();
        let on = move |option, honest| {
            tell.send(option).unwrap();
            Some(if option == refused.number() { reply(refused, code, b"no") } else { honest })
        };
        open(Server { on_option: Box::new(on), ..new() }).unwrap_err();
        let next = || told.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
        while next() != refused.number() {}
        assert_eq!(next(), OptionCode::Abort.number(), "{refused:?} {code:?}");
    }
    // Where transmission has begun, it ends as it should.
    let odd = BlockSizes { minimum: 4096, preferred: 4096, maximum: 1 << 20 };
    let server = Arc::new(Server { blocks: odd, size: 4097, ..new() });
    let folder = tempfile::tempdir().unwrap();
    server.open(folder.path(), Access::Read).unwrap_err();
    let ended = || server.seen.lock().unwrap().iter().any(|request| request.command == Command::Disconnect.number());
    let soon = || std::thread::sleep(std::time::Duration::from_millis(10));
    assert!(std::iter::repeat_with(soon).take(500).any(|()| ended()));
}
