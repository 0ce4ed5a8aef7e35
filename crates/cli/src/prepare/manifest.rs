//! `machines.yaml`: many machines in one file.
//!
//! ```yaml
//! defaults:                 # for every machine that does not say otherwise
//!   image: debian-12
//!   size: 20G
//!   seed: {domain: example.org}
//! machines:
//!   web1: {seed: {hostname: www}}
//!   web2: {memory: 2G}
//! ```

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Request, Settings};
use crate::error::{CommandError, ErrorKind};
use crate::machine::MachineName;

/// Reads the machines of a manifest, in the order of their names.
///
/// A key of a machine replaces the same key of `defaults`; maps are merged key by key, lists are not.
///
/// # Errors
///
/// [`ErrorKind::Usage`] when the text is no YAML, or a key or value is not known; the error names the machine, and the nearest
/// key that is.
pub fn read(text: &str) -> Result<Vec<Request>, CommandError> {
    let manifest: Manifest = serde_saphyr::from_str::<Value>(text)
        .map_err(|error| invalid("the file", &error.to_string()))
        .and_then(|value| from_value("the file", value))?;
    // Checked by themselves, so that a mistake in them is not reported once for every machine.
    let _: Settings = from_value("`defaults`", Value::Object(manifest.defaults.clone()))?;
    let mut requests = Vec::with_capacity(manifest.machines.len());
    for (name, keys) in manifest.machines {
        let place = format!("machine `{name}`");
        let name: MachineName =
            name.parse().map_err(|error| CommandError::new(ErrorKind::Usage, place.clone()).with_source(error))?;
        let mut merged = manifest.defaults.clone();
        merge(&mut merged, keys.unwrap_or_default());
        // As on the command line, whose default this is: machines of one base must differ.
        let seed = merged.entry("seed").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(seed) = seed {
            seed.entry("host_keys").or_insert_with(|| "mint".into());
        }
        requests.push(Request { name, settings: from_value(&place, Value::Object(merged))? });
    }
    Ok(requests)
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    #[serde(default)]
    defaults: Map<String, Value>,
    machines: BTreeMap<String, Option<Map<String, Value>>>,
}

fn from_value<T: DeserializeOwned>(place: &str, value: Value) -> Result<T, CommandError> {
    serde_json::from_value(value).map_err(|error| invalid(place, &error.to_string()))
}

/// Returns the error for what serde says of `place`, with the nearest known key as a hint.
fn invalid(place: &str, message: &str) -> CommandError {
    let error = CommandError::new(ErrorKind::Usage, format!("{place}: {message}"));
    match nearest_key(message) {
        Some(key) => error.hint(format!("did you mean `{key}`?")),
        None => error,
    }
}

/// Returns the known name nearest to the unknown one, from serde's ``unknown field `x`, expected one of `a`, `b` ``.
fn nearest_key(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let (unknown, known) = rest.split_once('`')?;
    let known = known.split('`').skip(1).step_by(2);
    let near = known.map(|key| (strsim::damerau_levenshtein(unknown, key), key));
    near.filter(|(distance, key)| distance.saturating_mul(2) <= key.len().max(unknown.len())).min().map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_machine_takes_the_defaults_that_it_does_not_replace() {
        let text = "defaults: {image: debian-12, size: 20G, seed: {domain: example.org}}\n\
            machines:\n  web2:\n  web1: {size: 30G, seed: {hostname: www}}\n";
        let requests = read(text).unwrap();
        let sizes: Vec<_> = requests.iter().map(|r| (r.name.as_str(), r.settings.size.unwrap().to_string())).collect();
        assert_eq!(sizes, [("web1", "30G".to_owned()), ("web2", "20G".to_owned())]);
        assert!(requests.iter().all(|request| request.settings.image.as_deref() == Some("debian-12")));
        assert_eq!(requests[0].settings.seed.full_name().as_deref(), Some("www.example.org"), "maps are merged");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_machine_and_the_nearest_key() {
        let error = read("machines:\n  web1: {image: a, memroy: 1G}\n").unwrap_err();
        assert!(error.to_string().contains("machine `web1`"), "{error}");
        assert_eq!(error.hints(), ["did you mean `memory`?"]);
        let error = read("machines: {}\nmachine: {}\n").unwrap_err();
        assert_eq!(error.hints(), ["did you mean `machines`?"]);
        let error = read("defaults: {sizes: 1G}\nmachines: {a: }\n").unwrap_err();
        assert!(error.to_string().contains("`defaults`"), "{error}");
    }

    #[test]
    fn the_example_of_the_manual_can_be_read() {
        let manual = include_str!("../../../../docs/machines.md");
        let example = manual.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        assert_eq!(read(example).unwrap().len(), 3);
    }

    #[test]
    fn names_and_values_are_checked() {
        assert!(read("machines: {../x: {image: a}}").is_err());
        assert!(read("machines: {a: {size: huge}}").is_err());
        assert!(read("- a\n- b\n").is_err());
        assert!(read("machines: {a: {size: 1G}, a: {size: 2G}}").is_err());
    }
}
