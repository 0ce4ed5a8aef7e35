use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::ConfigDrive;
use super::config_drive::{GRIZZLY, LIBERTY, NEWTON_ONE, VICTORIA, content_path};

/// Returns `meta_data.json` of the dated `version`.
pub(super) fn render(drive: &ConfigDrive, version: &str) -> Map<String, Value> {
    let mut keys = Map::new();
    let mut set = |key: &str, value: Value| {
        keys.insert(key.to_owned(), value);
    };
    set("uuid", drive.uuid.hyphenated().to_string().into());
    set("hostname", drive.hostname.clone().into());
    set("name", drive.name.as_ref().unwrap_or(&drive.hostname).clone().into());
    set("launch_index", drive.launch_index.into());
    set("availability_zone", drive.availability_zone.as_deref().unwrap_or(DEFAULT_ZONE).into());
    if !drive.meta.is_empty() {
        set("meta", json!(drive.meta));
    }
    if !drive.public_keys.is_empty() {
        let by_name = drive.public_keys.iter().map(|(name, key)| (name.clone(), key.line().into()));
        set("public_keys", Value::Object(by_name.collect()));
        let list = drive.public_keys.iter().map(|(name, key)| json!({"name": name, "type": "ssh", "data": key.line()}));
        set("keys", list.collect());
    }
    if !drive.files.is_empty() {
        let files = drive.files.iter().enumerate();
        let files = files.map(|(number, file)| json!({"path": file.path.as_str(), "content_path": content_path(number)}));
        set("files", files.collect());
    }
    if let Some(password) = &drive.admin_pass {
        set("admin_pass", password.clone().into());
    }
    if let Some(seed) = drive.random_seed.as_ref().filter(|_| version >= GRIZZLY) {
        set("random_seed", STANDARD.encode(seed.as_slice()).into());
    }
    if let Some(project) = drive.project_id.as_ref().filter(|_| version >= LIBERTY) {
        set("project_id", project.clone().into());
    }
    if version >= NEWTON_ONE {
        set("devices", drive.devices.clone().into());
    }
    if version >= VICTORIA {
        set("dedicated_cpus", json!(drive.dedicated_cpus));
    }
    keys
}

/// The name of Nova's zone when none is set up.
pub(super) const DEFAULT_ZONE: &str = "nova";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};
    use uuid::Uuid;

    use crate::document::{ConfigDrive, DATED_VERSIONS, InjectedFile, UserData};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti ada";

    fn drive() -> ConfigDrive {
        let mut drive = ConfigDrive::new(Uuid::from_u128(0x5eed_0000), "web1");
        drive.public_keys.insert("ada".to_owned(), KEY.parse().unwrap());
        drive.meta.insert("dsmode".to_owned(), "local".to_owned());
        drive.files = vec![InjectedFile { path: "/etc/motd".parse().unwrap(), contents: (*b"hi").into() }];
        drive.random_seed = Some(Box::new([0xff; 512]));
        drive.project_id = Some("p".to_owned());
        drive.user_data = Some(UserData::raw(*b"#!/bin/sh\n"));
        drive
    }

    fn meta(version: &str) -> Value {
        let tree = drive().tree().unwrap();
        serde_json::from_slice(tree.get(&format!("openstack/{version}/meta_data.json")).unwrap()).unwrap()
    }

    #[test]
    fn each_version_has_the_files_of_its_time() {
        let tree = drive().tree().unwrap();
        let count = |version: &str| tree.iter().filter(|(path, _)| path.starts_with(&format!("openstack/{version}/"))).count();
        let counts: Vec<_> = DATED_VERSIONS.iter().map(|version| count(version)).collect();
        // There is no network in this one.
        assert_eq!(counts, [2, 2, 3, 3, 3, 4, 4, 4, 4, 4]);
        assert_eq!(count("latest"), 4);
        assert_eq!(tree.get("openstack/content/0000"), Some(&b"hi"[..]));
        let ec2: Vec<_> = tree.iter().map(|(path, _)| path).filter(|path| path.starts_with("ec2/")).collect();
        let expected =
            ["ec2/2009-04-04/meta-data.json", "ec2/2009-04-04/user-data", "ec2/latest/meta-data.json", "ec2/latest/user-data"];
        assert_eq!(ec2, expected);
    }

    #[test]
    fn each_version_has_the_keys_of_its_time() {
        let keys = |version: &str| -> BTreeSet<String> { meta(version).as_object().unwrap().keys().cloned().collect() };
        for (older, newer, new) in [
            ("2012-08-10", "2013-04-04", &["random_seed"][..]),
            ("2013-10-17", "2015-10-15", &["project_id"]),
            ("2015-10-15", "2016-06-30", &["devices"]),
            ("2018-08-27", "2020-10-14", &["dedicated_cpus"]),
            ("2025-04-04", "latest", &[]),
        ] {
            let difference: Vec<_> = keys(newer).difference(&keys(older)).cloned().collect();
            assert_eq!(difference, new, "{older} to {newer}");
        }
    }

    #[test]
    fn meta_data_is_what_nova_would_write() {
        let mut latest = meta("latest");
        let seed = latest.as_object_mut().unwrap().remove("random_seed").unwrap();
        assert_eq!(seed.as_str().unwrap().len(), 684);
        let expected = json!({
            "uuid": "00000000-0000-0000-0000-00005eed0000", "hostname": "web1", "name": "web1", "launch_index": 0,
            "availability_zone": "nova", "meta": {"dsmode": "local"}, "public_keys": {"ada": KEY},
            "keys": [{"name": "ada", "type": "ssh", "data": KEY}],
            "files": [{"path": "/etc/motd", "content_path": "/content/0000"}],
            "project_id": "p", "devices": [], "dedicated_cpus": [],
        });
        assert_eq!(latest, expected);
    }

    #[test]
    fn a_drive_without_a_host_name_is_refused() {
        assert!(ConfigDrive::new(Uuid::nil(), "").tree().is_err());
    }
}
