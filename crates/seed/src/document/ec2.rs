use serde_json::{Map, Value, json};

use super::ConfigDrive;
use super::meta_data::DEFAULT_ZONE;

/// Returns `meta-data.json` of a version of the EC2 tree.
pub(super) fn meta_data(drive: &ConfigDrive, version: &str) -> Map<String, Value> {
    let mut keys = Map::new();
    let mut set = |key: &str, value: Value| {
        keys.insert(key.to_owned(), value);
    };
    let (id, _, _, _) = drive.uuid.as_fields();
    set("instance-id", format!("i-{id:08x}").into());
    set("hostname", drive.hostname.clone().into());
    set("ami-launch-index", drive.launch_index.into());
    if !drive.public_keys.is_empty() {
        let keys = drive.public_keys.values().enumerate();
        let keys = keys.map(|(number, key)| (number.to_string(), json!({"openssh-key": key.line()})));
        set("public-keys", Value::Object(keys.collect()));
    }
    if version >= "2007-01-19" {
        set("local-hostname", drive.hostname.clone().into());
        set("public-hostname", drive.hostname.clone().into());
    }
    if version >= "2007-12-15" {
        let mut nodes = Map::new();
        let disks = drive.block_devices.iter().map(|(name, node)| (name.as_str(), node.as_str()));
        for (name, node) in [("ami", "vda"), ("root", "/dev/vda")].into_iter().chain(disks) {
            nodes.insert(name.to_owned(), node.into());
        }
        set("block-device-mapping", Value::Object(nodes));
    }
    if version >= "2008-02-01" {
        set("placement", json!({"availability-zone": drive.availability_zone.as_deref().unwrap_or(DEFAULT_ZONE)}));
    }
    keys
}

/// The versions of the EC2 tree, oldest first, `latest` last.
pub(super) const VERSIONS: [&str; 10] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "latest",
];
/// The first of [`VERSIONS`] that Nova writes: its `config_drive_skip_versions` names those before.
pub(super) const FIRST_WRITTEN: usize = 8;

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::{VERSIONS, meta_data};
    use crate::document::ConfigDrive;

    #[test]
    fn data_disks_are_in_the_mapping_from_the_version_on_that_has_one() {
        let mut drive = ConfigDrive::new(Uuid::nil(), "web1");
        drive.block_devices.insert("ephemeral0".to_owned(), "/dev/vdb".to_owned());
        let mapping = json!({"ami": "vda", "ephemeral0": "/dev/vdb", "root": "/dev/vda"});
        assert_eq!(meta_data(&drive, "latest")["block-device-mapping"], mapping);
        assert!(!meta_data(&drive, "1.0").contains_key("block-device-mapping"));
    }

    #[test]
    fn later_versions_know_more() {
        let mut drive = ConfigDrive::new(Uuid::from_u128(0xab << 96), "web1");
        drive.every_ec2_version = true;
        let counts: Vec<_> = VERSIONS.iter().map(|version| meta_data(&drive, version).len()).collect();
        assert_eq!(counts, [3, 5, 5, 5, 5, 6, 7, 7, 7, 7]);
        assert_eq!(meta_data(&drive, "1.0")["instance-id"], "i-000000ab");
        let tree = drive.tree().unwrap();
        assert_eq!(tree.iter().filter(|(path, _)| path.starts_with("ec2/")).count(), 10);
    }
}
