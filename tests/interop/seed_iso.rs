//! Seeds as ISO images: others read ours, we read theirs.

use std::fs;
use std::path::{Path, PathBuf};

use imgcore::block::MemoryDisk;
use seed::document::{ConfigDrive, InjectedFile, NoCloud, Tree, UserData};
use seed::identity::{Identity, Randomness};
use seed::iso::{self, Names, VolumeLabel};
use seed::network::Network;
use serde_json::{Value, json};
use tempfile::TempDir;
use vmimg_tests::tool::Tool;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti ada";

#[test]
fn isoinfo_and_xorriso_read_every_name_and_byte() {
    let scratch = TempDir::new().unwrap();
    let image = write(&scratch, "cidata", &odd_tree());
    let listed = Tool::new("isoinfo").args(["-R", "-f", "-i"]).arg(&image).run();
    let joliet = Tool::new("isoinfo").args(["-J", "-f", "-i"]).arg(&image).run();
    for (path, contents) in odd_tree().iter() {
        assert!(listed.lines().any(|line| line == format!("/{path}")), "{path} of {listed}");
        if path.split('/').all(|name| name.len() <= 64) {
            assert!(joliet.lines().any(|line| line == format!("/{path}")), "{path} of {joliet}");
        }
        let read = Tool::new("isoinfo").args(["-R", "-x", &format!("/{path}"), "-i"]).arg(&image).output();
        assert_eq!(read.stdout, **contents, "{path}");
    }
    let folder = extract(&image, &scratch);
    for (path, contents) in odd_tree().iter() {
        assert_eq!(fs::read(folder.join(path)).unwrap(), **contents, "{path}");
    }
}

#[test]
fn blkid_finds_the_label_that_cloud_init_looks_for() {
    let scratch = TempDir::new().unwrap();
    for label in ["cidata", "CIDATA", "config-2", "A label with 32 bytes, all plain"] {
        let image = write(&scratch, label, &odd_tree());
        let found = Tool::new("blkid").args(["-p", "-o", "export"]).arg(&image).run();
        assert!(found.lines().any(|line| line == "TYPE=iso9660"), "{found}");
        let expected = format!("LABEL={label}").replace(' ', "\\ ");
        assert!(found.lines().any(|line| line == expected), "{expected} of {found}");
    }
}

#[test]
fn images_of_genisoimage_are_read_with_all_their_names() {
    let scratch = TempDir::new().unwrap();
    let folder = scratch.path().join("tree");
    for (path, contents) in odd_tree().iter() {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, contents).unwrap();
    }
    let make = |options: &[&str]| {
        let image = scratch.path().join("theirs.iso");
        Tool::new("genisoimage").args(["-quiet", "-V", "cidata"]).args(options).arg("-o").arg(&image).arg(&folder).run();
        MemoryDisk::new(fs::read(image).unwrap())
    };
    // Deep folders are moved away by the first and left in place by the second.
    for options in [&["-R", "-J"][..], &["-R", "-D"]] {
        let volume = iso::read(&make(options)).unwrap();
        assert_eq!((volume.label.as_str(), volume.names), ("cidata", Names::RockRidge));
        assert_eq!(volume.tree, odd_tree(), "{options:?}");
    }
    let joliet = iso::read(&make(&["-J", "-D"])).unwrap();
    assert_eq!(joliet.names, Names::Joliet);
    assert_eq!(joliet.tree.get("user-data"), odd_tree().get("user-data"));
    let plain = iso::read(&make(&["-D"])).unwrap();
    assert_eq!(plain.names, Names::Primary);
    assert_eq!(plain.tree.get("USER_DAT"), odd_tree().get("user-data"));
}

#[test]
fn images_of_xorriso_are_read_with_all_their_names() {
    let scratch = TempDir::new().unwrap();
    let ours = write(&scratch, "cidata", &odd_tree());
    let theirs = scratch.path().join("theirs.iso");
    // xorriso reads our image and writes one of its own.
    Tool::new("xorriso")
        .args(["-joliet", "on", "-indev"])
        .arg(&ours)
        .arg("-outdev")
        .arg(&theirs)
        .args(["-volid", "again"])
        .run();
    let volume = iso::read(&MemoryDisk::new(fs::read(theirs).unwrap())).unwrap();
    assert_eq!(volume.label, "again");
    assert_eq!(volume.tree, odd_tree());
}

#[test]
fn cloud_init_reads_a_nocloud_seed() {
    let (identity, network) = machine();
    let mut seed = NoCloud::new(identity.instance_id());
    seed.local_hostname = Some("web1".to_owned());
    seed.public_keys = vec![KEY.parse().unwrap()];
    let config = json!({"hostname": "no", "locale": "12:30", "runcmd": [["echo", "0x10"]], "package_update": true});
    seed.user_data = Some(UserData::CloudConfig(config.as_object().unwrap().clone()));
    seed.vendor_data = Some(UserData::raw(*b"#!/bin/sh\n"));
    seed.network = Some(network.resolve(&identity.macs).unwrap());
    let tree = seed.tree().unwrap();
    let scratch = TempDir::new().unwrap();
    let folder = extract(&write(&scratch, "cidata", &tree), &scratch);
    let read = cloud_init("nocloud", &folder);
    assert_eq!(read["instance_id"], identity.instance_id());
    assert_eq!(read["hostname"], "web1");
    assert_eq!(read["public_keys"], json!([KEY]));
    assert_eq!(read["user_data"], std::str::from_utf8(tree.get("user-data").unwrap()).unwrap());
    assert_eq!(read["vendor_data"], "#!/bin/sh\n");
    assert_network(&read["network"], &identity);
    let said = Tool::new("cloud-init").args(["schema", "--config-file"]).arg(folder.join("user-data")).run();
    assert!(said.starts_with("Valid "), "{said}");
}

#[test]
fn cloud_init_reads_a_config_drive() {
    let (identity, network) = machine();
    let mut drive = ConfigDrive::new(identity.uuid, "web1");
    drive.public_keys.insert("ada".to_owned(), KEY.parse().unwrap());
    drive.meta.insert("dsmode".to_owned(), "local".to_owned());
    drive.files = vec![InjectedFile { path: "/etc/motd".parse().unwrap(), contents: (*b"hello\n").into() }];
    drive.random_seed = Some(Box::new(Randomness::from_root([3; 32]).bytes("random seed")));
    drive.user_data = Some(UserData::raw(*b"#!/bin/sh\necho hi\n"));
    drive.block_devices.insert("ephemeral0".to_owned(), "/dev/vdb".to_owned());
    drive.network = Some(network.resolve(&identity.macs).unwrap());
    let scratch = TempDir::new().unwrap();
    let folder = extract(&write(&scratch, "config-2", &drive.tree().unwrap()), &scratch);
    let read = cloud_init("configdrive", &folder);
    assert_eq!(read["instance_id"], identity.instance_id());
    assert_eq!(read["hostname"], "web1");
    assert_eq!(read["version"], 2);
    assert_eq!(read["public_keys"], json!([KEY]));
    assert_eq!(read["random_seed"], 512);
    assert_eq!(read["files"], json!({"/etc/motd": "hello\n"}));
    assert_eq!(read["user_data"], "#!/bin/sh\necho hi\n");
    assert_eq!(read["ec2"]["hostname"], "web1");
    assert_eq!(read["ec2"]["block-device-mapping"]["ephemeral0"], "/dev/vdb");
    assert_network(&read["network"], &identity);
}

/// Names and lengths at which writers go wrong.
fn odd_tree() -> Tree {
    let mut tree = Tree::new();
    let mut add = |path: &str, contents: &[u8]| tree.insert(path, contents).unwrap();
    add("user-data", b"#cloud-config\n");
    add("meta-data", &[b'\n'; 2047]);
    add("vendor-data", &[b'#'; 2048]);
    add("network-config", &[b'#'; 2049]);
    add("empty", b"");
    add("twin of vendor-data", &[b'#'; 2048]);
    add("scripts/per-boot/01-Mixed.Case_name", b"z");
    add("openstack/2018-08-27/meta_data.json", b"{}");
    add("a/b/c/d/e/f/g/h/i/j/leaf", b"deep");
    add(&format!("long/{}.txt", "n".repeat(140)), b"name");
    for number in 0..300 {
        add(&format!("many/file-{number:04}.dat"), number.to_string().as_bytes());
    }
    add("large", &vec![0xa5; 1 << 20]);
    tree
}

/// A machine with one interface of each kind.
fn machine() -> (Identity, Network) {
    let identity = Identity::generate(&Randomness::from_seed_value("test", "web1"), 2);
    let network = serde_json::from_value(json!({"interfaces": [
        {"dhcp4": true, "mtu": 1400},
        {"name": "lan0", "addresses": ["192.0.2.10/24", "2001:db8::a/64"], "gateway4": "192.0.2.1",
         "routes": [{"to": "10.0.0.0/8", "via": "192.0.2.2"}], "dns": ["192.0.2.53"], "search": ["example.org"]},
    ]}));
    (identity, network.unwrap())
}

/// Asserts that cloud-init has understood the network of [`machine`].
#[track_caller]
fn assert_network(read: &Value, identity: &Identity) {
    let [eth0, lan0] = read["interfaces"].as_array().unwrap().as_slice() else { panic!("{read:#}") };
    assert_eq!((&eth0["name"], &lan0["name"]), (&json!("eth0"), &json!("lan0")));
    assert_eq!(eth0["mac_address"], identity.macs[0].to_string());
    assert_eq!(lan0["mac_address"], identity.macs[1].to_string());
    assert_eq!(eth0["mtu"], 1400, "{read:#}");
    assert_eq!(eth0["subnets"][0]["type"], "dhcp4");
    let shown = lan0.to_string();
    for part in ["192.0.2.10", "2001:db8::a", "192.0.2.1", "10.0.0.0", "192.0.2.2"] {
        assert!(shown.contains(part), "{part} of {shown}");
    }
    let all = read.to_string();
    assert!(all.contains("192.0.2.53") && all.contains("example.org"), "{all}");
}

/// Writes the image of a tree, after reading it back.
#[track_caller]
fn write(scratch: &TempDir, label: &str, tree: &Tree) -> PathBuf {
    let label: VolumeLabel = label.parse().unwrap();
    let image = iso::create(tree, &label, 1_767_225_600).unwrap();
    iso::verify(&MemoryDisk::new(image.clone()), &label, tree).unwrap();
    let path = scratch.path().join("seed.iso");
    fs::write(&path, image).unwrap();
    path
}

/// Unpacks an image with xorriso.
#[track_caller]
fn extract(image: &Path, scratch: &TempDir) -> PathBuf {
    let folder = scratch.path().join("extracted");
    Tool::new("xorriso").args(["-osirrox", "on", "-indev"]).arg(image).args(["-extract", "/"]).arg(&folder).run();
    Tool::new("chmod").args(["-R", "u+rwX"]).arg(&folder).run();
    folder
}

/// What cloud-init makes of an unpacked seed.
#[track_caller]
fn cloud_init(kind: &str, folder: &Path) -> Value {
    let said = Tool::new("/usr/bin/python3").args(["-c", include_str!("cloud_init.py"), kind]).arg(folder).run();
    serde_json::from_str(&said).unwrap()
}
