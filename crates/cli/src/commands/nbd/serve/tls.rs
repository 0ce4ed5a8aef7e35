//! Encryption: certificates from a folder, or keys from a file, as QEMU's `tls-creds-x509` and `tls-creds-psk` have them.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use imgcore::nbd::server::{Encrypted, StartTls, Stream};
use imgcore::nbd::tls::{Keys, Layer, Server};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::pump::Pump;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::warn;

/// How connections are encrypted.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TlsArgs {
    /// Encrypt, with ca-cert.pem, server-cert.pem, server-key.pem of a folder
    #[arg(long, value_name = "DIR", conflicts_with = "tls_psk")]
    tls_creds: Option<PathBuf>,
    /// Let clients in that have no certificate of this authority
    #[arg(long, requires = "tls_creds")]
    tls_any_client: bool,
    /// Encrypt, with the keys in a file of psktool, or keys.psk of a folder
    #[arg(long, value_name = "FILE")]
    tls_psk: Option<PathBuf>,
}

/// Encrypts connections.
#[derive(Debug)]
pub(super) enum Tls {
    /// Of clients that a certificate tells, or of any.
    Certificates(Arc<ServerConfig>),
    /// Of clients that know a key.
    Keys(Server),
}

impl TlsArgs {
    /// Reads the certificates or the keys, if there is to be encryption.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or does not hold what it should; when every user could have changed the keys.
    pub(super) fn open(&self, context: &Context) -> Result<Option<Tls>, CommandError> {
        if let Some(file) = &self.tls_psk {
            return keys(&context.absolute(file), context).map(|server| Some(Tls::Keys(server)));
        }
        let Some(folder) = &self.tls_creds else { return Ok(None) };
        let folder = context.absolute(folder);
        let provider = Arc::new(ring::default_provider());
        let unusable = |error: rustls::Error| wrong(&folder.join(CERTIFICATE)).with_source(error);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(unusable)?;
        let builder = if self.tls_any_client {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&folder.join(AUTHORITY))? {
                roots.add(certificate).map_err(|error| wrong(&folder.join(AUTHORITY)).with_source(error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.with_crls(revoked(&folder.join(REVOKED))?).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(&folder.join(AUTHORITY)).with_source(error))?)
        };
        let chain = certificates(&folder.join(CERTIFICATE))?;
        let key_file = folder.join(KEY);
        let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|error| wrong(&key_file).with_source(error))?;
        let config = builder.with_single_cert(chain, key).map_err(unusable)?;
        Ok(Some(Tls::Certificates(Arc::new(config))))
    }
}

impl StartTls for Tls {
    fn start(&self, stream: Stream) -> io::Result<Encrypted> {
        let layer: Box<dyn Layer> = match self {
            Self::Certificates(config) => {
                let mut connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                connection.set_buffer_limit(Some(BUFFER));
                Box::new(rustls::Connection::from(connection))
            }
            Self::Keys(server) => Box::new(server.start()?),
        };
        let (near, far) = UnixStream::pair()?;
        let mut pump = Pump::new(stream, far, layer)?;
        let pump = thread::Builder::new().name("nbd tls".to_owned()).spawn(move || drop(pump.run()))?;
        Ok(Encrypted { plain: Stream::Unix(near), pump })
    }
}

/// Reads the keys in `path`.
fn keys(path: &Path, context: &Context) -> Result<Server, CommandError> {
    let keys = Keys::read(path).map_err(|error| {
        let kind = if error.missing { ErrorKind::NotFound } else { ErrorKind::Usage };
        CommandError::new(kind, error.to_string()).hint("`psktool -u USER -p FILE` makes one; each line is `USER:KEY`")
    })?;
    if keys.is_shown_to_others() {
        warn(context, format!("every user can read the keys in `{0}`; `chmod 600 {0}` ends that", keys.path().display()));
    }
    Server::new(keys).map_err(|error| CommandError::io("OpenSSL cannot encrypt with keys", error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CommandError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found = found.map_err(|error| wrong(path).with_source(error))?;
    if found.is_empty() { Err(wrong(path)) } else { Ok(found) }
}

/// Returns the list of revoked certificates, if there is one.
fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, CommandError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let found = CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect);
    found.map_err(|error| wrong(path).with_source(error))
}

fn wrong(path: &Path) -> CommandError {
    let kind = if path.exists() { ErrorKind::Usage } else { ErrorKind::NotFound };
    let names = "the folder holds ca-cert.pem, server-cert.pem and server-key.pem, as QEMU's tls-creds-x509 has them";
    CommandError::new(kind, format!("cannot use `{}` for TLS", path.display())).hint(names)
}

const AUTHORITY: &str = "ca-cert.pem";
const REVOKED: &str = "ca-crl.pem";
const CERTIFICATE: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";

/// Bytes that wait to be encrypted or sent.
const BUFFER: usize = 512 << 10;
