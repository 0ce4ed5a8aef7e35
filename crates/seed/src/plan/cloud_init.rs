use imgcore::fs::Attributes;
use serde_json::Value;

use super::builder::Builder;
use super::minion_config::Config;
use super::{Error, HostKeys, Seed};
use crate::guest::{Guest, SshServer};

/// Plans what keeps a guest's own cloud-init from undoing the seed at first boot. A template's settings of this kind go.
pub(super) fn plan(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed) -> Result<(), Error> {
    if !guest.cloud_init {
        return Ok(());
    }
    let mut lines = Vec::new();
    if guest.ssh_server == Some(SshServer::Openssh) && has_host_keys(builder, seed)? {
        lines.push("ssh_deletekeys: false");
    }
    if !seed.root_keys.is_empty() || seed.users.iter().any(|user| user.name == "root" && !user.ssh_keys.is_empty()) {
        // Otherwise each of root's keys that a datasource or user data also names is replaced by one that only prints a refusal.
        lines.push("disable_root: false");
    }
    if let (Some(hostname), Some(_)) = (&seed.hostname, seed.full_name()) {
        // It is told the full name, and cuts it at the first dot or not as its distribution likes.
        let full = hostname.contains('.');
        lines.push(if full { "prefer_fqdn_over_hostname: true" } else { "prefer_fqdn_over_hostname: false" });
    }
    let mut with_password = seed.users.iter().filter(|user| user.password_hash.is_some()).peekable();
    if with_password.peek().is_some() {
        let default = default_user(builder)?;
        if with_password.any(|user| Some(&user.name) == default.as_ref()) {
            lines.push("system_info: {default_user: {lock_passwd: false}}");
        }
    }
    if !lines.is_empty() {
        let comment = "# Written by vmimg, so that cloud-init leaves alone what was put in.";
        let text = format!("{comment}\n{}\n", lines.join("\n"));
        return builder.write_own(FILE, text.as_str().into(), Attributes::root(0o644));
    }
    if !builder.is_written(FILE)? {
        builder.remove(FILE)?;
    }
    Ok(())
}

/// Returns whether host keys are put in or kept: cloud-init takes away those that it finds.
fn has_host_keys(builder: &Builder<'_>, seed: &Seed) -> Result<bool, Error> {
    if seed.host_keys == HostKeys::Keep {
        return Ok(true);
    }
    for name in builder.names("/etc/ssh")?.keys().filter(|name| name.starts_with("ssh_host_")) {
        if builder.is_written(&format!("/etc/ssh/{name}"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the account that cloud-init makes, and whose password it locks: it merges its files, those with later names first.
fn default_user(builder: &Builder<'_>) -> Result<Option<String>, Error> {
    let names = builder.names("/etc/cloud/cloud.cfg.d")?.into_keys().filter(|name| name.ends_with(".cfg"));
    let folder = names.rev().take(FILES_MAX).map(|name| format!("/etc/cloud/cloud.cfg.d/{name}"));
    for path in folder.chain(["/etc/cloud/cloud.cfg".to_owned()]) {
        let config = builder.read_small(&path, FILE_MAX)?.and_then(|bytes| Config::decode(&bytes)).unwrap_or_default();
        let name = config.values.get("system_info").and_then(|info| info.get("default_user")?.get("name"));
        if let Some(name) = name.and_then(Value::as_str) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

const FILE: &str = "/etc/cloud/cloud.cfg.d/99-vmimg.cfg";
/// The most files that are looked into, and the most bytes of each.
const FILES_MAX: usize = 100;
const FILE_MAX: u64 = 1 << 18;
