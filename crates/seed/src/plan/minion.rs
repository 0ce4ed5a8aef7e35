use imgcore::fs::Attributes;
use serde_json::{Map, Value};

use super::builder::Builder;
use super::minion_config::{Config, DropIns, yaml};
use super::minion_merge::merged;
use super::{Error, Leftovers, Material, MinionKey, Seed, SeedMinion, minion_service};
use crate::guest::{self, Guest};
use crate::keys::minion::Finger;

/// Plans the preseed of the Salt minion and returns what its master has to know.
pub(super) fn plan(
    builder: &mut Builder<'_>,
    guest: &Guest,
    seed: &Seed,
    material: &Material,
) -> Result<Option<MinionKey>, Error> {
    let Some(minion) = &seed.minion else { return Ok(None) };
    let id = id(seed, minion)?;
    let ours = wanted(minion, &id)?;
    let config = configuration(builder, ours)?;
    grains(builder, minion)?;
    builder.write_own("/etc/salt/minion_id", format!("{id}\n").as_str().into(), Attributes::root(0o644))?;
    let key = keys(builder, &config, &id, material)?;
    if minion.leftovers == Leftovers::Clear {
        let pki = config.pki_dir();
        for path in [format!("{pki}/minion_master.pub"), "/var/cache/salt/minion".to_owned()] {
            match builder.clear(&path) {
                // What is in memory, or on another disk, did not come with the template.
                Ok(()) | Err(Error::Guest(guest::Error::Mounted { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }
    minion_service::plan(builder, guest)?;
    Ok(key)
}

/// Returns the minion id, checked to be a file name in a master's key folder.
fn id(seed: &Seed, minion: &SeedMinion) -> Result<String, Error> {
    let in_config = minion.config.get("id").and_then(Value::as_str).map(str::to_owned);
    let given = minion.id.clone().or(in_config).or_else(|| seed.minion_id());
    let id = given.ok_or_else(|| Error::Invalid {
        what: "the minion id",
        value: String::new(),
        rule: "it is given, or follows from a host name".to_owned(),
    })?;
    // As Salt's own `valid_id`: no path leaves the key folder.
    let bad = |character: char| matches!(character, '/' | '\\') || character.is_control() || character.is_whitespace();
    if id.is_empty() || id.len() > 255 || id.starts_with('.') || id.contains(bad) {
        return Err(Error::Invalid {
            what: "the minion id",
            value: id,
            rule: "it is a file name of 1 to 255 bytes without `/`, `\\`, spaces and a leading dot".to_owned(),
        });
    }
    Ok(id)
}

/// Returns what the seed says of the configuration.
fn wanted(minion: &SeedMinion, id: &str) -> Result<Map<String, Value>, Error> {
    if let Some(bad) = minion.master.iter().find(|master| master.is_empty() || master.contains(char::is_whitespace)) {
        return Err(Error::Invalid {
            what: "the minion's master",
            value: bad.clone(),
            rule: "it is a name or an address".to_owned(),
        });
    }
    let mut ours = minion.config.clone();
    ours.insert("id".to_owned(), Value::from(id));
    match minion.master.as_slice() {
        [] => {}
        [one] => drop(ours.insert("master".to_owned(), Value::from(one.as_str()))),
        many => drop(ours.insert("master".to_owned(), Value::from(many))),
    }
    if let Some(finger) = &minion.master_finger {
        let finger: Finger = finger.parse().map_err(|_| Error::Invalid {
            what: "the fingerprint of the master's key",
            value: finger.clone(),
            rule: "it is 32 or 64 bytes in hexadecimal with colons between, as `salt-key -F master` prints it".to_owned(),
        })?;
        ours.insert("master_finger".to_owned(), Value::from(finger.as_str()));
    }
    Ok(ours)
}

/// Plans the configuration, and a drop-in when others would override it or the file cannot be changed.
fn configuration(builder: &mut Builder<'_>, mut ours: Map<String, Value>) -> Result<Config, Error> {
    let before = String::from_utf8(builder.read(FILE)?.unwrap_or_default()).ok();
    let mut main = before.as_ref().and_then(|text| Config::decode(text.as_bytes())).unwrap_or_default();
    main.merge(&ours);
    let drop_ins = DropIns::read(builder, &main)?;
    let overriding = drop_ins.overriding(&ours);
    let (drop_in, is_last) = drop_ins.last_name();
    let mut own = ours.clone();
    own.retain(|key, _| !["include", "default_include"].contains(&key.as_str()));
    let content = yaml(&own)?;
    let is_named = !overriding.is_empty() && !is_last;
    if is_named || drop_ins.names_own() {
        // What the file itself names is read after all else, in its order.
        let named = drop_ins.named().chain(is_named.then(|| drop_in.clone()));
        ours.insert("include".to_owned(), named.map(Value::from).collect());
    }
    let text = before.and_then(|text| merged(&text, &ours));
    match &text {
        Some(text) => builder.write(FILE, text.as_str().into(), Attributes::root(0o644))?,
        None => {
            builder.warn("the guest's /etc/salt/minion cannot be changed line by line; it is kept, and a drop-in written");
            if !is_last {
                builder.warn(format!("files that it includes after {drop_in} may override the minion's configuration"));
            }
        }
    }
    let mut config = text.as_ref().and_then(|text| Config::decode(text.as_bytes())).unwrap_or_default();
    drop_ins.apply(&mut config);
    config.merge(&ours);
    if text.is_some() && overriding.is_empty() {
        for path in drop_ins.own() {
            builder.clear(path)?;
        }
        return Ok(config);
    }
    if !overriding.is_empty() {
        builder.info(format!(
            "the guest's {} would override the minion's configuration; a drop-in after it was added",
            overriding.join(", ")
        ));
    }
    builder.write_own(&drop_in, content.into(), Attributes::root(0o644))?;
    Ok(config)
}

fn grains(builder: &mut Builder<'_>, minion: &SeedMinion) -> Result<(), Error> {
    if minion.grains.is_empty() {
        return Ok(());
    }
    let before = builder.read("/etc/salt/grains")?.unwrap_or_default();
    let text = match String::from_utf8(before).ok().and_then(|text| merged(&text, &minion.grains)) {
        Some(text) => text.into_bytes(),
        None => {
            builder.warn("the guest's /etc/salt/grains cannot be changed line by line; it is replaced");
            yaml(&minion.grains)?
        }
    };
    builder.write("/etc/salt/grains", text.into(), Attributes::root(0o644))
}

/// Plans the key pair, or that there is none.
fn keys(builder: &mut Builder<'_>, config: &Config, id: &str, material: &Material) -> Result<Option<MinionKey>, Error> {
    let pki = config.pki_dir();
    let (private, public) = (format!("{pki}/minion.pem"), format!("{pki}/minion.pub"));
    let Some(pair) = &material.minion_key else {
        builder.clear(&private)?;
        builder.clear(&public)?;
        builder.info(format!("the minion `{id}` makes its own key; accept it on its master"));
        return Ok(None);
    };
    if pki.starts_with("/etc/salt/pki/") && !builder.exists("/etc/salt/pki/master")? {
        builder.create_dir("/etc/salt/pki", Attributes::root(0o700))?;
    }
    builder.create_dir(&pki, Attributes::root(0o700))?;
    let pem = pem("the minion's private key", pair.private.expose(), "PRIVATE KEY")?;
    builder.write_own(&private, pem.as_str().into(), Attributes::root(0o400))?;
    let pem = self::pem("the minion's public key", &pair.public, "PUBLIC KEY")?;
    builder.write_own(&public, pem.as_str().into(), Attributes::root(0o644))?;
    Ok(Some(MinionKey { id: id.to_owned(), public: pem }))
}

/// Returns a PEM text with plain line ends and one at the end: older masters compare keys byte by byte.
fn pem(what: &'static str, text: &str, kind: &str) -> Result<String, Error> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let text = text.trim();
    if !text.starts_with("-----BEGIN ") || !text.ends_with(&format!("{kind}-----")) {
        return Err(Error::Invalid { what, value: "…".to_owned(), rule: format!("it is a PEM text of a {kind}") });
    }
    Ok(format!("{text}\n"))
}

const FILE: &str = "/etc/salt/minion";
