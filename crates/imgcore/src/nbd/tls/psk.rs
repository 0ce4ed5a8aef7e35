//! Encryption with a key that both sides have: whoever shows that it knows the key of a user is that user.
//!
//! # Spec
//!
//! RFC 8446, 4.2.11, external keys, with `psk_dhe_ke`; RFC 4279, RFC 5489 and RFC 5487 for TLS 1.2.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{
    Error, ErrorCode, ShutdownState, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslStream,
    SslVerifyMode, SslVersion,
};

use super::{Keys, Layer};

/// Encrypts connections of those clients that know a key.
pub struct Server(SslContext);

/// Encrypts connections to a server that knows the key of one user.
pub struct Client(SslContext);

impl Server {
    /// Returns a server for all users that have `keys`.
    ///
    /// # Errors
    ///
    /// When OpenSSL is set up so that it has none of the ciphers.
    pub fn new(keys: Keys) -> io::Result<Self> {
        let mut context = context(SslMethod::tls_server())?;
        let keys = Arc::new(keys);
        context.set_psk_server_callback(move |_, user, space| {
            let key = user.and_then(|user| keys.of(user)).and_then(|key| Some((key, space.get_mut(..key.len())?)));
            // A length of 0 is how this call says that there is no such user.
            Ok(key.map_or(0, |(key, space)| {
                space.copy_from_slice(key);
                key.len()
            }))
        });
        Ok(Self(context.build()))
    }

    /// Begins a connection.
    ///
    /// # Errors
    ///
    /// When OpenSSL has no memory.
    pub fn start(&self) -> io::Result<Session> {
        let mut ssl = Ssl::new(&self.0)?;
        ssl.set_accept_state();
        Session::start(ssl)
    }
}

impl Client {
    /// Returns a client that is `user`, or `None` when there is no key of that name.
    ///
    /// # Errors
    ///
    /// When OpenSSL is set up so that it has none of the ciphers.
    pub fn new(keys: &Keys, user: &str) -> io::Result<Option<Self>> {
        let Some(key) = keys.of(user.as_bytes()).map(<[u8]>::to_vec) else { return Ok(None) };
        let mut name = user.as_bytes().to_vec();
        name.push(0);
        let mut context = context(SslMethod::tls_client())?;
        // No authority is believed, so that a server cannot come with a certificate in place of the key.
        context.set_verify(SslVerifyMode::PEER);
        context.set_psk_client_callback(move |_, _, name_space, key_space| {
            match (name_space.get_mut(..name.len()), key_space.get_mut(..key.len())) {
                (Some(name_space), Some(key_space)) => {
                    name_space.copy_from_slice(&name);
                    key_space.copy_from_slice(&key);
                    Ok(key.len())
                }
                _ => Ok(0),
            }
        });
        Ok(Some(Self(context.build())))
    }

    /// Begins a connection.
    ///
    /// # Errors
    ///
    /// When OpenSSL has no memory.
    pub fn start(&self) -> io::Result<Session> {
        let mut ssl = Ssl::new(&self.0)?;
        ssl.set_connect_state();
        Session::start(ssl)
    }
}

fn context(method: SslMethod) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(method)?;
    // Spec: `doc/proto.md`: "The server MUST support TLS version 1.2, SHOULD support any higher version"
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_num_tickets(0)?;
    context.set_ciphersuites(CIPHERS)?;
    context.set_cipher_list(CIPHERS_TLS12)?;
    Ok(context)
}

/// A connection, and what is on its way.
pub struct Session {
    stream: SslStream<Ends>,
    is_handshaking: bool,
    /// What is to be encrypted when the handshake is done.
    early: Vec<u8>,
}

/// The encrypted side.
#[derive(Default)]
struct Ends {
    incoming: Vec<u8>,
    /// How much of it was read.
    taken: usize,
    outgoing: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
}

impl Session {
    fn start(ssl: Ssl) -> io::Result<Self> {
        let stream = SslStream::new(ssl, Ends::default())?;
        let mut session = Self { stream, is_handshaking: true, early: Vec::new() };
        session.shake()?;
        Ok(session)
    }

    /// Goes as far in the handshake as possible.
    fn shake(&mut self) -> io::Result<()> {
        match self.stream.do_handshake() {
            Ok(()) => {}
            Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(()),
            Err(error) => return Err(broken(&error)),
        }
        let ssl = self.stream.ssl();
        let by_key = ssl.session_reused() || ssl.current_cipher().is_some_and(|cipher| cipher.name().contains("PSK"));
        if !by_key {
            return Err(invalid("no key was used"));
        }
        self.is_handshaking = false;
        let early = std::mem::take(&mut self.early);
        self.write(&early)
    }
}

impl Layer for Session {
    fn is_handshaking(&self) -> bool {
        self.is_handshaking
    }

    fn feed(&mut self, encrypted: &[u8]) -> io::Result<usize> {
        let ends = self.stream.get_mut();
        // Who asks for answers and takes none could have them pile up.
        if ends.outgoing.len().saturating_sub(ends.sent) > MOST_OUTGOING {
            return Err(invalid("the other side does not take what it asks for"));
        }
        ends.incoming.drain(..ends.taken);
        ends.taken = 0;
        ends.incoming.extend_from_slice(encrypted);
        if self.is_handshaking {
            self.shake()?;
        }
        Ok(encrypted.len())
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.is_handshaking {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.stream.ssl_read(buf) {
            Ok(len) => Ok(len),
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(0),
            Err(error) if error.code() == ErrorCode::WANT_READ => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(broken(&error)),
        }
    }

    fn write(&mut self, plain: &[u8]) -> io::Result<()> {
        if self.is_handshaking {
            self.early.extend_from_slice(plain);
            return Ok(());
        }
        let mut rest = plain;
        while !rest.is_empty() {
            let len = self.stream.ssl_write(rest).map_err(|error| broken(&error))?;
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(())
    }

    fn close(&mut self) {
        // Once is enough; it fails when there is no connection yet, or none any more.
        if !self.stream.get_shutdown().contains(ShutdownState::SENT) {
            let _gone = self.stream.shutdown();
        }
    }

    fn wants_write(&self) -> bool {
        let ends = self.stream.get_ref();
        ends.sent < ends.outgoing.len()
    }

    fn send(&mut self, out: &mut dyn Write) -> io::Result<usize> {
        let ends = self.stream.get_mut();
        let len = out.write(ends.outgoing.get(ends.sent..).unwrap_or_default())?;
        ends.sent = ends.sent.saturating_add(len);
        if ends.sent >= ends.outgoing.len() {
            ends.outgoing.clear();
            ends.sent = 0;
        }
        Ok(len)
    }
}

impl Read for Ends {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut rest = self.incoming.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = rest.read(buf)?;
        self.taken = self.taken.saturating_add(len);
        Ok(len)
    }
}

impl Write for Ends {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("is_handshaking", &self.is_handshaking).finish_non_exhaustive()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Returns what OpenSSL says in one word or two, without its numbers and functions.
fn broken(error: &Error) -> io::Error {
    let reason = error.ssl_error().and_then(|stack| stack.errors().first()?.reason());
    invalid(reason.unwrap_or("the other side broke off"))
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Of TLS 1.3: those with SHA-256, which is the hash of a key of which nothing else is said.
///
/// Spec: RFC 8446, 4.2.11: "the Hash algorithm MUST be set when the PSK is established or default to SHA-256"
const CIPHERS: &str = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";

/// Of TLS 1.2: authenticated, and with keys that a later loss of the shared one does not tell.
const CIPHERS_TLS12: &str =
    "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES128-GCM-SHA256:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-CHACHA20-POLY1305";

/// Bytes that may wait to be sent when more is taken from the other side.
const MOST_OUTGOING: usize = 2 << 20;
