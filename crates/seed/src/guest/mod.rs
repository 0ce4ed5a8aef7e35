//! What a guest is: found by reading its file systems, without running or mounting anything.
//!
//! All files are hostile: reads are bounded, and nothing of the host is consulted.

mod account;
mod error;
mod fstab;
mod os;
mod root;
mod salt;
mod selinux;
mod services;
mod tree;
mod volume;
mod volume_id;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use account::User;
pub use error::Error;
pub use os::{Family, Os};
pub use root::ReadOnlyRoot;
pub use salt::Minion;
pub use selinux::{Selinux, SelinuxMode};
pub use services::{Init, Network, SshServer};
pub use tree::{Place, Resolved, Tree};
pub use volume::{Volume, VolumeContent, VolumeNames};
pub use volume_id::{NoVolumeId, VolumeId};

pub(crate) use account::{Group, decode_groups, decode_passwd};

/// What was found out about a guest.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Guest {
    /// The partition or logical volume with the root.
    pub root_partition: VolumeId,
    /// What is mounted where, by the guest's fstab.
    pub mounts: Vec<MountPoint>,
    /// The operating system.
    pub os: Os,
    /// The host name in `/etc/hostname`, if any.
    pub hostname: Option<String>,
    /// The accounts of `/etc/passwd`, in its order.
    pub users: Vec<User>,
    /// The init system.
    pub init: Init,
    /// Whether cloud-init is installed and not disabled.
    pub cloud_init: bool,
    /// The Salt minion, when it is installed or configured.
    pub salt_minion: Option<Minion>,
    /// SELinux, when it is installed and not disabled.
    pub selinux: Option<Selinux>,
    /// The SSH server, when one is installed.
    pub ssh_server: Option<SshServer>,
    /// What can configure the network, the one in charge first.
    pub network: Vec<Network>,
}

/// A file system in the guest's tree.
#[derive(Clone, Debug, Serialize)]
pub struct MountPoint {
    /// Where.
    pub path: String,
    /// What the guest's fstab calls it.
    pub device: String,
    /// The partition or logical volume, or `None` when files below `path` cannot be reached.
    pub partition: Option<VolumeId>,
}

impl Guest {
    /// Looks at the guest whose files are `tree`.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] for systems whose root is not changed by writing files, and [`Error::FileSystem`], also when a file that
    /// is looked at has an absurd size.
    pub fn inspect(tree: &Tree) -> Result<Self, Error> {
        let os = os::inspect(tree)?;
        if let Some(kind) = root::read_only(&os.id) {
            return Err(Error::ReadOnly(kind));
        }
        let init = services::init(tree)?;
        Ok(Self {
            root_partition: tree.root_partition(),
            mounts: tree
                .mounts()
                .map(|(path, device, partition)| MountPoint {
                    path: path.to_string(),
                    device: device.to_owned(),
                    partition: partition.cloned(),
                })
                .collect(),
            os,
            hostname: hostname(tree)?,
            users: decode_passwd(&tree.read("/etc/passwd", ACCOUNTS_MAX)?.unwrap_or_default()),
            init,
            cloud_init: services::cloud_init(tree)?,
            salt_minion: salt::inspect(tree, init)?,
            selinux: Selinux::inspect(tree)?,
            ssh_server: services::ssh_server(tree)?,
            network: services::network(tree)?,
        })
    }

    /// Returns the account called `name`.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }
}

fn hostname(tree: &Tree) -> Result<Option<String>, Error> {
    let bytes = tree.read("/etc/hostname", SMALL)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    Ok(text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.chars().take(255).collect()))
}

/// The most bytes that are read of a small configuration file.
pub(crate) const SMALL: u64 = 1 << 20;
/// The most bytes that are read of passwd, shadow and group.
pub(crate) const ACCOUNTS_MAX: u64 = 8 << 20;
