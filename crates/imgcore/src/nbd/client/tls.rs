//! Encryption, with certificates in the files that libnbd and QEMU use.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::connection::lock;
use super::fault::Fault;
use super::stream::{Socket, refused};
use crate::nbd::{Address, Uri};

/// The state of an encrypted connection, which both directions share.
pub(super) type Session = Arc<Mutex<ClientConnection>>;

/// Begins encryption on `socket`, and returns the session with its incoming half.
pub(super) fn start(socket: &Socket, uri: &Uri, until: Instant) -> Result<(Session, Incoming), Fault> {
    let mut session = ClientConnection::new(Arc::new(config(uri)?), name(uri)?).map_err(unusable)?;
    session.set_buffer_limit(None);
    let mut incoming = Incoming { raw: vec![0; RECORDS].into_boxed_slice(), held: 0..0 };
    while session.is_handshaking() {
        let mut out = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut out)?;
        }
        socket.send_until(&[&out], until)?;
        if session.is_handshaking() && !incoming.feed(&mut session)? {
            incoming.fill(socket, until)?;
        }
    }
    let mut out = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut out)?;
    }
    socket.send_until(&[&out], until)?;
    Ok((Arc::new(Mutex::new(session)), incoming))
}

/// Sends `parts`, one behind the other.
pub(super) fn send(session: &Session, socket: &Socket, parts: &[&[u8]], until: Instant) -> io::Result<()> {
    let mut out = Vec::new();
    for part in parts.iter().flat_map(|part| part.chunks(PIECE)) {
        let mut session = lock(session);
        session.writer().write_all(part)?;
        while session.wants_write() {
            session.write_tls(&mut out)?;
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
    pub(super) fn receive(
        &mut self,
        session: &Session,
        socket: &Socket,
        buf: &mut [u8],
        until: Instant,
    ) -> Result<usize, Fault> {
        loop {
            let mut session = lock(session);
            match session.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Ok(done?),
            }
            let fed = self.feed(&mut session)?;
            drop(session);
            if !fed {
                self.fill(socket, until)?;
            }
        }
    }

    /// Decrypts some of what is there, or returns that nothing is.
    fn feed(&mut self, session: &mut ClientConnection) -> Result<bool, Fault> {
        let mut held = self.raw.get(self.held.clone()).unwrap_or_default();
        if held.is_empty() {
            return Ok(false);
        }
        let len = session.read_tls(&mut held)?;
        self.held.start = self.held.start.saturating_add(len);
        session.process_new_packets().map_err(unusable)?;
        Ok(true)
    }

    fn fill(&mut self, socket: &Socket, until: Instant) -> Result<(), Fault> {
        match socket.receive_until(&mut self.raw, until)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            len => {
                self.held = 0..len;
                Ok(())
            }
        }
    }
}

/// Returns whom to believe, and who this client is.
fn config(uri: &Uri) -> Result<ClientConfig, Fault> {
    let folder = uri.tls().and_then(|tls| tls.certificates.as_deref());
    let folder = folder.ok_or_else(|| refused("whom to believe is not said: `tls-certificates=FOLDER` is missing"))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&folder.join("ca-cert.pem"))? {
        roots.add(authority).map_err(unusable)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots);
    let (own, key) = (folder.join("client-cert.pem"), folder.join("client-key.pem"));
    if !own.exists() {
        return Ok(config.with_no_client_auth());
    }
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, error))?;
    config.with_client_auth_cert(certificates(&own)?, secret).map_err(unusable)
}

/// Returns the name that the server's certificate must have.
fn name(uri: &Uri) -> Result<ServerName<'static>, Fault> {
    let given = uri.tls().and_then(|tls| tls.hostname.clone());
    let name = given.or_else(|| match uri.address() {
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

fn unusable(error: rustls::Error) -> Fault {
    refused(format!("the connection cannot be encrypted: {error}"))
}

/// Bytes of records that are received at once.
const RECORDS: usize = 64 << 10;

/// Bytes that are encrypted at once.
const PIECE: usize = 64 << 10;
