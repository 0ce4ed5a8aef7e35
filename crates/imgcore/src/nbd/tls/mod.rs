//! Encryption without input or output: bytes go in and come out, and who calls moves them.
//!
//! ```text
//! mod     Layer: what a connection is encrypted by; with certificates it is one of rustls
//! psk     a layer with keys that both sides share
//! keys    the file that holds such keys
//! ```

mod keys;
mod psk;

use std::fmt;
use std::io::{self, Read as _, Write};

pub use keys::{KeyFileError, Keys};
pub use psk::{Client, Server, Session};

/// One side of an encrypted connection.
pub trait Layer: fmt::Debug + Send {
    /// Returns whether the sides do not trust each other yet.
    fn is_handshaking(&self) -> bool;

    /// Takes some of the bytes that came from the other side, and returns how many.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] for what breaks the rules, or does not show who sends it. What is to be sent then says why.
    fn feed(&mut self, encrypted: &[u8]) -> io::Result<usize>;

    /// Reads some decrypted bytes; none when the other side has said that it ends.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when more has to be fed before; otherwise as for [`Layer::feed`].
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;

    /// Encrypts `plain`, which is then to be sent.
    ///
    /// # Errors
    ///
    /// When the connection is of no use any more.
    fn write(&mut self, plain: &[u8]) -> io::Result<()>;

    /// Says that nothing follows.
    fn close(&mut self);

    /// Returns whether there is something to send.
    fn wants_write(&self) -> bool;

    /// Gives `out` some of what is to be sent, and returns how much it took.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    fn send(&mut self, out: &mut dyn Write) -> io::Result<usize>;
}

impl Layer for rustls::Connection {
    fn is_handshaking(&self) -> bool {
        rustls::CommonState::is_handshaking(self)
    }

    fn feed(&mut self, mut encrypted: &[u8]) -> io::Result<usize> {
        let len = self.read_tls(&mut encrypted)?;
        self.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(len)
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader().read(buf)
    }

    fn write(&mut self, plain: &[u8]) -> io::Result<()> {
        self.writer().write_all(plain)
    }

    fn close(&mut self) {
        self.send_close_notify();
    }

    fn wants_write(&self) -> bool {
        rustls::CommonState::wants_write(self)
    }

    fn send(&mut self, out: &mut dyn Write) -> io::Result<usize> {
        self.write_tls(out)
    }
}
