use serde::Serialize;

use super::{Error, Init, Tree};

/// A guest's Salt minion.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Minion {
    /// The folder of its configuration.
    pub config_dir: String,
    /// Whether the program is there.
    pub installed: bool,
    /// The path of its systemd unit or init script.
    pub unit: Option<String>,
    /// Whether it starts at boot.
    pub enabled: bool,
    /// Whether its systemd unit is masked, so that it cannot start.
    pub masked: bool,
    /// What a former life left behind that would defeat a preseed: paths of keys, caches, drop-ins.
    pub leftovers: Vec<String>,
}

pub(super) fn inspect(tree: &Tree, init: Init) -> Result<Option<Minion>, Error> {
    let installed =
        first(tree, &["/usr/bin/salt-minion", "/opt/saltstack/salt/salt-minion", "/usr/local/bin/salt-minion"])?.is_some();
    let masked = tree.read_link("/etc/systemd/system/salt-minion.service")?.as_deref() == Some("/dev/null");
    let own_unit = if masked { None } else { first(tree, &["/etc/systemd/system/salt-minion.service"])? };
    let unit = match init {
        Init::Systemd => match own_unit {
            Some(unit) => Some(unit),
            None => first(tree, &["/usr/lib/systemd/system/salt-minion.service", "/lib/systemd/system/salt-minion.service"])?,
        },
        _ => first(tree, &["/etc/init.d/salt-minion"])?,
    };
    if !installed && unit.is_none() && !tree.exists("/etc/salt/minion")? {
        return Ok(None);
    }
    let enabled = match init {
        Init::Systemd => link(tree, "/etc/systemd/system/multi-user.target.wants/salt-minion.service")?,
        Init::Openrc => link(tree, "/etc/runlevels/default/salt-minion")?,
        _ => runlevel_link(tree)?,
    };
    Ok(Some(Minion { config_dir: "/etc/salt".to_owned(), installed, unit, enabled, masked, leftovers: leftovers(tree)? }))
}

fn leftovers(tree: &Tree) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for path in [
        "/etc/salt/minion_id",
        "/etc/salt/pki/minion/minion.pem",
        "/etc/salt/pki/minion/minion.pub",
        "/etc/salt/pki/minion/minion_master.pub",
        "/var/cache/salt/minion",
    ] {
        if tree.symlink_metadata(path)?.is_some() {
            found.push(path.to_owned());
        }
    }
    for entry in tree.read_dir("/etc/salt/minion.d")?.into_iter().take(1000) {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        if name.ends_with(".conf") {
            found.push(format!("/etc/salt/minion.d/{name}"));
        }
    }
    Ok(found)
}

fn runlevel_link(tree: &Tree) -> Result<bool, Error> {
    for folder in ["/etc/rc2.d", "/etc/rc.d/rc3.d", "/etc/rc3.d"] {
        if tree.read_dir(folder)?.iter().any(|entry| entry.name.starts_with(b"S") && entry.name.ends_with(b"salt-minion")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn first(tree: &Tree, paths: &[&str]) -> Result<Option<String>, Error> {
    for path in paths {
        if tree.exists(path)? {
            return Ok(Some((*path).to_owned()));
        }
    }
    Ok(None)
}

/// Returns whether something is called `path`, be it a link that leads nowhere.
fn link(tree: &Tree, path: &str) -> Result<bool, Error> {
    Ok(tree.symlink_metadata(path)?.is_some())
}
