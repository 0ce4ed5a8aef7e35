//! Encryption: certificates from a folder, as QEMU's `tls-creds-x509` has them.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use imgcore::nbd::server::{Encrypted, StartTls, Stream};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::pump::Pump;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// How connections are encrypted.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TlsArgs {
    /// Encrypt, with ca-cert.pem, server-cert.pem, server-key.pem of a folder
    #[arg(long, value_name = "DIR", conflicts_with = "tls_psk")]
    tls_creds: Option<PathBuf>,
    /// Let clients in that have no certificate of this authority
    #[arg(long, requires = "tls_creds")]
    tls_any_client: bool,
    /// Not supported: keys that both sides share
    #[arg(long, value_name = "FILE", hide = true)]
    tls_psk: Option<PathBuf>,
}

/// Encrypts connections.
pub(super) struct Tls(Arc<ServerConfig>);

impl TlsArgs {
    /// Reads the certificates, if there is to be encryption.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or does not hold what it should; [`ErrorKind::Unsupported`] for shared keys.
    pub(super) fn open(&self, context: &Context) -> Result<Option<Tls>, CommandError> {
        if self.tls_psk.is_some() {
            let message = "TLS with pre-shared keys is not supported: the TLS library, rustls, has none";
            return Err(CommandError::new(ErrorKind::Unsupported, message).hint("`--tls-creds DIR` takes certificates"));
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
        Ok(Some(Tls(Arc::new(config))))
    }
}

impl StartTls for Tls {
    fn start(&self, stream: Stream) -> io::Result<Encrypted> {
        let mut connection = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(BUFFER));
        let (near, far) = UnixStream::pair()?;
        let mut pump = Pump::new(stream, far, connection)?;
        let pump = thread::Builder::new().name("nbd tls".to_owned()).spawn(move || drop(pump.run()))?;
        Ok(Encrypted { plain: Stream::Unix(near), pump })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
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
