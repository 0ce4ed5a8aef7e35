//! A server whose every answer can be changed.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::nbd::Uri;
use crate::nbd::client::{Access, NbdDisk, Patience};
use crate::nbd::wire::{
    BlockSizes, ChunkHeader, ChunkKind, Command, ExportSummary, Failure, Greeting, HeaderStyle, HoleChunk, Info, MetaContext,
    OptionCode, OptionHeader, OptionReplyCode, OptionReplyHeader, Request, SimpleReply, Status, StatusExtent, flag,
};

/// What is sent in place of an honest answer; `None` ends the connection.
pub(super) type Sent = Option<Vec<u8>>;

type OnOption = Box<dyn Fn(u32, Vec<u8>) -> Sent + Send + Sync>;
type OnRequest = Box<dyn Fn(&Request, Vec<u8>) -> Sent + Send + Sync>;

/// An export with its server.
pub(super) struct Server {
    pub(super) greeting: Vec<u8>,
    pub(super) style: HeaderStyle,
    pub(super) flags: u16,
    pub(super) size: u64,
    pub(super) blocks: BlockSizes,
    /// Changes the honest answer to an option.
    pub(super) on_option: OnOption,
    /// Changes the honest answer to a request.
    pub(super) on_request: OnRequest,
    pub(super) disk: Mutex<Vec<u8>>,
    /// What was asked for, in order.
    pub(super) seen: Mutex<Vec<Request>>,
    /// How many bytes it says to all its clients before it leaves.
    pub(super) breath: AtomicUsize,
    /// The bytes of an answer from which on it takes its time, and how long it takes for each.
    pub(super) pace: Option<(usize, Duration)>,
}

static CONTENTS: OnceLock<Vec<u8>> = OnceLock::new();

pub(super) const SIZE: usize = 1 << 20;

pub(super) const ALL_FLAGS: u16 = flag::transmission::HAS_FLAGS
    | flag::transmission::SEND_FLUSH
    | flag::transmission::SEND_FUA
    | flag::transmission::SEND_TRIM
    | flag::transmission::SEND_WRITE_ZEROES;

/// The byte at `offset` of every export.
pub(super) fn byte(offset: usize) -> u8 {
    if (HOLE.start..HOLE.end).contains(&offset) { 0 } else { (offset / 7 % 250) as u8 + 1 }
}

/// The part of every export that is a hole.
pub(super) const HOLE: std::ops::Range<usize> = 256 << 10..512 << 10;

impl Server {
    pub(super) fn new(style: HeaderStyle) -> Self {
        Self {
            greeting: Greeting { flags: 3 }.encode(),
            style,
            flags: ALL_FLAGS,
            size: SIZE as u64,
            blocks: BlockSizes { minimum: 1, preferred: 4096, maximum: 32 << 20 },
            on_option: Box::new(|_, honest| Some(honest)),
            on_request: Box::new(|_, honest| Some(honest)),
            disk: Mutex::new(CONTENTS.get_or_init(|| (0..SIZE).map(byte).collect()).clone()),
            seen: Mutex::default(),
            breath: AtomicUsize::new(usize::MAX),
            pace: None,
        }
    }

    pub(super) fn option(self, option: OptionCode, answer: impl Fn(Vec<u8>) -> Sent + Send + Sync + 'static) -> Self {
        let on = move |code, honest| if code == option.number() { answer(honest) } else { Some(honest) };
        Self { on_option: Box::new(on), ..self }
    }

    pub(super) fn request(self, command: Command, answer: impl Fn(&Request, Vec<u8>) -> Sent + Send + Sync + 'static) -> Self {
        let on = move |request: &Request, honest| match request.command == command.number() {
            true => answer(request, honest),
            false => Some(honest),
        };
        Self { on_request: Box::new(on), ..self }
    }

    /// Runs the server as long as the folder is there, and returns its client.
    pub(super) fn open(self: &Arc<Self>, folder: &Path, access: Access) -> Result<NbdDisk, crate::block::Error> {
        self.start(folder);
        let soon = Duration::from_secs(1);
        NbdDisk::open(&at(folder), access, Patience { answer: soon, flush: soon })
    }

    /// Runs the server at the socket of the folder.
    pub(super) fn start(self: &Arc<Self>, folder: &Path) {
        let listener = UnixListener::bind(folder.join("socket")).unwrap();
        let server = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, stream) = (Arc::clone(&server), stream.unwrap());
                std::thread::spawn(move || server.serve(stream));
            }
        });
    }

    fn serve(&self, mut stream: UnixStream) {
        let mut client_flags = [0; 4];
        if !self.say(&mut stream, &self.greeting) || stream.read_exact(&mut client_flags).is_err() {
            return;
        }
        loop {
            let mut header = [0; 16];
            if stream.read_exact(&mut header).is_err() {
                return;
            }
            let header = OptionHeader::decode(&header).unwrap();
            let mut data = vec![0; header.len as usize];
            stream.read_exact(&mut data).unwrap();
            let (honest, starts) = self.honest_option(header.option, client_flags[3] & 2 != 0);
            let Some(answer) = (self.on_option)(header.option, honest) else { return };
            if !self.say(&mut stream, &answer) {
                return;
            }
            let refuses = header.option == OptionCode::Go.number() && answer.get(12).is_some_and(|byte| byte & 0x80 != 0);
            if starts && !refuses {
                return self.transmit(stream);
            }
        }
    }

    /// Sends what there is breath for, at its pace; returns whether that was all.
    fn say(&self, stream: &mut UnixStream, bytes: &[u8]) -> bool {
        let left = self.breath.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(bytes.len()))).unwrap();
        let said = &bytes[..left.min(bytes.len())];
        let sent = match self.pace {
            Some((len, pace)) if said.len() >= len => said.iter().all(|byte| {
                std::thread::sleep(pace);
                stream.write_all(&[*byte]).is_ok()
            }),
            _ => stream.write_all(said).is_ok(),
        };
        sent && said.len() == bytes.len()
    }

    fn honest_option(&self, option: u32, no_zeroes: bool) -> (Vec<u8>, bool) {
        let reply = |code, data: &[u8]| OptionReplyHeader::message(option, code, data);
        let ack = reply(OptionReplyCode::Ack, &[]);
        let unsupported = reply(OptionReplyCode::Unsupported, b"no");
        let summary = ExportSummary { size: self.size, flags: self.flags };
        match OptionCode::from_number(option) {
            Some(OptionCode::ExtendedHeaders) if self.style == HeaderStyle::Extended => (ack, false),
            Some(OptionCode::StructuredReply) if self.style != HeaderStyle::Simple => (ack, false),
            Some(OptionCode::SetMetaContext) => {
                let context = MetaContext { id: CONTEXT, name: flag::allocation::CONTEXT.to_owned() };
                ([reply(OptionReplyCode::MetaContext, &context.encode()), ack].concat(), false)
            }
            Some(OptionCode::Go) => {
                let infos = [Info::Export(summary), Info::BlockSize(self.blocks), Info::Other(99)];
                let infos = infos.iter().map(|info| reply(OptionReplyCode::Info, &info.encode()));
                (infos.chain([ack]).collect::<Vec<_>>().concat(), true)
            }
            Some(OptionCode::ExportName) => {
                let zeros = if no_zeroes { 0 } else { ExportSummary::ZEROES };
                ([summary.encode(), vec![0; zeros]].concat(), true)
            }
            _ => (unsupported, false),
        }
    }

    fn transmit(&self, mut stream: UnixStream) {
        loop {
            let mut header = vec![0; Request::header_len(self.style)];
            if stream.read_exact(&mut header).is_err() {
                return;
            }
            let request = Request::decode(&header, self.style).unwrap();
            let mut payload = vec![0; request.payload_len(self.style) as usize];
            stream.read_exact(&mut payload).unwrap();
            self.seen.lock().unwrap().push(request);
            if request.command == Command::Disconnect.number() {
                return;
            }
            let Some(answer) = (self.on_request)(&request, self.honest(&request, &payload)) else { return };
            if !self.say(&mut stream, &answer) {
                return;
            }
        }
    }

    fn honest(&self, request: &Request, payload: &[u8]) -> Vec<u8> {
        let mut disk = self.disk.lock().unwrap();
        let end = (request.offset + request.len).min(SIZE as u64).max(request.offset);
        let range = request.offset as usize..end as usize;
        match Command::from_number(request.command).unwrap() {
            Command::Read => data(self.style, request, &[(request.offset, &disk[range])]),
            Command::Write => {
                disk[range].copy_from_slice(payload);
                none(self.style, request)
            }
            Command::WriteZeroes => {
                disk[range].fill(0);
                none(self.style, request)
            }
            Command::BlockStatus => {
                let parts = [(0..HOLE.start, 0), (HOLE, 3), (HOLE.end..SIZE, 0)];
                let len = |part: &std::ops::Range<usize>| part.end.min(range.end).saturating_sub(part.start.max(range.start));
                let extents = parts.iter().map(|(part, flags)| StatusExtent { len: len(part) as u64, flags: *flags });
                status(self.style, request, CONTEXT, extents.filter(|extent| extent.len > 0).collect())
            }
            _ => none(self.style, request),
        }
    }
}

/// The address of an export whose server was started in the folder.
pub(super) fn at(folder: &Path) -> Uri {
    Uri::parse(&format!("nbd+unix:///x?socket={}", folder.join("socket").display()), folder).unwrap()
}

pub(super) const CONTEXT: u32 = 7;

/// A chunk of any kind.
pub(super) fn chunk(style: HeaderStyle, request: &Request, kind: u16, done: bool, payload: &[u8]) -> Vec<u8> {
    let flags = u16::from(done);
    let header = ChunkHeader { flags, kind, cookie: request.cookie, offset: request.offset, len: payload.len() as u64 };
    [header.encode(style), payload.to_vec()].concat()
}

/// The answer to a read: bytes at offsets, of which the last ends it.
pub(super) fn data(style: HeaderStyle, request: &Request, parts: &[(u64, &[u8])]) -> Vec<u8> {
    if style == HeaderStyle::Simple {
        let bytes = parts.iter().flat_map(|(_, bytes)| bytes.iter().copied());
        return SimpleReply { error: 0, cookie: request.cookie }.encode().into_iter().chain(bytes).collect();
    }
    let last = parts.len() - 1;
    let chunks = parts.iter().enumerate().map(|(at, (offset, bytes))| {
        let payload = [&offset.to_be_bytes()[..], bytes].concat();
        chunk(style, request, ChunkKind::Data.number(), at == last, &payload)
    });
    chunks.collect::<Vec<_>>().concat()
}

pub(super) fn hole(style: HeaderStyle, request: &Request, done: bool, offset: u64, len: u32) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.extend(len.to_be_bytes());
    let _ = HoleChunk::decode(&payload);
    chunk(style, request, ChunkKind::Hole.number(), done, &payload)
}

pub(super) fn none(style: HeaderStyle, request: &Request) -> Vec<u8> {
    match style {
        HeaderStyle::Extended => chunk(style, request, 0, true, &[]),
        _ => SimpleReply { error: 0, cookie: request.cookie }.encode(),
    }
}

pub(super) fn error(style: HeaderStyle, request: &Request, done: bool, error: u32, offset: Option<u64>) -> Vec<u8> {
    let failure = Failure { error, message: "on purpose".to_owned(), offset };
    if style == HeaderStyle::Simple {
        return SimpleReply { error, cookie: request.cookie }.encode();
    }
    chunk(style, request, failure.kind().number(), done, &failure.encode())
}

pub(super) fn status(style: HeaderStyle, request: &Request, context: u32, extents: Vec<StatusExtent>) -> Vec<u8> {
    let kind = if style == HeaderStyle::Extended { ChunkKind::BlockStatusExt } else { ChunkKind::BlockStatus };
    chunk(style, request, kind.number(), true, &Status { context, extents }.encode(kind))
}
