use std::path::PathBuf;

use crate::error::{CommandError, ErrorKind};

/// The failure to describe a virtual machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name cannot be a domain's.
    #[error("a domain cannot be named {name:?}: {rule}")]
    Name {
        /// The name.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A path cannot be given to libvirt or QEMU.
    #[error("the path {path:?} cannot be given to a domain: {rule}")]
    Path {
        /// The path.
        path: PathBuf,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Any other value that libvirt or QEMU would refuse, or that would not do what it says.
    #[error("{what} {value:?} is not possible: {rule}")]
    Value {
        /// What the value is for.
        what: &'static str,
        /// The value as given.
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The format of a disk cannot be told from its first bytes.
    #[error("the format of {path:?} is {found}, and a guest's disk is qcow2 or raw")]
    DiskFormat {
        /// The file.
        path: PathBuf,
        /// The format that its first bytes announce.
        found: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// What the domain needs exists only in libvirt, and QEMU is run directly.
    #[error("QEMU alone cannot give a guest {0}")]
    NeedsLibvirt(String),
    /// No file of UEFI firmware was given.
    #[error("no UEFI firmware was given")]
    NoFirmware,
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        let (kind, hint) = match &error {
            Error::Name { .. } | Error::Path { .. } | Error::Value { .. } => (ErrorKind::Usage, None),
            Error::DiskFormat { .. } => (ErrorKind::Unsupported, Some("`qemu-img convert -O qcow2` makes a qcow2 image of it")),
            Error::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => (ErrorKind::NotFound, None),
            Error::Read { .. } => (ErrorKind::Storage, None),
            Error::NeedsLibvirt(_) => (ErrorKind::Unsupported, Some("boot it with libvirt: `--connect qemu:///system`")),
            Error::NoFirmware => (ErrorKind::NotFound, Some("on Debian and Ubuntu: `apt-get install ovmf`")),
        };
        let new = Self::new(kind, error.to_string());
        let new = match error {
            Error::Read { source, .. } => new.with_source(source),
            _ => new,
        };
        hint.into_iter().fold(new, Self::hint)
    }
}
