use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use imgcore::nbd::{Address, Uri};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::place::encoded;

/// One disk of a domain.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Where it is.
    #[serde(rename = "path")]
    pub source: Source,
    /// The format of the file; an export has the bytes of the disk.
    pub format: DiskFormat,
    /// How the guest sees the disk.
    #[serde(default)]
    pub bus: Bus,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// Where a disk is: in the record a path, or an object that describes an export.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Source {
    /// In a file, with an absolute path.
    File(PathBuf),
    /// In an export of an NBD server.
    Export(Export),
}

/// An export of an NBD server.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Its name; empty for the server's default.
    pub export: String,
    /// The server.
    pub server: Server,
}

/// What an NBD server listens on.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Server {
    /// A Unix socket, with an absolute path.
    Unix(PathBuf),
    /// TCP.
    Tcp {
        /// The host's name or number.
        host: String,
        /// The port.
        port: u16,
    },
}

/// The format of a disk's file.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// A qcow2 image.
    Qcow2,
    /// The bytes of the disk, as they are.
    Raw,
}

/// The controller a disk is attached to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// A virtio block device of its own.
    #[default]
    Virtio,
    /// A port of the SATA controller.
    Sata,
}

impl Source {
    /// Returns the path of a file.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Export(_) => None,
        }
    }
}

impl Export {
    /// Returns what libvirt and QEMU are told of the export at `uri`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for what they cannot be told: encryption, whose certificates are theirs, and sockets without a path.
    pub fn of(uri: &Uri) -> Result<Self, Error> {
        let refused = |rule| Err(Error::Value { what: "the export", value: uri.to_string(), rule });
        if uri.tls().is_some() {
            return refused("a guest's disk is reached without encryption");
        }
        let server = match uri.address() {
            Address::Tcp(host, port) => Server::Tcp { host: host.clone(), port: *port },
            Address::Unix(name) => match std::str::from_utf8(name) {
                Ok(path) if path.starts_with('/') => Server::Unix(path.into()),
                _ => return refused("its socket has no path of UTF-8"),
            },
        };
        Ok(Self { export: uri.export().to_owned(), server })
    }

    /// Returns its address, which holds in every folder.
    #[must_use]
    pub fn address(&self) -> String {
        let export = encoded(self.export.as_bytes());
        match &self.server {
            Server::Unix(socket) => format!("nbd+unix:///{export}?socket={}", encoded(socket.as_os_str().as_bytes())),
            Server::Tcp { host, port } if host.contains(':') => format!("nbd://[{host}]:{port}/{export}"),
            Server::Tcp { host, port } => format!("nbd://{host}:{port}/{export}"),
        }
    }
}

impl DiskFormat {
    /// Returns the name that QEMU and libvirt give to the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use imgcore::nbd::Uri;

    use super::Export;

    #[test]
    fn an_export_has_an_address_that_holds_everywhere() {
        for (text, address) in [
            ("nbd+unix:///a%20b?socket=s%3F", "nbd+unix:///a%20b?socket=/w/s%3F"),
            ("nbd://[::1]/x", "nbd://[::1]:10809/x"),
            ("nbd://storage.example:5/", "nbd://storage.example:5/"),
        ] {
            let export = Export::of(&Uri::parse(text, Path::new("/w")).unwrap()).unwrap();
            assert_eq!(export.address(), address);
            assert_eq!(Export::of(&Uri::parse(address, Path::new("/")).unwrap()).unwrap(), export);
        }
        for text in ["nbds://h/x?tls-certificates=c", "nbd+unix:///?socket=%00a"] {
            Export::of(&Uri::parse(text, Path::new("/w")).unwrap()).unwrap_err();
        }
    }
}
