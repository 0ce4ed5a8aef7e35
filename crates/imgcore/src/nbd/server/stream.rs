//! Sockets of both kinds.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::block::ByteRange;

/// Where clients connect.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A TCP socket.
    Tcp(TcpListener),
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Listener {
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    /// Returns a client that waits.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                // As much as the system allows: fewer turns between both sides.
                let _less = sockopt::set_socket_send_buffer_size(&stream, BUFFER);
                Ok(Stream::Unix(stream))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                // Spec: "both the client and server SHOULD disable Nagle's algorithm"
                stream.set_nodelay(true)?;
                // A client whose machine is gone does not hold its place for ever.
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
                sockopt::set_tcp_keepintvl(&stream, PROBE)?;
                sockopt::set_tcp_keepcnt(&stream, PROBES)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Stream {
    /// Ends one direction or both, for whoever waits in it as well.
    pub fn shutdown(&self, how: Shutdown) {
        // It fails when the other side was faster.
        let _gone = match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        };
    }

    /// Lets reads and writes fail that take longer, or none.
    pub(super) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)),
            Self::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)),
        }
    }

    /// Lets reads and writes fail that would wait, or wait.
    ///
    /// # Errors
    ///
    /// The failure of the system call.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(nonblocking),
            Self::Tcp(stream) => stream.set_nonblocking(nonblocking),
        }
    }

    /// Returns the same connection once more.
    ///
    /// # Errors
    ///
    /// When there are too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buf),
            Stream::Tcp(stream) => (&*stream).read(buf),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(buf),
            Stream::Tcp(stream) => (&*stream).write(buf),
        }
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write_vectored(bufs),
            Stream::Tcp(stream) => (&*stream).write_vectored(bufs),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where replies go.
pub(super) trait Sink: Write {
    /// Sends the bytes of `file` in `range` without a copy of them here, as far as that is possible; returns how many.
    ///
    /// What is sent may still change until the client takes it, as with any read and write at the same time.
    fn send_file(&mut self, _file: &File, _range: ByteRange) -> io::Result<u64> {
        Ok(0)
    }

    /// Ends the connection, for whoever reads from it as well.
    fn hang_up(&self) {}
}

impl Sink for &Stream {
    fn send_file(&mut self, file: &File, range: ByteRange) -> io::Result<u64> {
        let mut at = range.start();
        while at < range.end() {
            let left = usize::try_from(range.end().saturating_sub(at)).unwrap_or(usize::MAX);
            match sendfile(self.as_fd(), file, Some(&mut at), left) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error @ (Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN)) => return Err(error.into()),
                // The file, or the kernel, cannot: whoever reads it in another way learns why.
                Err(_) => break,
            }
        }
        Ok(at.saturating_sub(range.start()))
    }

    fn hang_up(&self) {
        self.shutdown(Shutdown::Both);
    }
}

/// A stream to which everything is copied.
pub(super) struct Copied<W>(pub(super) W);

impl<W: Write> Write for Copied<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Sink for Copied<W> {}

/// Bytes that a socket may hold.
const BUFFER: usize = 2 << 20;

/// How long a silent TCP connection is left alone.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long it may take then to show that its client's machine is there, and how often that is tried.
const PROBE: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
