//! Between a client and a server: every write is seen, and the connection can be cut at any of them, or at any byte.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use vmimg_tests::sandbox::Sandbox;

/// What a client has asked for that changes the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// These bytes, at an offset.
    Write(u64, Vec<u8>),
    /// Zeros, or nothing, in a run: offset and length.
    Zeroes(u64, u64),
    /// Everything before is to be durable.
    Flush,
}

/// Where the connections are cut, all at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cut {
    Never,
    /// Before the change of this number reaches the server.
    Change(usize),
    /// After so many bytes from the server.
    Byte(usize),
}

/// A listener, whose clients it passes on to another socket.
pub(crate) struct Proxy {
    /// The address of its export.
    pub(crate) uri: String,
    shared: Arc<Shared>,
}

struct Shared {
    /// Held while a change is noted and passed on: both have one order.
    order: Mutex<()>,
    state: Mutex<State>,
}

struct State {
    server: PathBuf,
    cut: Cut,
    is_cut: bool,
    said: usize,
    changes: Vec<Change>,
    streams: Vec<UnixStream>,
}

impl Proxy {
    /// Passes on what comes for the server whose address is `uri`.
    #[track_caller]
    pub(crate) fn start(sandbox: &Sandbox, uri: &str, cut: Cut) -> Self {
        let server = sandbox.path(uri.split_once("?socket=").unwrap().1);
        let name = format!("proxy-{}", sandbox.names().len());
        let listener = UnixListener::bind(sandbox.path(&name)).unwrap();
        let state = State { server, cut, is_cut: false, said: 0, changes: Vec::new(), streams: Vec::new() };
        let shared = Arc::new(Shared { order: Mutex::new(()), state: Mutex::new(state) });
        let passing = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                passing.state().begin(client.unwrap(), &passing);
            }
        });
        Self { uri: format!("nbd+unix:///?socket={name}"), shared }
    }

    /// What was passed on, in order.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.shared.state().changes.clone()
    }

    /// How many bytes the server has said.
    pub(crate) fn said(&self) -> usize {
        self.shared.state().said
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn begin(&mut self, client: UnixStream, shared: &Arc<Shared>) {
        let Ok(server) = UnixStream::connect(&self.server) else { return };
        if self.is_cut {
            return;
        }
        let clone = |stream: &UnixStream| stream.try_clone().unwrap();
        self.streams.extend([clone(&client), clone(&server)]);
        for (from, to, work) in [
            (clone(&client), clone(&server), requests as fn(UnixStream, UnixStream, &Shared) -> Option<()>),
            (server, client, replies),
        ] {
            let shared = Arc::clone(shared);
            std::thread::spawn(move || {
                let ends = [clone(&from), clone(&to)];
                let _ended = work(from, to, &shared);
                ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
            });
        }
    }

    fn cut(&mut self) {
        self.is_cut = true;
        self.streams.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    /// Takes note of a change; returns whether it may pass.
    fn note(&mut self, change: Change) -> bool {
        if self.cut == Cut::Change(self.changes.len()) {
            self.cut();
        }
        if !self.is_cut {
            self.changes.push(change);
        }
        !self.is_cut
    }
}

/// Passes on what a client says, message by message, to its end.
fn requests(mut from: UnixStream, mut to: UnixStream, shared: &Shared) -> Option<()> {
    let mut read = |len: usize| {
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    to.write_all(&read(4)?).ok()?;
    loop {
        let mut message = read(16)?;
        let extended = message[..4] == [0x21, 0xe4, 0x1c, 0x71];
        if message.starts_with(b"IHAVEOPT") {
            let len = u32::from_be_bytes(message[12..].try_into().unwrap());
            message.extend(read(len as usize)?);
            to.write_all(&message).ok()?;
            continue;
        }
        message.extend(read(if extended { 16 } else { 12 })?);
        let (command, len) = (message[7], message[24..].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)));
        let offset = u64::from_be_bytes(message[16..24].try_into().unwrap());
        let payload = if command == 1 { read(len as usize)? } else { Vec::new() };
        let change = match command {
            1 => Some(Change::Write(offset, payload.clone())),
            3 => Some(Change::Flush),
            4 | 6 => Some(Change::Zeroes(offset, len)),
            _ => None,
        };
        message.extend(payload);
        let _order = shared.order.lock().unwrap();
        if change.is_some_and(|change| !shared.state().note(change)) {
            return None;
        }
        to.write_all(&message).ok()?;
    }
}

/// Passes on what a server says.
fn replies(mut from: UnixStream, mut to: UnixStream, shared: &Shared) -> Option<()> {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let len = from.read(&mut bytes).ok().filter(|len| *len > 0)?;
        let mut state = shared.state();
        let most = if let Cut::Byte(most) = state.cut { most.saturating_sub(state.said) } else { len };
        state.said += len.min(most);
        let stays = len <= most;
        drop(state);
        to.write_all(&bytes[..len.min(most)]).ok()?;
        if !stays {
            shared.state().cut();
            return None;
        }
    }
}
