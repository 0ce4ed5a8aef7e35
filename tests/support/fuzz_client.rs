//! What a hostile NBD server says to our client: the body of a fuzz target.

use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Hole};
use imgcore::nbd::Uri;
use imgcore::nbd::client::{Access, NbdDisk, Patience};
use imgcore::nbd::wire::{
    ChunkHeader, ExportSummary, Greeting, HeaderStyle, Info, MetaContext, OptionCode, OptionReplyCode, OptionReplyHeader,
    SimpleReply, Status, StatusExtent, flag,
};

use crate::fuzz::Random;

/// Lets a client talk with a server that says `bytes`, whatever it is asked, and then ends the connection.
pub fn talk(bytes: &[u8]) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("vmimg-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // One connection is enough: others are refused.
            drop(listener);
            let mut asked = stream.try_clone().unwrap();
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = asked.read_to_end(&mut Vec::new());
        });
        let uri = Uri::parse(&format!("nbd+unix:///?socket=%00{name}"), Path::new("/")).unwrap();
        let soon = Duration::from_secs(2);
        if let Ok(mut disk) = NbdDisk::open(&uri, Access::ReadWrite, Patience { answer: soon, flush: soon }) {
            let mut buf = vec![0; 5000];
            let _ = disk.read_exact_at(&mut buf, 3);
            let _ = disk.extent_at(1);
            let _ = disk.write_all_at(&buf, 7);
            let _ = disk.write_zeroes_at(ByteRange::at(9, 600).unwrap(), Hole::Allow);
            let _ = disk.flush();
        }
    });
}

/// What a server could say to that client, with something wrong in it.
pub fn conversation(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let style = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended][random.below(3)];
    let reply = |option: OptionCode, code, data: &[u8]| OptionReplyHeader::message(option.number(), code, data);
    let (ack, no) = (OptionReplyCode::Ack, OptionReplyCode::Unsupported);
    let mut said = Greeting { flags: 3 }.encode();
    said.extend(reply(OptionCode::ExtendedHeaders, if style == HeaderStyle::Extended { ack } else { no }, &[]));
    if style != HeaderStyle::Extended {
        said.extend(reply(OptionCode::StructuredReply, if style == HeaderStyle::Simple { no } else { ack }, &[]));
    }
    if style != HeaderStyle::Simple {
        let context = MetaContext { id: 5, name: flag::allocation::CONTEXT.to_owned() };
        said.extend(reply(OptionCode::SetMetaContext, OptionReplyCode::MetaContext, &context.encode()));
        said.extend(reply(OptionCode::SetMetaContext, ack, &[]));
    }
    let summary = Info::Export(ExportSummary { size: 1 << 20, flags: 0x45 });
    said.extend(reply(OptionCode::Go, OptionReplyCode::Info, &summary.encode()));
    said.extend(reply(OptionCode::Go, ack, &[]));
    let chunk = |cookie: u64, offset: u64, kind: u16, payload: &[u8]| {
        let header = ChunkHeader { flags: 1, kind, cookie, offset, len: payload.len() as u64 };
        [header.encode(style), payload.to_vec()].concat()
    };
    let simple = |cookie| SimpleReply { error: 0, cookie }.encode();
    if style == HeaderStyle::Simple {
        said.extend([simple(1), vec![1; 5000], simple(2), simple(3), simple(4)].concat());
    } else {
        said.extend(chunk(1, 3, 1, &[&3_u64.to_be_bytes()[..], &[1; 5000]].concat()));
        let kind = if style == HeaderStyle::Extended { 6 } else { 5 };
        let kind_of = imgcore::nbd::wire::ChunkKind::from_number(kind).unwrap();
        let status = Status { context: 5, extents: vec![StatusExtent { len: 4096, flags: 0 }] };
        said.extend(chunk(2, 1, kind, &status.encode(kind_of)));
        said.extend([chunk(3, 7, 0, &[]), chunk(4, 9, 0, &[]), chunk(5, 0, 0, &[])].concat());
    }
    for _ in 0..random.below(4) {
        let at = random.below(said.len());
        said[at] = [0, 1, 0x7f, 0x80, 0xff, said[at] ^ 1][random.below(6)];
    }
    if random.below(5) == 0 {
        said.truncate(random.below(said.len()));
    }
    said
}
