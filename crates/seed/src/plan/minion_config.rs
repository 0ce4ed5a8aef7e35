use serde_json::{Map, Value};

use super::Error;
use super::builder::Builder;

/// A YAML map of Salt's.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) values: Map<String, Value>,
}

impl Config {
    /// Returns the map of a YAML text; a text of comments alone is an empty one, `None` is not understood.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let comments = text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---");
        if comments {
            return Some(Self::default());
        }
        serde_saphyr::from_str(text).ok().map(|values| Self { values })
    }

    /// Sets every key of `other`, maps included: Salt merges no deeper.
    pub(super) fn merge(&mut self, other: &Map<String, Value>) {
        self.values.extend(other.iter().map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Returns the folder of the minion's keys, without a slash at its end.
    pub(super) fn pki_dir(&self) -> String {
        let given = self.values.get("pki_dir").and_then(Value::as_str).filter(|path| path.starts_with('/'));
        given
            .map(|path| path.trim_end_matches('/'))
            .filter(|path| !path.is_empty())
            .unwrap_or("/etc/salt/pki/minion")
            .to_owned()
    }
}

/// The drop-ins of `/etc/salt/minion.d`, in the order in which they override each other.
pub(super) struct DropIns {
    files: Vec<(String, Option<Config>)>,
}

impl DropIns {
    pub(super) fn read(builder: &Builder<'_>) -> Result<Self, Error> {
        let mut files = Vec::new();
        for entry in builder.tree.read_dir("/etc/salt/minion.d")?.into_iter().take(FILES_MAX) {
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            if !name.ends_with(".conf") || name.starts_with('.') {
                continue;
            }
            if let Some(bytes) = builder.read(&format!("/etc/salt/minion.d/{name}"))? {
                files.push((name, Config::decode(&bytes)));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { files })
    }

    /// Returns the names of those that say otherwise than `ours`, or that are not understood.
    pub(super) fn overriding(&self, ours: &Map<String, Value>) -> Vec<String> {
        let differs =
            |config: &Config| ours.iter().any(|(key, value)| config.values.get(key).is_some_and(|other| other != value));
        let found = self.others().filter(|(_, config)| config.as_ref().is_none_or(differs));
        found.map(|(name, _)| format!("minion.d/{name}")).collect()
    }

    /// Sets what they set.
    pub(super) fn apply(&self, config: &mut Config) {
        for other in self.others().filter_map(|(_, other)| other.as_ref()) {
            config.merge(&other.values);
        }
    }

    /// Returns the names of those that an earlier run wrote.
    pub(super) fn own(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str()).filter(|name| OWN.contains(name))
    }

    /// Returns a name for a drop-in, and whether it overrides all others.
    pub(super) fn last_name(&self) -> (&'static str, bool) {
        let last = OWN.into_iter().find(|own| self.others().all(|(name, _)| name.as_str() < *own));
        (last.unwrap_or(OWN[2]), last.is_some())
    }

    fn others(&self) -> impl Iterator<Item = &(String, Option<Config>)> {
        self.files.iter().filter(|(name, _)| !OWN.contains(&name.as_str()))
    }
}

/// Returns a map as YAML; texts that YAML 1.1 would take for something else are quoted.
pub(super) fn yaml(values: &Map<String, Value>) -> Result<Vec<u8>, Error> {
    serde_saphyr::to_string(values).map(String::into_bytes).map_err(|error| Error::Yaml(error.to_string()))
}

/// The names that are ours, as seldom needed as they are late.
const OWN: [&str; 3] = ["99-vmimg.conf", "zz-vmimg.conf", "zzzzzz-vmimg.conf"];
const FILES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use serde_json::json;

    use super::{Config, yaml};

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        let values = json!({
            "ka": "yes", "kb": "1", "kc": "null", "kd": "1.5", "ke": "0o17", "kf": "plain", "kg": "*", "kh": "017", "ki": "12:30:45", "kj": "",
            "kk": "2001-01-01", "kl": "~", "km": "off", "kn": "1e3", "ko": "0x1f", "kp": "# no", "kq": "a: b", "kr": "y", "ks": "1_000",
            "kt": true, "ku": 5, "kv": ["on", {"kw": "No"}], "kx": "two\nlines\n", "ky": "-", "kz": "tail ",
        });
        let text = String::from_utf8(yaml(values.as_object().unwrap()).unwrap()).unwrap();
        for (key, value) in values.as_object().unwrap().iter().filter(|(_, value)| value.is_string()) {
            let plain = text.lines().find_map(|line| line.strip_prefix(&format!("{key}: "))).unwrap();
            assert!(key == "kf" || plain.starts_with(['"', '\'', '|']), "{key}: {value} is written {plain}");
        }
        assert_eq!(Config::decode(text.as_bytes()).unwrap().values, *values.as_object().unwrap());
    }

    #[test]
    fn comments_are_an_empty_configuration() {
        assert!(Config::decode(b"# master: salt\n\n---\n").unwrap().values.is_empty());
        assert!(Config::decode(b"a: b: c: [").is_none());
        assert!(Config::decode(b"\xff: 1").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_may_be_the_configuration(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Config::decode(&bytes);
        }

        #[test]
        fn any_text_may_be_the_configuration(text in "[a-c&*!:{}\\[\\]|>\"'\n #-]{0,40}") {
            let _ = Config::decode(text.as_bytes());
        }
    }
}
