//! What `prepare` gives to cloud-init, and refuses.

use std::fs;

use serde_json::{Value, json};

use crate::data_disks::{done, vmimg, with_base};

const ROOT: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
const OPS: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIrGhGFNuYPB8q8SDu5x4xPkvAqYdHwEJr0kzVR0AGDc";

#[test]
fn a_key_is_of_its_account_alone() {
    let sandbox = with_base();
    sandbox.file("root.pub", format!("{ROOT} r\n"));
    sandbox.file("ops.pub", format!("{OPS} o\n"));
    for (name, seed) in [("web1", "--config-drive"), ("web2", "--nocloud")] {
        let keys = "--user ops --ssh-key root:root.pub --ssh-key ops:ops.pub";
        done(&sandbox, &format!("prepare {name} --image ./base.qcow2 {seed} {keys}"));
        let iso = String::from_utf8_lossy(&fs::read(sandbox.path(format!("r/{name}/seed.iso"))).unwrap()).into_owned();
        // cloud-init would give them to its default user, and where root has keys, to root as well.
        assert!(!iso.contains("ssh-ed25519"), "{name}");
        let overlay = sandbox.path(format!("r/{name}/disk.qcow2"));
        let read = |path: &str| sandbox.done(&format!("disk cat {} {path}", overlay.display()));
        assert_eq!(read("/root/.ssh/authorized_keys"), format!("{ROOT} r\n"));
        assert_eq!(read("/home/ops/.ssh/authorized_keys"), format!("{OPS} o\n"));
    }
}

#[test]
fn cloud_init_undoes_nothing() {
    let sandbox = with_base();
    let config =
        "system_info: {distro: debian, default_user: {name: debian, gecos: D, lock_passwd: true}}\\ndisable_root: true\\n";
    for (name, hostname, password) in [("web1", "web1.example.org", ", password_hash: $6$h"), ("web2", "web2", "")] {
        let users = format!("[{{name: debian, create: true, ssh_keys: ['{OPS}']{password}}}]");
        let files = format!("[{{path: /etc/cloud/cloud.cfg, content: \"{config}\"}}]");
        let seed = format!("{{hostname: {hostname}, root_keys: ['{ROOT}'], users: {users}, files: {files}}}");
        sandbox
            .file("m.yaml", format!("machines: {{{name}: {{image: ./base.qcow2, datasource: config-drive, seed: {seed}}}}}"));
        done(&sandbox, "prepare -f m.yaml");
        let overlay = sandbox.path(format!("r/{name}/disk.qcow2"));
        for (file, path) in
            [("cloud.cfg", "/etc/cloud/cloud.cfg"), ("cloud.cfg.d/a.cfg", "/etc/cloud/cloud.cfg.d/99-vmimg.cfg")]
        {
            fs::create_dir_all(sandbox.path("cloud.cfg.d")).unwrap();
            fs::write(sandbox.path(file), sandbox.done(&format!("disk cat {} {path}", overlay.display()))).unwrap();
        }
        let image = sandbox.path(format!("r/{name}/seed.iso"));
        sandbox.tool("xorriso").args(["-osirrox", "on", "-indev"]).arg(image).args(["-extract", "/", name]).run();
        let python = sandbox.tool("/usr/bin/python3").args(["-c", include_str!("cloud_init.py"), ".", name]);
        let said: Value = serde_json::from_str(&python.run()).unwrap();
        let expected = json!({
            "keys": {"debian": [[], null], "root": [[], ""]},
            "hostname": hostname,
            "deletes_host_keys": false,
            "default_user": ["debian", "D", password.is_empty()],
        });
        assert_eq!(said, expected);
    }
}

#[test]
fn metadata_without_a_config_drive_is_refused() {
    let sandbox = with_base();
    for seed in ["--nocloud", "--no-seed"] {
        let outcome = vmimg(&sandbox, &format!("prepare web1 --image ./base.qcow2 --meta role=web {seed}"));
        assert_eq!(outcome.status, 2, "{seed} {outcome}");
        assert!(outcome.stderr.contains("metadata needs a config drive"), "{outcome}");
    }
    done(&sandbox, "prepare web1 --image ./base.qcow2 --meta role=web --config-drive");
}

#[test]
fn a_router_outside_of_the_networks_needs_a_seed_that_says_so() {
    let sandbox = with_base();
    let machine = |seed: &str| {
        let config = "{addresses: [203.0.113.5/32], gateway4: 203.0.113.1}";
        sandbox.file(
            "m.yaml",
            format!("machines: {{web1: {{image: ./base.qcow2, datasource: {seed}, networks: [{{config: {config}}}]}}}}"),
        );
        vmimg(&sandbox, "prepare -f m.yaml")
    };
    let outcome = machine("config-drive");
    assert_eq!(outcome.status, 2, "{outcome}");
    assert!(outcome.stderr.contains("203.0.113.1 is on the link of eth0") && outcome.stderr.contains("NoCloud"), "{outcome}");
    assert_eq!(machine("nocloud").status, 0);
    let iso = String::from_utf8_lossy(&fs::read(sandbox.path("r/web1/seed.iso")).unwrap()).into_owned();
    assert!(iso.contains("on-link: true"), "{iso}");
}

#[test]
fn a_master_and_its_fingerprint_are_checked() {
    let sandbox = with_base();
    let outcome = vmimg(&sandbox, "prepare web1 --image ./base.qcow2 --minion-master m --minion-finger nonsense");
    assert_eq!(outcome.status, 2, "{outcome}");
    assert!(outcome.stderr.contains("salt-key -F"), "{outcome}");
    assert_eq!(vmimg(&sandbox, "prepare web1 --image ./base.qcow2 --minion-master=").status, 2);
}
