//! A server: disks for any number of clients, over Unix sockets and TCP.
//!
//! ```text
//! Server::serve     listeners --> a thread for each client, and some more once it transmits
//!   handshake       options: which export, which replies, which contexts
//!   session         requests: one thread reads a request while others work on those before it
//!     request       what a request asks for, once it is checked
//!     reply         headers and chunks, in the style that was agreed on
//!     outgoing      the way back to the client, which ends where a reply does not
//!     status        extents of the contexts
//! ```
//!
//! A client that is slow, silent or hostile costs one connection and no more: the handshake has a deadline, a thread holds at
//! most [`PIECE`] bytes of payload however long the request says it is, and no lock on a disk is held while a socket is waited
//! for.

mod export;
mod handshake;
mod outgoing;
mod registry;
mod reply;
mod request;
mod run;
mod session;
mod status;
mod stream;

pub use export::{Export, ServedDisk};
pub use run::Until;
pub use stream::{Listener, Stream};

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::nbd::wire::HeaderStyle;
use handshake::{Agreed, Handshake, Outcome};
use outgoing::Outgoing;
use session::Session;

/// Disks by name, and how clients may use them.
pub struct Server {
    exports: Vec<Export>,
    limits: Limits,
    tls: Option<Box<dyn StartTls>>,
    report: Box<dyn Fn(&str) + Send + Sync>,
}

/// How much clients may have of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Clients that transmit at the same time.
    pub clients: usize,
    /// Clients in the handshake at the same time; the oldest makes room for a new one.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake_time: Duration,
    /// Threads that work for one client.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients: 64, handshakes: 64, handshake_time: Duration::from_secs(10), threads: 4 }
    }
}

/// What encrypts a connection.
pub trait StartTls: fmt::Debug + Send + Sync {
    /// Starts to encrypt `stream`. The TLS handshake takes place while the plain side is read.
    ///
    /// # Errors
    ///
    /// What the operating system lacks.
    fn start(&self, stream: Stream) -> io::Result<Encrypted>;
}

/// A connection that is encrypted.
#[derive(Debug)]
pub struct Encrypted {
    /// The side on which nothing is encrypted.
    pub plain: Stream,
    /// The thread that moves bytes between both sides. It ends soon after one of them.
    pub pump: JoinHandle<()>,
}

impl Server {
    /// Returns a server of `exports`, whose names differ. `report` is told what fails on this side, in one line.
    #[must_use]
    pub fn new(exports: Vec<Export>, limits: Limits, report: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        Self { exports, limits, tls: None, report }
    }

    /// Returns the server as one that talks about nothing before the connection is encrypted.
    #[must_use]
    pub fn with_tls(self, tls: Box<dyn StartTls>) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Returns what is served.
    #[must_use]
    pub fn exports(&self) -> &[Export] {
        &self.exports
    }

    /// Returns what `export` can do for a client that negotiates nothing: transmission flags of the protocol.
    #[must_use]
    pub fn plain_flags(export: &Export) -> u16 {
        export.summary(HeaderStyle::Simple).flags
    }

    /// Serves `export` to a client that negotiates nothing and sends simple requests from the first byte on, as the kernel
    /// does, until it ends.
    ///
    /// # Errors
    ///
    /// The failure of the stream, and whatever of the client's bytes ends a connection.
    pub fn transmit(&self, export: &Export, stream: &Stream) -> io::Result<()> {
        let agreed = Agreed { export, style: HeaderStyle::Simple, contexts: Vec::new() };
        self.transmit_agreed(agreed, stream, &AtomicBool::new(false))
    }

    /// Talks with one client over any pair of streams, to its end, on this thread alone.
    ///
    /// # Errors
    ///
    /// The failure of a stream, and whatever of the client's bytes ends a connection.
    pub fn converse(&self, mut reader: impl Read + Send, mut writer: impl Write + Send) -> io::Result<()> {
        let handshake = Handshake::new(&self.exports, false, || true);
        let outcome = handshake.run(&mut Both(&mut reader, &mut writer))?;
        let Outcome::Transmit(agreed) = outcome else { return Ok(()) };
        let stopping = AtomicBool::new(false);
        let session = Session::open(agreed, &stopping, &*self.report)?;
        session.work(&Mutex::new(Some(reader)), &Mutex::new(Outgoing::new(stream::Copied(writer))))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("exports", &self.exports).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Two streams as one.
struct Both<R, W>(R, W);

impl<R: Read, W> Read for Both<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R, W: Write> Write for Both<R, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.1.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

/// Reads `len` bytes that nobody wants.
fn discard(reader: &mut impl Read, len: u64) -> io::Result<()> {
    let read = io::copy(&mut reader.take(len), &mut io::sink())?;
    if read == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Bytes of payload that a thread holds at most.
pub const PIECE: usize = 1 << 20;

/// The longest payload that is taken or sent.
const MAX_PAYLOAD: u32 = crate::nbd::wire::DEFAULT_MAX_PAYLOAD;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_failing;
