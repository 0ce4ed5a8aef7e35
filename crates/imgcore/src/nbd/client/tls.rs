//! Encryption, with certificates or keys in the files that libnbd and QEMU use.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::connection::lock;
use super::fault::Fault;
use super::stream::{Socket, Wait, refused};
use crate::nbd::tls::{Client, Keys, Layer, Session as KeySession};
use crate::nbd::{Address, TlsSettings, Uri};

/// The state of an encrypted connection, which both directions share.
pub(super) type Session = Arc<Mutex<dyn Layer>>;

/// Begins encryption on `socket`, and returns the session with its incoming half.
pub(super) fn start(socket: &Socket, uri: &Uri, until: Wait) -> Result<(Session, Incoming), Fault> {
    let settings = uri.tls().cloned().unwrap_or_default();
    let session: Session = match (&settings.keys, &settings.user) {
        (Some(keys), user) => Arc::new(Mutex::new(by_key(keys, user.as_deref())?)),
        (None, _) => Arc::new(Mutex::new(by_certificates(uri, &settings)?)),
    };
    let mut incoming = Incoming { raw: vec![0; RECORDS].into_boxed_slice(), held: 0..0 };
    shake(&session, socket, &mut incoming, until).map_err(|fault| match &settings {
        TlsSettings { keys: Some(keys), user: Some(user), .. } => {
            let text = format!("{}, with the key of `{}` in `{}`", fault.text, user.escape_debug(), keys.display());
            Fault::new(fault.kind, text)
        }
        _ => fault,
    })?;
    Ok((session, incoming))
}

/// Lets both sides trust each other.
fn shake(session: &Session, socket: &Socket, incoming: &mut Incoming, until: Wait) -> Result<(), Fault> {
    let mut session = lock(session);
    loop {
        let mut out = Vec::new();
        while session.wants_write() {
            session.send(&mut out)?;
        }
        socket.send_until(&[&out], until)?;
        if !session.is_handshaking() {
            return Ok(());
        }
        if !incoming.feed(&mut *session)? {
            incoming.fill(socket, until)?;
        }
    }
}

/// Sends `parts`, one behind the other.
pub(super) fn send(session: &Session, socket: &Socket, parts: &[&[u8]], until: Wait) -> io::Result<()> {
    let mut out = Vec::new();
    for part in parts.iter().flat_map(|part| part.chunks(PIECE)) {
        let mut session = lock(session);
        session.write(part)?;
        while session.wants_write() {
            session.send(&mut out)?;
        }
        drop(session);
        if out.len() >= PIECE {
            socket.send_until(&[&out], until)?;
            out.clear();
        }
    }
    socket.send_until(&[&out], until)
}

/// Records of the server that are not decrypted yet.
#[derive(Debug)]
pub(super) struct Incoming {
    raw: Box<[u8]>,
    held: Range<usize>,
}

impl Incoming {
    /// Reads some bytes; none when the server has ended the connection.
    pub(super) fn receive(&mut self, session: &Session, socket: &Socket, buf: &mut [u8], until: Wait) -> Result<usize, Fault> {
        loop {
            let mut session = lock(session);
            match session.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Ok(done?),
            }
            let fed = self.feed(&mut *session)?;
            drop(session);
            if !fed {
                self.fill(socket, until)?;
            }
        }
    }

    /// Decrypts some of what is there, or returns that nothing is.
    fn feed(&mut self, session: &mut dyn Layer) -> Result<bool, Fault> {
        let held = self.raw.get(self.held.clone()).unwrap_or_default();
        if held.is_empty() {
            return Ok(false);
        }
        let len = session.feed(held).map_err(unusable)?;
        self.held.start = self.held.start.saturating_add(len);
        Ok(true)
    }

    fn fill(&mut self, socket: &Socket, until: Wait) -> Result<(), Fault> {
        match socket.receive_until(&mut self.raw, until)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            len => {
                self.held = 0..len;
                Ok(())
            }
        }
    }
}

/// Begins a connection to a server that knows the key of `user`.
fn by_key(file: &Path, user: Option<&str>) -> Result<KeySession, Fault> {
    let user = user.ok_or_else(|| refused("whose key is used is not said: `nbds://USER@HOST` or `tls-username=USER`"))?;
    let keys = Keys::read(file).map_err(|error| refused(error.to_string()))?;
    let client = Client::new(&keys, user).map_err(unusable)?;
    let none = || refused(format!("`{}` has no key of `{}`", keys.path().display(), user.escape_debug()));
    client.ok_or_else(none)?.start().map_err(unusable)
}

/// Begins a connection to a server that has a certificate.
fn by_certificates(uri: &Uri, settings: &TlsSettings) -> Result<rustls::Connection, Fault> {
    let unusable = |error: rustls::Error| unusable(io::Error::other(error));
    let folder = settings.certificates.as_deref();
    let folder = folder
        .ok_or_else(|| refused("whom to believe is not said: `tls-certificates=FOLDER` is missing, or `tls-psk-file=FILE`"))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&folder.join("ca-cert.pem"))? {
        roots.add(authority).map_err(unusable)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots);
    let (own, key) = (folder.join("client-cert.pem"), folder.join("client-key.pem"));
    let config = if own.exists() {
        let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, error))?;
        config.with_client_auth_cert(certificates(&own)?, secret).map_err(unusable)?
    } else {
        config.with_no_client_auth()
    };
    let mut session = ClientConnection::new(Arc::new(config), name(uri, settings)?).map_err(unusable)?;
    session.set_buffer_limit(None);
    Ok(session.into())
}

/// Returns the name that the server's certificate must have.
fn name(uri: &Uri, settings: &TlsSettings) -> Result<ServerName<'static>, Fault> {
    let name = settings.hostname.clone().or_else(|| match uri.address() {
        Address::Tcp(host, _) => Some(host.clone()),
        Address::Unix(_) => None,
    });
    let name = name.ok_or_else(|| refused("a socket has no name: `tls-hostname=NAME` is missing"))?;
    ServerName::try_from(name)
        .map_err(|error| refused(format!("the server has no name that a certificate could have: {error}")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    found.map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: PemError) -> Fault {
    refused(format!("`{}` cannot be used: {error}", path.display()))
}

fn unusable(error: io::Error) -> Fault {
    refused(format!("the connection cannot be encrypted: {error}"))
}

/// Bytes of records that are received at once.
const RECORDS: usize = 64 << 10;

/// Bytes that are encrypted at once.
const PIECE: usize = 64 << 10;
