//! Files that the seed names itself: what is planned later does not take them away.

use super::{Error, material, planned, step, with_minion, written};
use crate::guest::Tree;
use crate::guest::fake::{FakeFiles, alpine, debian};

#[test]
fn the_machine_id_that_is_given_stays() {
    for files in [debian(), alpine()] {
        let yaml = "files: [{path: /etc/machine-id, content: mine}, {path: /var/lib/dbus/machine-id, content: mine}]";
        let plan =
            planned(files.file("/etc/machine-id", "old").file("/var/lib/dbus/machine-id", "old"), yaml, &material()).unwrap();
        assert_eq!(written(&plan, "/etc/machine-id").as_deref(), Some("mine"));
        assert_eq!(written(&plan, "/var/lib/dbus/machine-id").as_deref(), Some("mine"));
    }
}

#[test]
fn host_keys_that_are_given_stay() {
    let key = "one that ssh reads, and we do not\n";
    let base = debian().file("/etc/ssh/ssh_host_ed25519_key", "old").file("/etc/ssh/ssh_host_ed25519_key.pub", "old");
    let base = base.file("/etc/ssh/ssh_host_rsa_key", "old");
    for mode in ["mint", "remove"] {
        let seed = serde_json::json!({
            "hostname": "web1", "host_keys": mode, "files": [{"path": "/etc/ssh/ssh_host_ed25519_key", "content": key, "mode": "0600"}],
        });
        let plan = planned(base.clone(), &seed.to_string(), &material()).unwrap();
        assert_eq!(written(&plan, "/etc/ssh/ssh_host_ed25519_key").as_deref(), Some(key), "{mode}");
        step(&plan, "remove", "/etc/ssh/ssh_host_ed25519_key.pub");
        step(&plan, "remove", "/etc/ssh/ssh_host_rsa_key");
    }
    let public = "{hostname: a, host_keys: mint, files: [{path: /etc/ssh/ssh_host_ed25519_key.pub, content: k}]}";
    assert!(matches!(planned(base, public, &material()), Err(Error::Twice(path)) if path.ends_with(".pub")));
}

#[test]
fn a_known_host_key_is_that_of_the_given_file() {
    let key =
        crate::keys::ssh::generate_host_keys(&crate::identity::Randomness::from_seed_value("s", "a"), "a").unwrap().remove(0);
    let path = format!("/etc/ssh/{}", key.file_name());
    let seed = serde_json::json!({"hostname": "web1", "files": [{"path": path, "content": key.private_pem()}]});
    let plan = planned(debian(), &seed.to_string(), &material()).unwrap();
    assert_eq!(plan.known_hosts, [key.known_hosts_line("web1")]);
}

#[test]
fn the_master_key_that_is_given_stays_beside_a_cleared_cache() {
    let yaml = "minion: {id: a, master: m}
files:
- {path: /etc/salt/pki/minion/minion_master.pub, content: key}
- {path: /var/cache/salt/minion/extmods/a/mine, content: x}";
    let files = with_minion(debian())
        .file("/etc/salt/pki/minion/minion_master.pub", "old")
        .file("/var/cache/salt/minion/extmods/old", "old")
        .file("/var/cache/salt/minion/proc/x", "old");
    let plan = planned(files, yaml, &material()).unwrap();
    assert_eq!(written(&plan, "/etc/salt/pki/minion/minion_master.pub").as_deref(), Some("key"));
    assert_eq!(written(&plan, "/var/cache/salt/minion/extmods/a/mine").as_deref(), Some("x"));
    step(&plan, "remove", "/var/cache/salt/minion/extmods/old");
    step(&plan, "remove", "/var/cache/salt/minion/proc");
    for path in ["/etc/salt/minion_id", "/etc/salt/pki/minion/minion.pem", "/etc/salt/pki/minion/minion.pub"] {
        let yaml = format!("{{minion: {{id: a}}, files: [{{path: {path}, content: x}}]}}");
        assert!(matches!(planned(with_minion(debian()), &yaml, &material()), Err(Error::Twice(_))), "{path}");
    }
}

#[test]
fn a_cache_on_a_disk_of_its_own_is_emptied() {
    let root = with_minion(debian()).file("/etc/fstab", "LABEL=root / ext4\nLABEL=c /var/cache/salt/minion ext4\n");
    let cache = FakeFiles::default().file("/proc/x", "old").file("/y", "old").dir("/lost+found");
    let volumes = [root.dir("/var/cache/salt/minion").volume(1, "root"), cache.volume(2, "c")];
    let tree = Tree::assemble(&volumes, None).unwrap();
    let guest = crate::guest::Guest::inspect(&tree).unwrap();
    let plan = super::plan(&guest, &tree, &super::seed("minion: {id: a}"), &material()).unwrap();
    let removed = plan.describe().into_iter().filter(|step| step.op == "remove" && step.partition == 2.into());
    assert_eq!(removed.map(|step| step.path).collect::<Vec<_>>(), ["/y", "/proc"]);
}

#[test]
fn the_time_zone_and_the_host_name_are_said_once() {
    for given in [
        "timezone: Europe/Madrid, files: [{path: /etc/localtime, content: TZif}]",
        "timezone: Europe/Madrid, files: [{path: /etc/timezone, content: Etc/UTC}]",
        "hostname: web1, files: [{path: /etc/hostname, content: web2}]",
    ] {
        assert!(matches!(planned(debian(), &format!("{{{given}}}"), &material()), Err(Error::Twice(_))), "{given}");
    }
    let plan = planned(debian(), "{hostname: web1, files: [{path: /etc/hostname, content: web1}]}", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/hostname").as_deref(), Some("web1\n"));
}
