use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Error, yaml};

/// What cloud-init is asked to do: user data or vendor data.
#[derive(Clone, Debug, PartialEq)]
pub enum UserData {
    /// Bytes that go to the guest as they are: a script, `#cloud-config`, a MIME archive, or any of them compressed by gzip.
    Raw(Arc<[u8]>),
    /// The keys of a `#cloud-config` document.
    CloudConfig(Map<String, Value>),
}

impl UserData {
    /// Returns the user data of these bytes.
    #[must_use]
    pub fn raw(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::Raw(bytes.into())
    }

    /// Returns what is stored in a seed.
    ///
    /// # Errors
    ///
    /// [`Error::Yaml`] when a value has no form in YAML; [`Error::Value`] when the document is larger than cloud-init's data
    /// sources carry.
    pub fn encode(&self) -> Result<Arc<[u8]>, Error> {
        let bytes = match self {
            Self::Raw(bytes) => Arc::clone(bytes),
            Self::CloudConfig(keys) => {
                let body = yaml::to_string("the cloud config", keys)?;
                Arc::from(format!("#cloud-config\n{body}").into_bytes())
            }
        };
        if bytes.len() > MAX_BYTES {
            return Err(Error::Value { what: "user data", rule: "has more than 64 MiB" });
        }
        Ok(bytes)
    }
}

const MAX_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::UserData;

    #[test]
    fn raw_bytes_are_not_touched() {
        let bytes = b"\x1f\x8b\x08\0binary\r\n";
        assert_eq!(*UserData::raw(*bytes).encode().unwrap(), *bytes);
    }

    #[test]
    fn texts_of_a_cloud_config_stay_texts() {
        let json =
            json!({"a": "yes", "b": "12:30", "c": ["0x10", "~", "", "- x", "a: b # c"], "d": true, "e": 7, "f": {"no": null}});
        let text = UserData::CloudConfig(json.as_object().unwrap().clone()).encode().unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.starts_with("#cloud-config\n"), "{text}");
        let read: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        assert_eq!(read, json, "{text}");
        assert!(text.contains("'yes'") && text.contains("'12:30'") && text.contains("d: true"), "{text}");
    }
}
