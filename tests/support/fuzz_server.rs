//! What hostile clients send to an NBD server, and how it is made: the body of the fuzz target.

use std::io::{self, Write};

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Error, Hole, MemoryDisk};
use imgcore::nbd::server::{Export, Limits, ServedDisk, Server};
use imgcore::nbd::wire::{Command, ExportRequest, HeaderStyle, MetaRequest, OptionCode, OptionHeader, Request};

use crate::fuzz::Random;

#[derive(Debug)]
struct Disk(MemoryDisk);

impl BlockRead for Disk {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.0.read_exact_at(buf, offset)
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

/// Takes replies up to a limit.
struct Replies(usize);

impl Write for Replies {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(buf.len()).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of the disk.
const SIZE: u64 = 300_000;

/// Lets a server talk with a client that sends `bytes`.
pub fn serve(bytes: &[u8]) {
    let disk = || Box::new(Disk(MemoryDisk::new(vec![7; SIZE as usize])));
    let exports = vec![
        Export::new("", disk(), false),
        Export::new("fixed", disk(), true),
        Export::private("own", SIZE, move || Ok(disk())),
    ];
    let server = Server::new(exports, Limits::default(), Box::new(|_| ()));
    let _ended = server.converse(bytes, Replies(64 << 20));
}

/// Returns what a client might send, damaged here and there; `seed` names it.
pub fn conversation(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut sent = vec![0, 0, 0, if random.below(20) == 0 { random.word() as u8 } else { 3 }];
    let mut style = HeaderStyle::Simple;
    let name = |random: &mut Random| ["", "fixed", "own", "none", "\0"][random.below(5)].to_owned();
    for _ in 0..random.below(6) {
        let export = ExportRequest { name: name(&mut random), infos: vec![1, 2, 3, 99] };
        let queries = ["base:allocation", "base:", "qemu:allocation-depth", "x", "qemu:"];
        let queries = (0..random.below(4)).map(|_| queries[random.below(5)].to_owned()).collect();
        let meta = MetaRequest { name: name(&mut random), queries };
        let (code, data) = match random.below(8) {
            0 => (OptionCode::List, Vec::new()),
            1 => (OptionCode::Info, export.encode()),
            2 => (OptionCode::StructuredReply, Vec::new()),
            3 => (OptionCode::ExtendedHeaders, Vec::new()),
            4 => (OptionCode::ListMetaContext, meta.encode()),
            5..=6 => (OptionCode::SetMetaContext, meta.encode()),
            _ => (OptionCode::StartTls, Vec::new()),
        };
        match code {
            OptionCode::ExtendedHeaders => style = HeaderStyle::Extended,
            OptionCode::StructuredReply if style == HeaderStyle::Simple => style = HeaderStyle::Structured,
            _ => {}
        }
        sent.extend(OptionHeader::message(code, &data));
    }
    let last = ExportRequest { name: ["", "fixed", "own"][random.below(3)].to_owned(), infos: Vec::new() };
    sent.extend(OptionHeader::message(OptionCode::Go, &last.encode()));
    for cookie in 0..random.below(30) as u64 {
        let offset = [0, random.word() % SIZE, SIZE, random.word()][random.below(4)];
        let len = [random.word() % 5000, random.word() % (2 * SIZE), random.word() >> random.below(64)][random.below(3)];
        let command = random.below(10) as u16;
        let flags = if random.below(3) == 0 { 1 << random.below(7) } else { 0 };
        let request = Request { flags, command, cookie, offset, len };
        sent.extend(request.encode(style));
        if command == Command::Write.number() {
            sent.resize(sent.len() + len.min(400_000) as usize, 1);
        }
    }
    for _ in 0..random.below(3) {
        let at = random.below(sent.len());
        match random.below(3) {
            0 => sent[at] = random.word() as u8,
            1 => sent[at] ^= 1 << random.below(8),
            _ => sent.truncate(at),
        }
        if sent.is_empty() {
            break;
        }
    }
    sent
}
