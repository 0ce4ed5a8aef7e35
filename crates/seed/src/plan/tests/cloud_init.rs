//! What the guest's own cloud-init would undo.

use super::{ANA, material, planned, step, warnings, written};
use crate::guest::fake::debian;

const FILE: &str = "/etc/cloud/cloud.cfg.d/99-vmimg.cfg";

/// What the file says after its comment.
fn said(yaml: &str) -> Option<String> {
    let config = "system_info: {distro: debian, default_user: {name: other, lock_passwd: true}}\n";
    let files = debian()
        .file("/etc/cloud/cloud.cfg", config)
        .file("/etc/cloud/cloud.cfg.d/10-user.cfg", "system_info: {default_user: {name: debian}}\n")
        .file("/etc/cloud/cloud.cfg.d/20-broken.cfg", "a: [\n");
    let text = written(&planned(files, yaml, &material()).unwrap(), FILE)?;
    Some(text.split_once('\n').unwrap().1.to_owned())
}

#[test]
fn each_setting_is_there_where_it_is_needed() {
    let root = "disable_root: false\n";
    for (yaml, expected) in [
        ("{}".to_owned(), None),
        ("hostname: web1".to_owned(), None),
        ("host_keys: keep".to_owned(), Some("ssh_deletekeys: false\n")),
        ("host_keys: mint".to_owned(), Some("ssh_deletekeys: false\n")),
        ("files: [{path: /etc/ssh/ssh_host_rsa_key, content: k}]".to_owned(), Some("ssh_deletekeys: false\n")),
        (format!("root_keys: ['{ANA}']"), Some(root)),
        (format!("users: [{{name: root, ssh_keys: ['{ANA}']}}]"), Some(root)),
        (format!("users: [{{name: debian, ssh_keys: ['{ANA}']}}]"), None),
        ("hostname: web1.example.org".to_owned(), Some("prefer_fqdn_over_hostname: true\n")),
        ("{hostname: web1, domain: example.org}".to_owned(), Some("prefer_fqdn_over_hostname: false\n")),
        (
            "users: [{name: debian, password_hash: $6$h}]".to_owned(),
            Some("system_info: {default_user: {lock_passwd: false}}\n"),
        ),
        ("users: [{name: other, create: true, password_hash: $6$h}]".to_owned(), None),
    ] {
        assert_eq!(said(&yaml).as_deref(), expected, "{yaml}");
    }
}

#[test]
fn a_template_s_settings_go() {
    let plan = planned(debian().file(FILE, "disable_root: false\n"), "{}", &material()).unwrap();
    step(&plan, "remove", FILE);
    let ours = format!("files: [{{path: {FILE}, content: 'disable_root: true'}}]");
    let plan = planned(debian().file(FILE, "disable_root: false\n"), &ours, &material()).unwrap();
    assert_eq!(written(&plan, FILE).as_deref(), Some("disable_root: true"));
    assert!(planned(debian(), &format!("{ours}\nhost_keys: keep"), &material()).is_err(), "written twice");
}

#[test]
fn host_keys_that_only_an_idle_cloud_init_would_make_are_missed() {
    let mut material = material();
    assert!(planned(debian(), "{}", &material).unwrap().notes.is_empty());
    material.datasource = false;
    assert!(warnings(&planned(debian(), "{}", &material).unwrap())[0].contains("without SSH host keys"));
    let rsa = debian().file("/etc/ssh/sshd_config", "HostKey /etc/ssh/ssh_host_rsa_key\n");
    let minted = planned(rsa.clone(), "host_keys: mint", &material).unwrap();
    assert!(warnings(&minted)[0].contains("ssh_host_rsa_key alone"), "{:?}", minted.notes);
    let given = "{host_keys: mint, files: [{path: /etc/ssh/ssh_host_rsa_key, content: k}]}";
    assert!(planned(rsa, given, &material).unwrap().notes.is_empty());
}
