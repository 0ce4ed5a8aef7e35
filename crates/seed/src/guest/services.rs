use serde::Serialize;

use super::{Error, Tree};

/// What starts a guest's services.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Init {
    /// systemd.
    Systemd,
    /// System V init scripts.
    Sysv,
    /// OpenRC.
    Openrc,
    /// busybox init alone.
    Busybox,
    /// Something else.
    Unknown,
}

/// An SSH server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SshServer {
    /// OpenSSH.
    Openssh,
    /// Dropbear, which keeps its host keys in `/etc/dropbear`.
    Dropbear,
}

/// What configures a guest's network.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Network {
    /// netplan, which writes for networkd or NetworkManager.
    Netplan,
    /// systemd-networkd, enabled.
    Networkd,
    /// NetworkManager.
    NetworkManager,
    /// wicked.
    Wicked,
    /// `/etc/network/interfaces`.
    Ifupdown,
    /// `/etc/sysconfig/network-scripts`.
    NetworkScripts,
}

pub(super) fn init(tree: &Tree) -> Result<Init, Error> {
    let init = imgcore::fs::GuestPath::new("/sbin/init").ok().and_then(|path| tree.resolve(&path).ok());
    let program = init.as_ref().filter(|init| init.metadata.is_some()).and_then(|init| init.path.name()).unwrap_or_default();
    if program == "systemd" || (program.is_empty() && any(tree, &["/usr/lib/systemd/systemd", "/lib/systemd/systemd"])?) {
        return Ok(Init::Systemd);
    }
    if any(tree, &["/sbin/openrc", "/usr/bin/openrc", "/sbin/openrc-run"])? {
        return Ok(Init::Openrc);
    }
    if program.starts_with("busybox") {
        return Ok(Init::Busybox);
    }
    Ok(if any(tree, &["/etc/inittab", "/etc/rc2.d", "/etc/rc.d/rc3.d"])? { Init::Sysv } else { Init::Unknown })
}

pub(super) fn cloud_init(tree: &Tree) -> Result<bool, Error> {
    Ok(any(tree, &["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"])? && !tree.exists("/etc/cloud/cloud-init.disabled")?)
}

pub(super) fn ssh_server(tree: &Tree) -> Result<Option<SshServer>, Error> {
    if any(tree, &["/usr/sbin/sshd", "/usr/bin/sshd"])? {
        return Ok(Some(SshServer::Openssh));
    }
    Ok(any(tree, &["/usr/sbin/dropbear", "/usr/bin/dropbear"])?.then_some(SshServer::Dropbear))
}

pub(super) fn network(tree: &Tree) -> Result<Vec<Network>, Error> {
    let mut found = Vec::new();
    let kinds: [(Network, &[&str]); 6] = [
        (Network::Netplan, &["/usr/sbin/netplan"]),
        (
            Network::Networkd,
            &[
                "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
                "/etc/systemd/system/dbus-org.freedesktop.network1.service",
            ],
        ),
        (Network::NetworkManager, &["/usr/sbin/NetworkManager"]),
        (Network::Wicked, &["/usr/sbin/wicked"]),
        (Network::Ifupdown, &["/sbin/ifup", "/usr/sbin/ifup"]),
        (Network::NetworkScripts, &["/etc/sysconfig/network-scripts/ifup"]),
    ];
    for (network, paths) in kinds {
        if any(tree, paths)? {
            found.push(network);
        }
    }
    Ok(found)
}

/// Returns whether one of `paths` exists; a link that leads nowhere counts, as an enabled unit may be one.
fn any(tree: &Tree, paths: &[&str]) -> Result<bool, Error> {
    for path in paths {
        if tree.symlink_metadata(path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
