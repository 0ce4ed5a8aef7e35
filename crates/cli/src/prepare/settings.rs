use std::collections::BTreeMap;
use std::path::PathBuf;

use seed::guest::VolumeId;
use seed::identity::MacAddress;
use seed::network::Interface;
use seed::plan::Seed;
use serde::Deserialize;

use super::Ephemeral;
use crate::attached::Via;
use crate::domain::{DiskFormat, Firmware};
use crate::error::{CommandError, ErrorKind};
use crate::machine::MachineName;
use crate::size::Size;

/// A machine that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its name.
    pub name: MachineName,
    /// What it is to be like.
    pub settings: Settings,
}

/// What a machine is to be like: the keys of a machine in `machines.yaml`. Unknown keys are errors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The base image: a path, a name in the store, or `builtin:demo`.
    pub image: Option<String>,
    /// The format of the base image; what its first bytes say otherwise.
    pub format: Option<DiskFormat>,
    /// SHA-256 of the base image's file in hexadecimal, which is checked.
    pub sha256: Option<String>,
    /// The address of the NBD export that becomes the system disk.
    pub target: Option<String>,
    /// Whether what the target holds is lost; never in a file, which would be used again.
    #[serde(skip)]
    pub overwrite: bool,
    /// Size of the system disk; that of the base otherwise.
    pub size: Option<Size>,
    /// Data disks, each `SIZE[,FORMAT]`.
    pub ephemeral: Vec<Ephemeral>,
    /// The size of a disk of swap space.
    pub swap: Option<Size>,
    /// The partition or logical volume with the guest's root file system, where it cannot be told.
    pub partition: Option<VolumeId>,
    /// Who reads and writes the guest's file systems.
    pub via: Via,
    /// Memory; 1 GiB otherwise.
    pub memory: Option<Size>,
    /// Virtual processors; 1 otherwise.
    pub vcpus: Option<u32>,
    /// Firmware; BIOS otherwise.
    pub firmware: Option<Firmware>,
    /// Network interfaces; one on a network inside the QEMU process otherwise.
    pub networks: Option<Vec<Nic>>,
    /// The seed for cloud-init on a disk of its own.
    pub datasource: Datasource,
    /// A file of the host with user data.
    pub user_data: Option<PathBuf>,
    /// A file of the host with vendor data.
    pub vendor_data: Option<PathBuf>,
    /// Metadata for the config drive.
    pub meta: BTreeMap<String, String>,
    /// A file of the host with the minion's private key; a pair is made otherwise.
    pub minion_key: Option<PathBuf>,
    /// The folder of a Salt master's accepted keys, where the minion's public key is written.
    pub master_keys: Option<PathBuf>,
    /// What is put into the guest.
    pub seed: Seed,
}

impl Settings {
    /// Refuses what does not go together.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for a size beside an export, which has one; [`ErrorKind::Unsupported`] for an export that the kernel is to
    /// change.
    pub fn check(&self) -> Result<(), CommandError> {
        if self.target.is_none() {
            return Ok(());
        }
        if self.via == Via::Nbd {
            let message = "the kernel does not change what is written into an NBD export";
            return Err(CommandError::new(ErrorKind::Unsupported, message)
                .hint("prepare a machine in files, and copy its disk with `vmimg image convert -n`"));
        }
        if self.size.is_some() {
            let message = "a machine with a `target` has no `size`: its disk is as large as the export";
            return Err(CommandError::new(ErrorKind::Usage, message).hint("`size: null` takes away that of `defaults`"));
        }
        Ok(())
    }
}

/// A network interface of a machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nic {
    /// The hardware address; one is made otherwise.
    pub mac: Option<MacAddress>,
    /// What it is attached to.
    pub link: Link,
    /// What the guest is told of it, when there is a seed; DHCP for IPv4 otherwise.
    pub config: Option<Interface>,
}

/// What a network interface is attached to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub enum Link {
    /// A network inside the QEMU process.
    #[default]
    User,
    /// A bridge of the host.
    Bridge(String),
    /// A network that libvirt keeps.
    Network(String),
}

impl TryFrom<String> for Link {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = |name: &str| {
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            if plain && !name.is_empty() { Ok(name.to_owned()) } else { Err(format!("`{text}` does not name a link")) }
        };
        match text.split_once(':') {
            None if text == "user" => Ok(Self::User),
            Some(("bridge", bridge)) => name(bridge).map(Self::Bridge),
            Some(("network", network)) => name(network).map(Self::Network),
            _ => Err(format!("`{text}` is not a link: write user, bridge:NAME or network:NAME")),
        }
    }
}

/// The seed for cloud-init on a disk of its own.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Datasource {
    /// A config drive when the guest has cloud-init, otherwise none.
    #[default]
    Auto,
    /// An OpenStack config drive.
    ConfigDrive,
    /// A NoCloud seed.
    Nocloud,
    /// None.
    None,
}

impl Datasource {
    /// Returns what it is for a guest with or without cloud-init: never [`Datasource::Auto`].
    #[must_use]
    pub fn for_guest(self, has_cloud_init: bool) -> Self {
        match self {
            Self::Auto if has_cloud_init => Self::ConfigDrive,
            Self::Auto => Self::None,
            kind => kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn a_link_is_one_of_three_kinds() {
        let link = |text: &str| Link::try_from(text.to_owned());
        assert_eq!(link("user"), Ok(Link::User));
        assert_eq!(link("bridge:br0"), Ok(Link::Bridge("br0".to_owned())));
        assert_eq!(link("network:default"), Ok(Link::Network("default".to_owned())));
        for bad in ["", "br0", "bridge:", "bridge:a b", "bridge:a/b", "user:x"] {
            link(bad).unwrap_err();
        }
    }
}
