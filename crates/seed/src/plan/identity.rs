//! What makes a machine itself: its id, random seed and time zone.

use imgcore::fs::{Attributes, FileKind};

use super::builder::Builder;
use super::{Error, MachineId, Material, Seed};
use crate::guest::{Guest, Init};

/// Plans the machine id.
pub(super) fn machine_id(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed) -> Result<(), Error> {
    let (own, dbus) = ("/etc/machine-id", "/var/lib/dbus/machine-id");
    if seed.machine_id == MachineId::Keep {
        return Ok(());
    }
    if guest.init == Init::Systemd && !builder.is_written(own)? {
        // Emptied, not removed: systemd takes an absent file on a read-only `/etc` for an error, an empty one for a first boot.
        let attributes = if builder.exists(own)? { Attributes::default() } else { Attributes::root(0o444) };
        builder.write(own, Vec::new().into(), attributes)?;
    }
    // Removed, not emptied: `dbus-uuidgen --ensure` makes an absent file and fails at an empty one.
    for path in [own, dbus].into_iter().filter(|path| *path == dbus || guest.init != Init::Systemd) {
        let is_file = builder.tree.symlink_metadata(path)?.is_some_and(|metadata| metadata.kind == FileKind::File);
        if is_file && !builder.is_written(path)? {
            builder.remove(path)?;
        }
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
    if let Some(path) = place
        && !builder.is_written(path)?
    {
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
    if builder.is_written("/etc/localtime")? {
        return Err(Error::Twice("/etc/localtime".to_owned()));
    }
    builder.symlink("/etc/localtime", &file, Attributes::default())?;
    if builder.exists("/etc/timezone")? {
        builder.write_own("/etc/timezone", format!("{zone}\n").as_str().into(), Attributes::default())?;
    }
    Ok(())
}
