use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

/// What a machine is given.
///
/// This is the form of a machine's `seed` in `machines.yaml`; unknown keys are errors.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Seed {
    /// The host name, as it will stand in `/etc/hostname`. With dots it is the full name as well.
    pub hostname: Option<String>,
    /// The domain that makes the host name a full name.
    pub domain: Option<String>,
    /// Public SSH keys for root, as lines of `authorized_keys`.
    pub root_keys: Vec<String>,
    /// The hash of root's password, as in `/etc/shadow`.
    pub root_password_hash: Option<Secret>,
    /// Accounts: those that exist are changed, others made when `create` says so.
    pub users: Vec<SeedUser>,
    /// The time zone, as in `Europe/Madrid`.
    pub timezone: Option<String>,
    /// Files to write. They are written before the rest is planned, so that the rest builds on them.
    pub files: Vec<SeedFile>,
    /// What becomes of the machine id.
    pub machine_id: MachineId,
    /// What becomes of the SSH host keys.
    pub host_keys: HostKeys,
    /// The preseed of a Salt minion.
    pub minion: Option<SeedMinion>,
}

/// An account.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SeedUser {
    /// The login name.
    pub name: String,
    /// Public SSH keys, as lines of `authorized_keys`.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// Whether the account is made when the guest has none of this name; without it that is an error.
    #[serde(default)]
    pub create: bool,
    /// The hash of its password, as in `/etc/shadow`. A new account without one logs in with keys only.
    #[serde(default)]
    pub password_hash: Option<Secret>,
    /// Whether it may become root through sudo; without a password hash it is not asked for a password.
    #[serde(default)]
    pub sudo: bool,
    /// The login shell of a new account; otherwise bash, ash or sh, the first that the guest has.
    #[serde(default)]
    pub shell: Option<String>,
}

/// A file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SeedFile {
    /// The absolute path in the guest.
    pub path: String,
    /// Its contents, when they are text.
    #[serde(default)]
    pub content: Option<Secret>,
    /// The name of the host's file that holds its contents; [`Material::sources`](super::Material::sources) has them under it.
    #[serde(default)]
    pub source: Option<String>,
    /// Permission bits in octal, as in `"0640"`. A file that exists keeps its own otherwise, a new one is 0644.
    #[serde(default)]
    pub mode: Option<String>,
    /// The owner's name or number; root for a new file otherwise.
    #[serde(default)]
    pub owner: Option<String>,
    /// The group's name or number; the owner's first group otherwise when an owner is given.
    #[serde(default)]
    pub group: Option<String>,
}

/// What becomes of the machine id.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum MachineId {
    /// Emptied, so that the guest makes its own at first boot.
    #[default]
    Empty,
    /// Kept.
    Keep,
}

/// What becomes of the SSH host keys.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum HostKeys {
    /// Replaced by those of the [`Material`](super::Material).
    Mint,
    /// Removed, so that the guest makes its own where it does.
    #[default]
    Remove,
    /// Kept.
    Keep,
}

/// The preseed of a Salt minion.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SeedMinion {
    /// The minion id; otherwise the full name, or the host name.
    pub id: Option<String>,
    /// The masters: one name, or several.
    #[serde(deserialize_with = "one_or_many")]
    pub master: Vec<String>,
    /// The fingerprint of the master's public key.
    pub master_finger: Option<String>,
    /// More of the minion's configuration.
    pub config: Map<String, Value>,
    /// Grains.
    pub grains: Map<String, Value>,
    /// What becomes of the cached master key and caches of a former life.
    pub leftovers: Leftovers,
}

/// What becomes of a template's Salt state.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Leftovers {
    /// The cached master key and the caches are removed.
    #[default]
    Clear,
    /// They are kept.
    Keep,
}

/// A text that is not printed.
#[derive(Clone, Default, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret of `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

impl Seed {
    /// Returns the host name with its domain, when one is known.
    #[must_use]
    pub fn full_name(&self) -> Option<String> {
        let hostname = self.hostname.as_ref()?;
        match &self.domain {
            _ if hostname.contains('.') => Some(hostname.clone()),
            Some(domain) if !domain.is_empty() => Some(format!("{hostname}.{domain}")),
            _ => None,
        }
    }

    /// Returns the minion id: the given one, the full name or the host name.
    #[must_use]
    pub fn minion_id(&self) -> Option<String> {
        let given = self.minion.as_ref().and_then(|minion| minion.id.clone());
        given.or_else(|| self.full_name()).or_else(|| self.hostname.clone())
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

#[cfg(test)]
mod tests {
    use super::{HostKeys, Leftovers, MachineId, Seed};

    #[test]
    fn a_seed_is_read_from_yaml() {
        let seed: Seed = serde_saphyr::from_str(
            "hostname: web1\ndomain: example.org\nroot_keys: [ssh-ed25519 AAAA a]\nusers:\n- name: ana\n  create: true\n  password_hash: $6$x\n\
             host_keys: mint\nminion:\n  master: salt\n  grains: {role: web, ports: [80, 443]}\n  leftovers: keep\n",
        )
        .unwrap();
        assert_eq!(seed.full_name().as_deref(), Some("web1.example.org"));
        assert_eq!(seed.minion_id().as_deref(), Some("web1.example.org"));
        assert_eq!((seed.machine_id, seed.host_keys), (MachineId::Empty, HostKeys::Mint));
        let minion = seed.minion.as_ref().unwrap();
        assert_eq!((minion.master.as_slice(), minion.leftovers), (["salt".to_owned()].as_slice(), Leftovers::Keep));
        assert!(!format!("{seed:?}").contains("$6$x"), "a secret is not printed");
    }

    #[test]
    fn modes_and_owners_need_no_quotes() {
        let seed: Seed =
            serde_saphyr::from_str("files: [{path: /a, content: 5, mode: 0640, owner: 1000, group: adm}]\n").unwrap();
        let file = &seed.files[0];
        assert_eq!(
            (file.mode.as_deref(), file.owner.as_deref(), file.group.as_deref()),
            (Some("0640"), Some("1000"), Some("adm"))
        );
        assert_eq!(file.content.as_ref().unwrap().expose(), "5");
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(serde_saphyr::from_str::<Seed>("hostnam: web1\n").is_err());
        assert!(serde_saphyr::from_str::<Seed>("users: [{name: a, key: b}]\n").is_err());
    }
}
