use imgcore::fs::Attributes;

use super::builder::Builder;
use super::{Error, HostKeys, Seed};
use crate::guest::{Guest, SshServer};

/// Plans what keeps a guest's own cloud-init from undoing the seed at first boot.
pub(super) fn plan(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed) -> Result<(), Error> {
    if !guest.cloud_init {
        return Ok(());
    }
    let mut text = String::from("# Written by vmimg, so that cloud-init leaves alone what was put in.\n");
    let mut needed = false;
    if seed.host_keys == HostKeys::Mint && guest.ssh_server == Some(SshServer::Openssh) {
        needed = true;
        text.push_str("ssh_deletekeys: false\n");
    }
    if !seed.root_keys.is_empty() {
        // Otherwise each of root's keys that a datasource also names is replaced by one that only prints a refusal.
        needed = true;
        text.push_str("disable_root: false\n");
    }
    if needed {
        builder.write("/etc/cloud/cloud.cfg.d/99-vmimg.cfg", text.as_str().into(), Attributes::root(0o644))?;
    }
    Ok(())
}
