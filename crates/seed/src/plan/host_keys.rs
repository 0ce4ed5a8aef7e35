//! SSH host keys, and whether the guest's server will find one.

use imgcore::fs::{Attributes, FileKind};
use ssh_key::PrivateKey;

use super::builder::Builder;
use super::sshd_config::SshdConfig;
use super::{Error, HostKey, HostKeys, Material, Seed};
use crate::guest::{Family, Guest, SshServer};

/// Plans the SSH host keys and returns the lines for `known_hosts`. Those among the seed's own files stay.
pub(super) fn plan(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed, material: &Material) -> Result<Vec<String>, Error> {
    if seed.host_keys == HostKeys::Keep || guest.ssh_server.is_none() {
        return Ok(Vec::new());
    }
    let minted: &[_] = if seed.host_keys == HostKeys::Mint { &material.host_keys } else { &[] };
    if seed.host_keys == HostKeys::Mint && minted.is_empty() {
        return Err(Error::MissingHostKeys);
    }
    if guest.ssh_server == Some(SshServer::Dropbear) {
        dropbear(builder, seed)?;
        return Ok(Vec::new());
    }
    let mut public = Vec::new();
    let mut given = Vec::new();
    for (name, kind) in builder.names("/etc/ssh")?.into_iter().filter(|(name, _)| name.starts_with("ssh_host_")) {
        let path = format!("/etc/ssh/{name}");
        if builder.is_written(&path)? {
            let bytes = builder.read(&path)?.unwrap_or_default();
            public.extend(PrivateKey::from_openssh(bytes).ok().and_then(|key| key.public_key().to_openssh().ok()));
            given.push(name);
            continue;
        }
        let private = name.strip_suffix(".pub").unwrap_or(&name);
        let replaced = minted.iter().any(|key| private == key.file_name) && !given.iter().any(|given| given == private);
        // Written over, a file would keep a mode and an owner that may be wrong; certificates are void without their key.
        if !replaced || kind != FileKind::File {
            builder.remove(&path)?;
        }
    }
    for key in minted.iter().filter(|key| !given.contains(&key.file_name)) {
        write(builder, key)?;
        public.push(key.public.clone());
    }
    look_for_keys(builder, guest, material)?;
    let names = known_as(seed, material);
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let bare = |public: String| public.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ");
    Ok(public.into_iter().map(|public| format!("{names} {}", bare(public))).collect())
}

fn write(builder: &mut Builder<'_>, key: &HostKey) -> Result<(), Error> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
    if !key.file_name.starts_with("ssh_host_") || !key.file_name.chars().all(plain) {
        return Err(Error::Invalid {
            what: "the host key's file name",
            value: key.file_name.clone(),
            rule: "it begins with `ssh_host_`".to_owned(),
        });
    }
    let path = format!("/etc/ssh/{}", key.file_name);
    let (private, public) = (key.private.expose().trim_end(), key.public.trim());
    builder.write_own(&path, format!("{private}\n").as_str().into(), Attributes::root(0o600))?;
    builder.write_own(&format!("{path}.pub"), format!("{public}\n").as_str().into(), Attributes::root(0o644))
}

/// Warns when the server will have no key, and nothing in the guest makes one before it starts.
fn look_for_keys(builder: &mut Builder<'_>, guest: &Guest, material: &Material) -> Result<(), Error> {
    // Elsewhere a unit or init script of the server makes what is missing.
    if guest.os.family != Family::Debian || (guest.cloud_init && material.datasource) {
        return Ok(());
    }
    let configured: Vec<String> = SshdConfig::read(builder)?.all("hostkey").map(|line| line.first().to_owned()).collect();
    let any = builder.names("/etc/ssh")?.into_keys().any(|name| name.starts_with("ssh_host_") && name.ends_with("_key"));
    if configured.is_empty() {
        if !any {
            builder.warn(
                "the guest is left without SSH host keys, and nothing in it makes new ones; mint them, or its SSH server will not start",
            );
        }
        return Ok(());
    }
    for path in &configured {
        if builder.is_there(path)? {
            return Ok(());
        }
    }
    builder.warn(format!(
        "the guest's SSH server is told to use {} alone, which will not be there; put one in with the seed's files, or it may not start",
        configured.join(" and ")
    ));
    Ok(())
}

fn dropbear(builder: &mut Builder<'_>, seed: &Seed) -> Result<(), Error> {
    for name in builder.names("/etc/dropbear")?.into_keys() {
        let path = format!("/etc/dropbear/{name}");
        if name.starts_with("dropbear_") && name.ends_with("_host_key") && !builder.is_written(&path)? {
            builder.remove(&path)?;
        }
    }
    if seed.host_keys == HostKeys::Mint {
        builder.warn("the guest's SSH server is Dropbear, which has its own key format; its host keys are removed, and made anew by the guest");
    }
    Ok(())
}

fn known_as(seed: &Seed, material: &Material) -> String {
    let mut names: Vec<String> =
        seed.full_name().into_iter().chain(seed.hostname.clone()).chain(material.known_as.iter().cloned()).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names.join(",")
}
