use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Hypervisor, Libvirt, Qemu};
use crate::context::Context;
use crate::domain::Accelerator;
use crate::error::{CommandError, ErrorKind};
use crate::files::read_text;
use crate::machine::MachineName;

/// How a machine was started last, kept in its folder as `boot.json`.
///
/// Whether it still runs is for the hypervisor to say.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Booted {
    /// What was to run it.
    pub hypervisor: Runner,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// The port of 127.0.0.1 that leads to the guest's SSH server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_port: Option<u16>,
    /// The file that collects what the guest writes to its serial port.
    pub console: PathBuf,
    /// When it was started, in seconds since 1970.
    pub started: i64,
}

/// What runs a machine.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "kind")]
pub enum Runner {
    /// QEMU, started directly.
    Qemu,
    /// The libvirt at a URI.
    Libvirt {
        /// The URI.
        uri: String,
    },
}

impl Runner {
    /// Returns the hypervisor, for the machine `name` in `folder`.
    #[must_use]
    pub fn hypervisor<'a>(&self, context: &'a Context, folder: &Path, name: &MachineName) -> Box<dyn Hypervisor + 'a> {
        match self {
            Self::Qemu => Box::new(Qemu::new(context, folder)),
            Self::Libvirt { uri } => Box::new(Libvirt::new(context, uri, name.as_str())),
        }
    }

    /// Returns the hypervisor for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Qemu => "QEMU".to_owned(),
            Self::Libvirt { uri } => format!("libvirt at {uri}"),
        }
    }
}

impl Booted {
    /// Reads how the machine in `folder` was started last, if ever.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when the record does not parse, and the failure of the operating system.
    pub fn load(folder: &Path) -> Result<Option<Self>, CommandError> {
        let path = folder.join(BOOT_FILE);
        let text = match read_text(&path, 1 << 20) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| CommandError::io(format!("cannot read `{}`", path.display()), error))?,
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            let message = format!("`{}` does not say how the machine was started", path.display());
            CommandError::new(ErrorKind::Corrupt, message).with_source(error)
        })
    }

    /// Writes the record into `folder`, in place of the last one.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub fn save(&self, folder: &Path) -> Result<(), CommandError> {
        let cannot = |error: io::Error| CommandError::io(format!("cannot write to `{}`", folder.display()), error);
        let text = serde_json::to_string_pretty(self).map_err(|error| cannot(error.into()))?;
        // Not synced: after a power failure no machine runs.
        let mut file = tempfile::Builder::new().prefix(".boot.").tempfile_in(folder).map_err(cannot)?;
        io::Write::write_all(&mut file, format!("{text}\n").as_bytes()).map_err(cannot)?;
        file.persist(folder.join(BOOT_FILE)).map_err(|error| cannot(error.error))?;
        Ok(())
    }

    /// Removes the record from `folder`.
    pub fn forget(folder: &Path) {
        // The next start replaces it.
        let _removed = fs::remove_file(folder.join(BOOT_FILE));
    }
}

/// Keeps other commands from starting or removing the machine in `folder` until it is dropped.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when another command does so at this moment.
pub fn occupy(folder: &Path) -> Result<File, CommandError> {
    let cannot = |error: io::Error| CommandError::io(format!("cannot lock `{}`", folder.display()), error);
    let lock = File::open(folder).map_err(cannot)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => {
            Err(CommandError::new(ErrorKind::Refused, "another command starts or removes the machine at this moment"))
        }
        Err(error) => Err(cannot(error.into())),
    }
}

/// The record's file in a machine's folder.
const BOOT_FILE: &str = "boot.json";

#[cfg(test)]
mod tests {
    use super::{Booted, Runner, occupy};
    use crate::domain::Accelerator;
    use crate::error::ErrorKind;

    #[test]
    fn how_a_machine_was_started_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Booted::load(folder.path()).unwrap(), None);
        let booted = Booted {
            hypervisor: Runner::Libvirt { uri: "qemu:///session".to_owned() },
            accelerator: Accelerator::Qemu,
            ssh_port: Some(2222),
            console: "/vm/console.log".into(),
            started: 1,
        };
        booted.save(folder.path()).unwrap();
        assert_eq!(Booted::load(folder.path()).unwrap(), Some(booted));
        std::fs::write(folder.path().join("boot.json"), "{").unwrap();
        assert_eq!(Booted::load(folder.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn one_command_at_a_time_has_a_machine() {
        let folder = tempfile::tempdir().unwrap();
        let held = occupy(folder.path()).unwrap();
        assert_eq!(occupy(folder.path()).unwrap_err().kind(), ErrorKind::Refused);
        drop(held);
        occupy(folder.path()).unwrap();
    }
}
