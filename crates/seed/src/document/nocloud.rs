use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Error, Tree, UserData, yaml};
use crate::keys::ssh::AuthorizedKey;
use crate::network::ResolvedNetwork;

/// When a data source is applied, as `dsmode` says it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DsMode {
    /// Before the network is up.
    Local,
    /// With the network up.
    Net,
    /// Never.
    Disabled,
}

/// A NoCloud seed: the files `meta-data` and `user-data`, and `vendor-data` and `network-config` when given.
///
/// # Spec
///
/// cloud-init, reference/datasources/nocloud.
#[derive(Clone, Debug, PartialEq)]
pub struct NoCloud {
    /// What decides whether a boot is the first one of a machine: [`crate::identity::Identity::instance_id`].
    pub instance_id: String,
    /// The host name, as a short or a full name.
    pub local_hostname: Option<String>,
    /// Keys that may log in as the image's default user.
    pub public_keys: Vec<AuthorizedKey>,
    /// When the seed is applied; cloud-init's default is `net`.
    pub dsmode: Option<DsMode>,
    /// More keys of the meta data. They do not replace those above.
    pub extra: Map<String, Value>,
    /// The user data; an empty file when absent, as cloud-init demands one.
    pub user_data: Option<UserData>,
    /// The vendor data.
    pub vendor_data: Option<UserData>,
    /// The network config; cloud-init uses DHCP on the first interface without one.
    pub network: Option<ResolvedNetwork>,
}

impl NoCloud {
    /// Returns a seed with nothing but its instance id.
    #[must_use]
    pub fn new(instance_id: impl Into<String>) -> Self {
        Self {
            instance_id: instance_id.into(),
            local_hostname: None,
            public_keys: Vec::new(),
            dsmode: None,
            extra: Map::new(),
            user_data: None,
            vendor_data: None,
            network: None,
        }
    }

    /// Returns the files of the seed.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for an empty instance id, [`Error::Yaml`] when a value has no form in YAML.
    pub fn tree(&self) -> Result<Tree, Error> {
        let mut tree = Tree::new();
        tree.insert("meta-data", self.meta_data()?.into_bytes())?;
        // Spec: "user-data and meta-data … are required", the former possibly empty.
        let user_data = self.user_data.as_ref().map_or_else(|| Ok([].into()), UserData::encode)?;
        tree.insert("user-data", user_data)?;
        if let Some(vendor_data) = &self.vendor_data {
            tree.insert("vendor-data", vendor_data.encode()?)?;
        }
        if let Some(network) = &self.network {
            let config = yaml::to_string("the network config", &network.to_network_config())?;
            tree.insert("network-config", config.into_bytes())?;
        }
        Ok(tree)
    }

    fn meta_data(&self) -> Result<String, Error> {
        if self.instance_id.trim().is_empty() {
            return Err(Error::Value { what: "the instance id", rule: "is empty" });
        }
        let mut keys = self.extra.clone();
        keys.insert("instance-id".to_owned(), self.instance_id.clone().into());
        if let Some(name) = &self.local_hostname {
            keys.insert("local-hostname".to_owned(), name.clone().into());
        }
        if !self.public_keys.is_empty() {
            let lines: Vec<Value> = self.public_keys.iter().map(|key| key.line().into()).collect();
            keys.insert("public-keys".to_owned(), lines.into());
        }
        if let Some(dsmode) = self.dsmode {
            let dsmode = serde_json::to_value(dsmode).map_err(|source| Error::Json { what: "dsmode", source })?;
            keys.insert("dsmode".to_owned(), dsmode);
        }
        yaml::to_string("the meta data", &keys)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{DsMode, NoCloud, UserData};

    #[test]
    fn a_seed_has_meta_data_and_user_data_even_when_empty() {
        let tree = NoCloud::new("5eed0000-0000-4000-8000-0000000000aa").tree().unwrap();
        let paths: Vec<_> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["meta-data", "user-data"]);
        assert_eq!(tree.get("meta-data").unwrap(), b"instance-id: '5eed0000-0000-4000-8000-0000000000aa'\n");
        assert_eq!(tree.get("user-data").unwrap(), b"");
        assert!(NoCloud::new(" ").tree().is_err());
    }

    #[test]
    fn meta_data_says_who_the_machine_is() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti ada";
        let mut seed = NoCloud::new("0e1");
        seed.local_hostname = Some("web1".to_owned());
        seed.public_keys = vec![key.parse().unwrap()];
        seed.dsmode = Some(DsMode::Local);
        seed.extra.insert("instance-id".to_owned(), "other".into());
        seed.extra.insert("role".to_owned(), "on".into());
        seed.vendor_data = Some(UserData::raw(*b"#!/bin/sh\n"));
        let tree = seed.tree().unwrap();
        let meta: Value = serde_saphyr::from_slice(tree.get("meta-data").unwrap()).unwrap();
        let expected =
            json!({"instance-id": "0e1", "local-hostname": "web1", "public-keys": [key], "dsmode": "local", "role": "on"});
        assert_eq!(meta, expected);
        assert_eq!(tree.get("vendor-data").unwrap(), b"#!/bin/sh\n");
    }
}
