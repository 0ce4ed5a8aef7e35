//! A Salt minion's configuration in more files than one.

use super::{material, planned, with_minion, written};
use crate::guest::fake::{FakeFiles, debian};

/// A configuration with a folder of drop-ins of its own.
fn elsewhere(more: &str) -> FakeFiles {
    let files = with_minion(debian()).file("/etc/salt/minion", format!("default_include: conf.d/*.conf\n{more}"));
    files.file("/etc/salt/conf.d/a.conf", "master: evil-old\n")
}

#[test]
fn drop_ins_in_another_folder_do_not_defeat_the_preseed() {
    let plan = planned(elsewhere(""), "minion: {id: web1, master: new}", &material()).unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&written(&plan, "/etc/salt/minion").unwrap()).unwrap();
    assert_eq!(config["include"], serde_json::json!(["/etc/salt/minion.d/zzzzzz-vmimg.conf"]), "read after all else");
    assert_eq!(written(&plan, "/etc/salt/minion.d/zzzzzz-vmimg.conf").unwrap(), "id: web1\nmaster: new\n");
    assert!(plan.notes[0].to_string().contains("conf.d/a.conf would override"), "{:?}", plan.notes);
}

#[test]
fn files_that_the_configuration_names_do_not_either() {
    let files = with_minion(debian())
        .file("/etc/salt/minion", "include:\n- extra.conf\n- /srv/salt/*.conf\n")
        .file("/srv/salt/x.conf", "id: template\n");
    let plan = planned(files, "minion: {id: web1}", &material()).unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&written(&plan, "/etc/salt/minion").unwrap()).unwrap();
    let expected = ["/etc/salt/extra.conf", "/srv/salt/*.conf", "/etc/salt/minion.d/zzzzzz-vmimg.conf"];
    assert_eq!(config["include"], serde_json::json!(expected));
    let agreeing =
        with_minion(debian()).file("/etc/salt/minion", "include: extra.conf\n").file("/etc/salt/extra.conf", "id: web1\n");
    let plan = planned(agreeing, "minion: {id: web1}", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/salt/minion").as_deref(), Some("include: extra.conf\nid: web1\n"));
}

#[test]
fn patterns_that_are_not_looked_for_may_say_anything() {
    let files =
        with_minion(debian()).file("/etc/salt/minion", "default_include: [conf.d/*/a?.conf, ../../../x, /etc/passwd/x]\n");
    let plan = planned(files, "minion: {id: web1}", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/salt/minion.d/zzzzzz-vmimg.conf").unwrap(), "id: web1\n");
}

#[test]
fn more_than_is_looked_at_may_say_anything() {
    let many = "- x.conf\n".repeat(100_000);
    let named = with_minion(debian()).file("/etc/salt/minion", format!("include:\n{many}"));
    let large = with_minion(debian()).file("/etc/salt/minion.d/a.conf", vec![b'#'; (4 << 20) + 1]);
    for (files, name) in [(named, "zzzzzz"), (large, "zz")] {
        let plan = planned(files, "minion: {id: web1}", &material()).unwrap();
        assert_eq!(written(&plan, &format!("/etc/salt/minion.d/{name}-vmimg.conf")).as_deref(), Some("id: web1\n"));
    }
}

#[test]
fn the_seed_s_own_includes_and_those_of_an_earlier_run_are_told_apart() {
    let before = "include:\n- x.conf\n- /etc/salt/minion.d/zzzzzz-vmimg.conf\n";
    let files = with_minion(debian()).file("/etc/salt/minion", before);
    let files = files.file("/etc/salt/x.conf", "a: 1\n").file("/etc/salt/minion.d/zzzzzz-vmimg.conf", "id: old\n");
    let plan = planned(files.clone(), "minion: {id: web1}", &material()).unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&written(&plan, "/etc/salt/minion").unwrap()).unwrap();
    assert_eq!(config, serde_json::json!({"id": "web1", "include": ["/etc/salt/x.conf"]}));
    super::step(&plan, "remove", "/etc/salt/minion.d/zzzzzz-vmimg.conf");
    let plan = planned(files, "minion: {id: web1, config: {a: 2, include: x.conf}}", &material()).unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&written(&plan, "/etc/salt/minion").unwrap()).unwrap();
    assert_eq!(config["include"], serde_json::json!(["/etc/salt/x.conf", "/etc/salt/minion.d/zzzzzz-vmimg.conf"]));
    assert_eq!(written(&plan, "/etc/salt/minion.d/zzzzzz-vmimg.conf").unwrap(), "a: 2\nid: web1\n");
}

#[test]
fn drop_ins_of_the_seed_s_files_are_seen() {
    let yaml = "{minion: {id: web1, master: new}, files: [{path: /etc/salt/minion.d/master.conf, content: 'master: old'}]}";
    let plan = planned(with_minion(debian()), yaml, &material()).unwrap();
    assert_eq!(written(&plan, "/etc/salt/minion.d/zz-vmimg.conf").unwrap(), "id: web1\nmaster: new\n");
}

#[test]
fn keys_lie_where_salt_looks_for_them() {
    for (config, folder) in [
        ("pki_dir: keys\n", "/keys"),
        ("root_dir: /srv/salt/\n", "/srv/salt/etc/salt/pki/minion"),
        ("root_dir: /srv\npki_dir: /srv/keys\n", "/srv/keys"),
        ("root_dir: /srv\npki_dir: /srvkeys\n", "/srv/srvkeys"),
        ("root_dir: /\npki_dir: /\n", "/etc/salt/pki/minion"),
    ] {
        let plan = planned(with_minion(debian()).file("/etc/salt/minion", config), "minion: {id: a}", &material()).unwrap();
        assert!(written(&plan, &format!("{folder}/minion.pem")).is_some(), "{config}: {:#?}", plan.describe());
    }
}

#[test]
fn a_master_is_named_and_its_fingerprint_is_one() {
    for minion in ["{id: a, master: ''}", "{id: a, master: [m, 'a b']}", "{id: a, master: m, master_finger: nonsense}"] {
        let error = planned(with_minion(debian()), &format!("minion: {minion}"), &material()).unwrap_err().to_string();
        assert!(error.contains("master"), "{error}");
    }
}
