//! What makes a machine itself: its id, host keys, random seed and time zone.

use imgcore::fs::{Attributes, FileKind};

use super::builder::Builder;
use super::{Error, HostKeys, MachineId, Material, Seed};
use crate::guest::{Family, Guest, Init, SshServer};

/// Plans the machine id.
pub(super) fn machine_id(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed) -> Result<(), Error> {
    if seed.machine_id == MachineId::Keep {
        return Ok(());
    }
    let exists = builder.exists("/etc/machine-id")?;
    if exists || guest.init == Init::Systemd {
        // Emptied, not removed: systemd takes an absent file on a read-only `/etc` for an error, an empty one for a first boot.
        let attributes = if exists { Attributes::default() } else { Attributes::root(0o444) };
        builder.write("/etc/machine-id", Vec::new().into(), attributes)?;
    }
    let dbus = "/var/lib/dbus/machine-id";
    if builder.tree.symlink_metadata(dbus)?.is_some_and(|metadata| metadata.kind == FileKind::File) {
        builder.write(dbus, Vec::new().into(), Attributes::default())?;
    }
    Ok(())
}

/// Plans the SSH host keys and returns the lines for `known_hosts`.
pub(super) fn host_keys(
    builder: &mut Builder<'_>,
    guest: &Guest,
    seed: &Seed,
    material: &Material,
) -> Result<Vec<String>, Error> {
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
    for entry in builder.tree.read_dir("/etc/ssh")? {
        let Ok(name) = String::from_utf8(entry.name) else { continue };
        let replaced = minted.iter().any(|key| name.strip_suffix(".pub").unwrap_or(&name) == key.file_name);
        // Written over, a file would keep a mode and an owner that may be wrong; certificates are void without their key.
        if name.starts_with("ssh_host_") && (!replaced || entry.kind != FileKind::File) {
            builder.remove(&format!("/etc/ssh/{name}"))?;
        }
    }
    let mut known_hosts = Vec::new();
    let names = known_as(seed, material);
    for key in minted {
        let plain = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
        if !key.file_name.starts_with("ssh_host_") || !key.file_name.chars().all(plain) {
            return Err(Error::Invalid {
                what: "the host key's file name",
                value: key.file_name.clone(),
                rule: "it begins with `ssh_host_`".to_owned(),
            });
        }
        let path = format!("/etc/ssh/{}", key.file_name);
        let public = key.public.trim();
        builder.write(&path, format!("{}\n", key.private.expose().trim_end()).as_str().into(), Attributes::root(0o600))?;
        builder.write(&format!("{path}.pub"), format!("{public}\n").as_str().into(), Attributes::root(0o644))?;
        let bare: Vec<_> = public.split_ascii_whitespace().take(2).collect();
        if !names.is_empty() {
            known_hosts.push(format!("{names} {}", bare.join(" ")));
        }
    }
    if minted.is_empty() && guest.os.family == Family::Debian && !guest.cloud_init {
        builder.warn("the guest is left without SSH host keys, and nothing in it makes new ones; mint them, or its SSH server will not start");
    }
    Ok(known_hosts)
}

fn dropbear(builder: &mut Builder<'_>, seed: &Seed) -> Result<(), Error> {
    for entry in builder.tree.read_dir("/etc/dropbear")? {
        if let Ok(name) = String::from_utf8(entry.name)
            && name.starts_with("dropbear_")
            && name.ends_with("_host_key")
        {
            builder.remove(&format!("/etc/dropbear/{name}"))?;
        }
    }
    if seed.host_keys == HostKeys::Mint {
        builder.warn("the guest's SSH server is Dropbear, which has its own key format; its host keys are removed, and made anew by the guest");
    }
    Ok(())
}

/// Plans the random seed.
pub(super) fn random_seed(builder: &mut Builder<'_>, guest: &Guest, material: &Material) -> Result<(), Error> {
    let Some(seed) = &material.random_seed else { return Ok(()) };
    let places = [
        "/var/lib/systemd/random-seed",
        "/var/lib/urandom/random-seed",
        "/var/lib/seedrng/seed.no-credit",
        "/var/lib/misc/random-seed",
    ];
    let mut place = if guest.init == Init::Systemd { places.first().copied() } else { None };
    for path in places {
        if place.is_none() && builder.exists(path)? {
            place = Some(path);
        }
    }
    if let Some(path) = place {
        builder.write(path, seed.0.clone().into(), Attributes::root(0o600))?;
    }
    Ok(())
}

/// Plans the time zone.
pub(super) fn timezone(builder: &mut Builder<'_>, seed: &Seed) -> Result<(), Error> {
    let Some(zone) = &seed.timezone else { return Ok(()) };
    let invalid = |rule: &str| Error::Invalid { what: "the time zone", value: zone.clone(), rule: rule.to_owned() };
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-+".contains(character);
    if zone.split('/').any(|part| part.is_empty() || !part.chars().all(plain)) {
        return Err(invalid("it is a name as in `Europe/Madrid`"));
    }
    let file = format!("/usr/share/zoneinfo/{zone}");
    if builder.tree.metadata(&file)?.is_none_or(|metadata| metadata.kind != FileKind::File) {
        return Err(invalid("the guest has no such zone in /usr/share/zoneinfo"));
    }
    builder.symlink("/etc/localtime", &file, Attributes::default())?;
    if builder.exists("/etc/timezone")? {
        builder.write("/etc/timezone", format!("{zone}\n").as_str().into(), Attributes::default())?;
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
