//! Bytes to and from a server, none of which is waited for for ever.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::fault::Fault;
use super::tls::{self, Incoming, Session};
use crate::block::{Error, ErrorKind};
use crate::nbd::{Address, Stop, Uri};

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    stop: Stop,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects to the server of `uri`, waiting for each of its addresses as for an answer.
    pub(super) fn connect(uri: &Uri, patience: Patience) -> Result<Self, Fault> {
        let cannot = |error: io::Error| {
            let text = format!("cannot connect: {error}");
            Fault::new(Error::from_io("", error).kind(), text)
        };
        let stream = match uri.address() {
            Address::Unix(name) => Stream::Unix(connect_unix(name, patience, uri.stop()).map_err(cannot)?),
            Address::Tcp(host, port) => {
                let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                let mut found = None;
                for address in (host.as_str(), *port).to_socket_addrs().map_err(cannot)? {
                    match connect_tcp(address, patience, uri.stop()) {
                        Ok(stream) => {
                            found = Some(stream);
                            break;
                        }
                        Err(error) => failure = error,
                    }
                }
                let stream = found.ok_or_else(|| cannot(failure))?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        let socket = Self { stream, stop: uri.stop().clone() };
        socket.set_timeouts()?;
        Ok(socket)
    }

    /// Lets every call end soon, so that deadlines are looked at.
    fn set_timeouts(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(TICK)).and_then(|()| stream.set_write_timeout(Some(TICK))),
            Stream::Unix(stream) => stream.set_read_timeout(Some(TICK)).and_then(|()| stream.set_write_timeout(Some(TICK))),
        }
    }

    /// Ends the connection for whoever reads or writes now.
    pub(super) fn shut_down(&self) {
        // It may have ended by itself.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => (&*stream).read(buf),
            Stream::Unix(stream) => (&*stream).read(buf),
        }
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => (&*stream).write_vectored(parts),
            Stream::Unix(stream) => (&*stream).write_vectored(parts),
        }
    }

    /// Fails when the server is not waited for any longer.
    pub(super) fn in_time(&self, until: Wait) -> io::Result<()> {
        until.check(&self.stop)
    }

    /// Reads some bytes; none when the server has ended the connection.
    pub(super) fn receive_until(&self, buf: &mut [u8], until: Wait) -> io::Result<usize> {
        loop {
            match self.receive(buf) {
                Err(error) if is_for_now(&error) => self.in_time(until)?,
                done => return done,
            }
        }
    }

    /// Writes all of `parts`.
    pub(super) fn send_until(&self, parts: &[&[u8]], until: Wait) -> io::Result<()> {
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
            self.in_time(until)?;
        }
        Ok(())
    }
}

fn connect_unix(name: &[u8], patience: Patience, stop: &Stop) -> io::Result<UnixStream> {
    let address = match name.strip_prefix(b"\0") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(name)?,
    };
    let stream = UnixStream::from(connect(AddressFamily::UNIX, &address, patience, stop)?);
    // As much as the system allows: whoever writes goes on while the server works.
    let _less = sockopt::set_socket_send_buffer_size(&stream, SENT);
    Ok(stream)
}

fn connect_tcp(address: SocketAddr, patience: Patience, stop: &Stop) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(TcpStream::from(connect(family, &address, patience, stop)?))
}

/// Connects, also to a server that is too busy for one more client at first.
fn connect(family: AddressFamily, address: &impl SocketAddrArg, patience: Patience, stop: &Stop) -> io::Result<OwnedFd> {
    let wait = patience.until(0);
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It ends the waiting for a connection as well, which then goes on with the next call.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(TICK))?;
    loop {
        match rustix::net::connect(&socket, address) {
            Err(Errno::AGAIN | Errno::INPROGRESS | Errno::ALREADY | Errno::INTR) => wait.check(stop)?,
            done => return Ok(done.map(|()| socket)?),
        }
    }
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// When waiting began, and when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    begun: Instant,
    end: Instant,
}

impl Wait {
    /// Returns a wait of this length that begins now.
    pub(super) fn of(time: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, end: begun.checked_add(time).unwrap_or(begun) }
    }

    /// Fails when it is over.
    fn check(self, stop: &Stop) -> io::Result<()> {
        let now = Instant::now();
        if now >= self.end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if now.saturating_duration_since(self.begun) >= MERCY && stop.is_asked() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }
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
    pub(super) fn read_exact(&mut self, buf: &mut [u8], until: Wait) -> Result<(), Fault> {
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

    pub(super) fn read_array<const N: usize>(&mut self, until: Wait) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes, until)?;
        Ok(bytes)
    }

    /// Returns `len` bytes, of which `most` is the limit.
    pub(super) fn read_vec(&mut self, len: u64, most: usize, until: Wait) -> Result<Vec<u8>, Fault> {
        let len = usize::try_from(len).ok().filter(|len| *len <= most);
        let len = len.ok_or_else(|| Fault::lie("a message is longer than any that makes sense"))?;
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes, until)?;
        Ok(bytes)
    }

    fn receive(&mut self, buf: &mut [u8], until: Wait) -> Result<usize, Fault> {
        let received = match &mut self.tls {
            Some((session, incoming)) => incoming.receive(session, &self.socket, buf, until)?,
            None => self.socket.receive_until(buf, until)?,
        };
        match received {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            // A server that sends byte by byte is not waited for longer than a silent one.
            len => self.socket.in_time(until).map(|()| len).map_err(Fault::from),
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
    pub(super) fn send(&mut self, parts: &[&[u8]], until: Wait) -> Result<(), Fault> {
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
    /// Returns how long an answer is waited for before which `bytes` have to pass.
    pub(super) fn until(&self, bytes: u64) -> Wait {
        Wait::of(self.answer.saturating_add(Duration::from_secs(bytes.checked_div(SLOWEST).unwrap_or(0))))
    }

    pub(super) fn until_flushed(&self) -> Wait {
        Wait::of(self.flush)
    }
}

/// The error for a server that may not be what it says.
pub(super) fn refused(text: impl Into<String>) -> Fault {
    Fault::new(ErrorKind::Refused, text)
}

/// How long a request may take, from its beginning, once the program is asked to stop.
pub const MERCY: Duration = Duration::from_secs(2);

/// How often deadlines are looked at while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Bytes of small messages that are read at once.
const BUFFER: usize = 4096;

/// Bytes that a socket may hold for the server.
const SENT: usize = 2 << 20;

/// Bytes in a second at which a connection counts as alive.
const SLOWEST: u64 = 64 << 10;
