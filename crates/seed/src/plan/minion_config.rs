use imgcore::fs::GuestPath;
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
        let text =
            |key: &str| self.values.get(key).and_then(Value::as_str).map(|path| path.trim_matches('/')).unwrap_or_default();
        let given = Some(text("pki_dir")).filter(|path| !path.is_empty()).unwrap_or("etc/salt/pki/minion");
        // Salt puts `root_dir` before every path that is not below it, and starts in `/`.
        let root = text("root_dir");
        let is_below = given.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if root.is_empty() || is_below { format!("/{given}") } else { format!("/{root}/{given}") }
    }

    /// Returns the patterns of the files that `key` names, seen from the root.
    fn patterns(&self, key: &str) -> Option<Vec<String>> {
        let whole = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("/etc/salt/{path}") };
        match self.values.get(key)? {
            Value::String(one) => Some(vec![whole(one)]),
            Value::Array(many) => Some(many.iter().filter_map(Value::as_str).map(whole).collect()),
            _ => None,
        }
    }
}

/// The files that `/etc/salt/minion` includes, in the order in which they override each other.
pub(super) struct DropIns {
    files: Vec<(String, Option<Config>)>,
    /// What the file says of itself to include, besides its folder of drop-ins.
    named: Vec<String>,
    /// Whether the drop-ins are all in the folder that they are in by default.
    is_plain: bool,
}

impl DropIns {
    /// Reads what the configuration `main` includes.
    pub(super) fn read(builder: &Builder<'_>, main: &Config) -> Result<Self, Error> {
        let default = main.patterns("default_include").unwrap_or_else(|| vec![DEFAULT_INCLUDE.to_owned()]);
        let named = main.patterns("include").unwrap_or_default();
        let is_plain = default == [DEFAULT_INCLUDE] && named.is_empty();
        let mut drop_ins = Self { files: Vec::new(), named, is_plain };
        let mut bytes_left = BYTES_MAX;
        for (number, pattern) in default.iter().chain(&drop_ins.named.clone()).enumerate() {
            let wild = |text: &str| text.contains(['*', '?', '[']);
            let is_plain = |(folder, name): (&str, &str)| !wild(folder) && !wild(&name.replacen('*', "", 1));
            let is_path = GuestPath::new(pattern).is_ok() && pattern.rsplit_once('/').is_some_and(is_plain);
            if number >= PATTERNS_MAX || !is_path {
                // Its files are not looked for, and may say anything.
                drop_ins.files.push((pattern.clone(), None));
                continue;
            }
            for path in builder.matching(pattern, FILES_MAX)? {
                // One that is named twice counts where it is read last.
                drop_ins.files.retain(|(other, _)| *other != path);
                if !builder.is_there(&path)? {
                    continue;
                }
                let bytes = builder.read_small(&path, bytes_left)?;
                let size = bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                bytes_left = bytes_left.saturating_sub(size);
                drop_ins.files.push((path, bytes.and_then(|bytes| Config::decode(&bytes))));
            }
        }
        Ok(drop_ins)
    }

    /// Returns the names of those that say otherwise than `ours`, that are not understood, or that include others.
    pub(super) fn overriding(&self, ours: &Map<String, Value>) -> Vec<String> {
        let differs = |config: &Config| {
            let other = |key: &String, value| config.values.get(key).is_some_and(|other| other != value);
            config.values.contains_key("include") || ours.iter().any(|(key, value)| other(key, value))
        };
        let found = self.others().filter(|(_, config)| config.as_ref().is_none_or(differs));
        found.map(|(path, _)| path.trim_start_matches("/etc/salt/").to_owned()).collect()
    }

    /// Sets what they set.
    pub(super) fn apply(&self, config: &mut Config) {
        for other in self.others().filter_map(|(_, other)| other.as_ref()) {
            config.merge(&other.values);
        }
    }

    /// Returns the paths of those that an earlier run wrote.
    pub(super) fn own(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(path, _)| path.as_str()).filter(|path| is_own(path))
    }

    /// Returns the patterns that the configuration names in its `include`, but for our own.
    pub(super) fn named(&self) -> impl Iterator<Item = String> {
        self.named.iter().filter(|path| !is_own(path)).cloned()
    }

    /// Returns whether it names our own.
    pub(super) fn names_own(&self) -> bool {
        self.named.iter().any(|path| is_own(path))
    }

    /// Returns a path for a drop-in, and whether it overrides all others.
    pub(super) fn last_name(&self) -> (String, bool) {
        let mut paths = OWN.map(|name| format!("{FOLDER}{name}")).into_iter();
        let last = paths.find(|own| self.is_plain && self.others().all(|(path, _)| path < own));
        let is_last = last.is_some();
        (last.unwrap_or_else(|| format!("{FOLDER}{}", OWN[2])), is_last)
    }

    fn others(&self) -> impl Iterator<Item = &(String, Option<Config>)> {
        self.files.iter().filter(|(path, _)| !is_own(path))
    }
}

fn is_own(path: &str) -> bool {
    path.strip_prefix(FOLDER).is_some_and(|name| OWN.contains(&name))
}

/// Returns a map as YAML; texts that YAML 1.1 would take for something else are quoted.
pub(super) fn yaml(values: &Map<String, Value>) -> Result<Vec<u8>, Error> {
    serde_saphyr::to_string(values).map(String::into_bytes).map_err(|error| Error::Yaml(error.to_string()))
}

/// The names that are ours, as seldom needed as they are late.
const OWN: [&str; 3] = ["99-vmimg.conf", "zz-vmimg.conf", "zzzzzz-vmimg.conf"];
const FOLDER: &str = "/etc/salt/minion.d/";
const DEFAULT_INCLUDE: &str = "/etc/salt/minion.d/*.conf";
/// The most patterns and files of each that are looked at, and the most bytes of all: what is left out may say anything.
const PATTERNS_MAX: usize = 10;
const FILES_MAX: usize = 1000;
const BYTES_MAX: u64 = 4 << 20;

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
