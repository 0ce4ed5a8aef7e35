//! Bytes to and from a server, none of which is waited for for ever.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::fault::Fault;
use super::tls::{self, Incoming, Session};
use crate::block::{Error, ErrorKind};
use crate::nbd::Address;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects to `address`, trying for `patience` at each of its numbers.
    pub(super) fn connect(address: &Address, patience: Duration) -> Result<Self, Fault> {
        let cannot = |error: io::Error| {
            let text = format!("cannot connect: {error}");
            Fault::new(Error::from_io("", error).kind(), text)
        };
        let socket = match address {
            Address::Unix(name) => Self::Unix(connect_unix(name).map_err(cannot)?),
            Address::Tcp(host, port) => {
                let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                let mut found = None;
                for address in (host.as_str(), *port).to_socket_addrs().map_err(cannot)? {
                    match TcpStream::connect_timeout(&address, patience) {
                        Ok(stream) => {
                            found = Some(stream);
                            break;
                        }
                        Err(error) => failure = error,
                    }
                }
                let stream = found.ok_or_else(|| cannot(failure))?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
        };
        socket.set_timeouts()?;
        Ok(socket)
    }

    /// Lets every call end soon, so that deadlines are looked at.
    fn set_timeouts(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(TICK)).and_then(|()| stream.set_write_timeout(Some(TICK))),
            Self::Unix(stream) => stream.set_read_timeout(Some(TICK)).and_then(|()| stream.set_write_timeout(Some(TICK))),
        }
    }

    /// Ends the connection for whoever reads or writes now.
    pub(super) fn shut_down(&self) {
        // It may have ended by itself.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(buf),
            Self::Unix(stream) => (&*stream).read(buf),
        }
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).write_vectored(parts),
            Self::Unix(stream) => (&*stream).write_vectored(parts),
        }
    }

    /// Reads some bytes; none when the server has ended the connection.
    pub(super) fn receive_until(&self, buf: &mut [u8], until: Instant) -> io::Result<usize> {
        loop {
            match self.receive(buf) {
                Err(error) if is_for_now(&error) => in_time(until)?,
                done => return done,
            }
        }
    }

    /// Writes all of `parts`.
    pub(super) fn send_until(&self, parts: &[&[u8]], until: Instant) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.send(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => IoSlice::advance_slices(&mut left, len),
                Err(error) if is_for_now(&error) => {}
                Err(error) => return Err(error),
            }
            in_time(until)?;
        }
        Ok(())
    }
}

fn connect_unix(name: &[u8]) -> io::Result<UnixStream> {
    let stream = match name.strip_prefix(b"\0") {
        Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => UnixStream::connect(std::ffi::OsStr::from_bytes(name))?,
    };
    // As much as the system allows: whoever writes goes on while the server works.
    let _less = sockopt::set_socket_send_buffer_size(&stream, SENT);
    Ok(stream)
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn in_time(until: Instant) -> io::Result<()> {
    if Instant::now() < until { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// What comes from the server, in order.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: Arc<Socket>,
    buffer: Box<[u8]>,
    /// The part of the buffer that holds bytes.
    held: std::ops::Range<usize>,
    tls: Option<(Session, Incoming)>,
}

impl Receiver {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, buffer: vec![0; BUFFER].into_boxed_slice(), held: 0..0, tls: None }
    }

    /// Lets all that follows be encrypted.
    ///
    /// # Errors
    ///
    /// When something came already that is not.
    pub(super) fn encrypt(&mut self, session: Session, incoming: Incoming) -> Result<(), Fault> {
        // Spec: "the client MUST NOT" use what was sent before encryption began
        if !self.held.is_empty() {
            return Err(Fault::lie("something is sent before encryption begins"));
        }
        self.tls = Some((session, incoming));
        Ok(())
    }

    /// Fills `buf`.
    ///
    /// # Errors
    ///
    /// When the server is silent, slow or gone.
    pub(super) fn read_exact(&mut self, buf: &mut [u8], until: Instant) -> Result<(), Fault> {
        let mut rest = buf;
        while !rest.is_empty() {
            let held = self.buffer.get(self.held.clone()).unwrap_or_default();
            if held.is_empty() && rest.len() >= BUFFER {
                let len = self.receive(rest, until)?;
                rest = rest.get_mut(len..).unwrap_or_default();
                continue;
            }
            if held.is_empty() {
                let mut buffer = std::mem::take(&mut self.buffer);
                let len = self.receive(&mut buffer, until);
                self.buffer = buffer;
                self.held = 0..len?;
                continue;
            }
            let len = held.len().min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(held.get(..len).unwrap_or_default());
            self.held.start = self.held.start.saturating_add(len);
            rest = later;
        }
        Ok(())
    }

    pub(super) fn read_array<const N: usize>(&mut self, until: Instant) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes, until)?;
        Ok(bytes)
    }

    /// Returns `len` bytes, of which `most` is the limit.
    pub(super) fn read_vec(&mut self, len: u64, most: usize, until: Instant) -> Result<Vec<u8>, Fault> {
        let len = usize::try_from(len).ok().filter(|len| *len <= most);
        let len = len.ok_or_else(|| Fault::lie("a message is longer than any that makes sense"))?;
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes, until)?;
        Ok(bytes)
    }

    fn receive(&mut self, buf: &mut [u8], until: Instant) -> Result<usize, Fault> {
        let received = match &mut self.tls {
            Some((session, incoming)) => incoming.receive(session, &self.socket, buf, until)?,
            None => self.socket.receive_until(buf, until)?,
        };
        match received {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            // A server that sends byte by byte is not waited for longer than a silent one.
            len => in_time(until).map(|()| len).map_err(Fault::from),
        }
    }
}

/// What goes to the server.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Arc<Socket>,
    tls: Option<Session>,
}

impl Sender {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, tls: None }
    }

    /// Lets all that follows be encrypted.
    pub(super) fn encrypt(&mut self, session: Session) {
        self.tls = Some(session);
    }

    /// Sends `parts`, one behind the other.
    pub(super) fn send(&mut self, parts: &[&[u8]], until: Instant) -> Result<(), Fault> {
        match &self.tls {
            Some(session) => tls::send(session, &self.socket, parts, until)?,
            None => self.socket.send_until(parts, until)?,
        }
        Ok(())
    }
}

/// How long servers are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For an answer that takes no work.
    pub answer: Duration,
    /// For everything that was written to become durable.
    pub flush: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(30), flush: Duration::from_secs(300) }
    }
}

impl Patience {
    /// Returns the end of waiting for an answer before which `bytes` have to pass.
    pub(super) fn until(&self, bytes: u64) -> Instant {
        later(self.answer.saturating_add(Duration::from_secs(bytes.checked_div(SLOWEST).unwrap_or(0))))
    }

    pub(super) fn until_flushed(&self) -> Instant {
        later(self.flush)
    }
}

fn later(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}

/// The error for a server that may not be what it says.
pub(super) fn refused(text: impl Into<String>) -> Fault {
    Fault::new(ErrorKind::Refused, text)
}

/// How often deadlines are looked at while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Bytes of small messages that are read at once.
const BUFFER: usize = 4096;

/// Bytes that a socket may hold for the server.
const SENT: usize = 2 << 20;

/// Bytes in a second at which a connection counts as alive.
const SLOWEST: u64 = 64 << 10;
