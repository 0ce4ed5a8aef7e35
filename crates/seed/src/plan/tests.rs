mod cloud_init;
mod given_files;
mod logins;
mod salt;

use imgcore::fs::{Attributes, Content, Edit};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

use super::{Error, HostKey, KeyPair, Material, Note, Planned, Secret, Seed, Step};
use crate::guest::fake::{FakeFiles, alpine, debian};
use crate::guest::{Guest, Tree, VolumeId};

const ANA: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti ana@laptop";
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCUkIGEf2zXyKqeRQzEcu8rpJjGrCgoZn+J1oHKV/95gdNUq5uLs2izT6jfCDpAgXFflE8LGvNVFr4p7fZwaFCx06HgXe+BDqZ3OjAoyZBCvb4SHH+FA3WCzIh3h6ioTjcK4HtfuysA5WVvKhKM21uhugViYRFU1joBsq8ge9qJaQ== b";

fn seed(yaml: &str) -> Seed {
    serde_saphyr::from_str(yaml).unwrap()
}

fn plan(guest: &Guest, tree: &Tree, seed: &Seed, material: &Material) -> Result<Planned, Error> {
    super::plan(guest, tree, seed, material, || Ok(()))
}

fn planned(files: FakeFiles, yaml: &str, material: &Material) -> Result<Planned, Error> {
    let (guest, tree) = files.inspect();
    plan(&guest, &tree, &seed(yaml), material)
}

fn material() -> Material {
    Material {
        now: 20_000 * 86_400,
        datasource: true,
        minion_key: Some(KeyPair {
            private: Secret::new("-----BEGIN RSA PRIVATE KEY-----\r\nAAAA\r\n-----END RSA PRIVATE KEY-----"),
            public: "-----BEGIN PUBLIC KEY-----\nBBBB\n-----END PUBLIC KEY-----\n\n".to_owned(),
        }),
        host_keys: vec![HostKey {
            file_name: "ssh_host_ed25519_key".to_owned(),
            private: Secret::new("-----BEGIN OPENSSH PRIVATE KEY-----\nCCCC\n-----END OPENSSH PRIVATE KEY-----\n"),
            public: "ssh-ed25519 DDDD root@web1".to_owned(),
        }],
        ..Material::default()
    }
}

/// The text that a plan writes to a path, lines appended to it included.
fn written(planned: &Planned, path: &str) -> Option<String> {
    let mut text = None;
    for edit in planned.edits.values().flat_map(|plan| &plan.edits).filter(|edit| edit.path().as_str() == path) {
        match edit {
            Edit::Write { content: Content::Bytes(bytes), .. } => text = Some(String::from_utf8(bytes.to_vec()).unwrap()),
            Edit::AppendLine { line, .. } => text = Some(text.unwrap_or_default() + line + "\n"),
            _ => text = None,
        }
    }
    text
}

fn step(planned: &Planned, op: &str, path: &str) -> Step {
    let steps = planned.describe();
    let found = steps.iter().find(|step| step.op == op && step.path == path);
    found.unwrap_or_else(|| panic!("no {op} of {path} in {steps:#?}")).clone()
}

fn owner_and_mode(step: &Step) -> (Option<u32>, Option<u32>, Option<&str>) {
    (step.uid, step.gid, step.mode.as_deref())
}

fn warnings(planned: &Planned) -> Vec<&str> {
    let notes = planned.notes.iter().filter_map(|note| match note {
        Note::Warning(text) => Some(text.as_str()),
        Note::Info(_) => None,
    });
    notes.collect()
}

#[test]
fn an_empty_seed_makes_a_clone_of_its_own() {
    let files = debian()
        .file("/etc/ssh/ssh_host_rsa_key", "old")
        .file("/etc/ssh/ssh_host_rsa_key.pub", "old")
        .file("/etc/ssh/sshd_config", "");
    let plan = planned(files, "{}", &material()).unwrap();
    let steps: Vec<_> = plan.describe().iter().map(|step| format!("{} {}", step.op, step.path)).collect();
    assert_eq!(steps, ["write /etc/machine-id", "remove /etc/ssh/ssh_host_rsa_key", "remove /etc/ssh/ssh_host_rsa_key.pub"]);
    assert_eq!(written(&plan, "/etc/machine-id").as_deref(), Some(""));
    assert_eq!(plan.notes, []);
}

#[test]
fn a_key_goes_to_its_account_once_with_the_modes_that_sshd_wants() {
    let files = debian().owned_file("/home/debian/.ssh/authorized_keys", 0o644, 1000, format!("# mine\n{ANA} else"));
    let yaml = format!(
        "host_keys: keep\nmachine_id: keep\nroot_keys: ['{ANA}', '{ANA} twice', '{RSA}']\nusers: [{{name: debian, ssh_keys: ['{ANA}']}}]"
    );
    let plan = planned(files, &yaml, &material()).unwrap();
    assert_eq!(written(&plan, "/root/.ssh/authorized_keys").unwrap(), format!("{ANA}\n{RSA}\n"));
    assert_eq!(owner_and_mode(&step(&plan, "create_dir", "/root/.ssh")), (Some(0), Some(0), Some("0700")));
    assert_eq!(owner_and_mode(&step(&plan, "append_line", "/root/.ssh/authorized_keys")), (Some(0), Some(0), Some("0600")));
    assert_eq!(owner_and_mode(&step(&plan, "create_dir", "/home/debian/.ssh")), (Some(1000), Some(1000), Some("0700")));
    assert_eq!(written(&plan, "/home/debian/.ssh/authorized_keys"), None, "the key is there already");
    assert_eq!(warnings(&plan), [] as [&str; 0]);
}

#[test]
fn a_key_that_is_there_with_options_is_left_with_a_warning() {
    let files = debian()
        .file("/root/.ssh/authorized_keys", format!("command=\"echo no\" {ANA}\n"))
        .file("/etc/ssh/sshd_config", "PermitRootLogin no\n");
    let plan = planned(files, &format!("root_keys: ['{ANA}']"), &material()).unwrap();
    assert_eq!(written(&plan, "/root/.ssh/authorized_keys"), None);
    assert_eq!(warnings(&plan).len(), 2, "{:?}", plan.notes);
}

#[test]
fn an_unknown_user_is_an_error_with_the_nearest_name() {
    let error = planned(debian(), &format!("users: [{{name: debain, ssh_keys: ['{ANA}']}}]"), &material()).unwrap_err();
    assert_eq!(error.to_string(), "the guest has no user `debain`; did you mean `debian`?");
}

#[test]
fn a_user_is_made_with_home_key_and_sudo() {
    let files = debian().file("/etc/skel/.config/a", "b").link("/etc/skel/link", "x");
    let yaml = format!(
        "users: [{{name: ana, create: true, sudo: true, ssh_keys: ['{ANA}']}}, {{name: bob, create: true, password_hash: $6$h}}]"
    );
    let plan = planned(files, &yaml, &material()).unwrap();
    let passwd = written(&plan, "/etc/passwd").unwrap();
    assert!(passwd.ends_with("ana:x:1001:1001::/home/ana:/bin/bash\nbob:x:1002:1002::/home/bob:/bin/bash\n"), "{passwd}");
    assert!(written(&plan, "/etc/shadow").unwrap().ends_with("ana:*:20000:0:99999:7:::\nbob:$6$h:20000:0:99999:7:::\n"));
    assert!(written(&plan, "/etc/group").unwrap().ends_with("ana:x:1001:\nbob:x:1002:\n"));
    assert!(written(&plan, "/etc/gshadow").unwrap().ends_with("ana:!::\nbob:!::\n"));
    assert_eq!(owner_and_mode(&step(&plan, "write", "/etc/shadow")), (None, None, None), "the file keeps its own");
    assert_eq!(owner_and_mode(&step(&plan, "create_dir", "/home/ana")), (Some(1001), Some(1001), Some("0700")));
    assert_eq!(owner_and_mode(&step(&plan, "write", "/home/ana/.bashrc")), (Some(1001), Some(1001), Some("0644")));
    assert_eq!(owner_and_mode(&step(&plan, "write", "/home/ana/.config/a")), (Some(1001), Some(1001), Some("0644")));
    assert_eq!(step(&plan, "symlink", "/home/ana/link").target.as_deref(), Some("x"));
    assert_eq!(
        owner_and_mode(&step(&plan, "append_line", "/home/ana/.ssh/authorized_keys")),
        (Some(1001), Some(1001), Some("0600"))
    );
    assert_eq!(written(&plan, "/etc/sudoers.d/90-vmimg-ana").as_deref(), Some("ana ALL=(ALL:ALL) NOPASSWD:ALL\n"));
    assert_eq!(owner_and_mode(&step(&plan, "write", "/etc/sudoers.d/90-vmimg-ana")), (Some(0), Some(0), Some("0440")));
    let homes: Vec<_> =
        plan.describe().into_iter().filter(|step| step.op == "create_dir" && step.path == "/home/ana").collect();
    assert_eq!(homes.len(), 1);
}

#[test]
fn a_password_replaces_the_hash_and_stays_secret() {
    let yaml = "root_password_hash: $y$new\nusers: [{name: debian, password_hash: $6$other}]";
    let plan = planned(debian(), yaml, &material()).unwrap();
    assert_eq!(written(&plan, "/etc/shadow").unwrap(), "root:$y$new:20000:0:99999:7:::\ndebian:$6$other:20000:0:99999:7:::\n");
    let text = format!("{:?}{}", seed(yaml), serde_json::to_string(&plan.describe()).unwrap());
    assert!(!text.contains("$y$") && !text.contains("$6$"));
    assert!(planned(debian(), "root_password_hash: 'a:b'", &material()).is_err());
}

#[test]
fn a_bad_user_name_is_refused() {
    for name in ["Ana", "a b", "a:b", "-a", "../x", "", "ñ"] {
        assert!(planned(debian(), &format!("users: [{{name: '{name}', create: true}}]"), &material()).is_err(), "{name}");
    }
}

#[test]
fn debian_gets_one_line_of_its_own_in_hosts() {
    let plan = planned(debian(), "hostname: web1\ndomain: example.org", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/hostname").as_deref(), Some("web1\n"));
    assert_eq!(
        written(&plan, "/etc/hosts").unwrap(),
        "127.0.0.1\tlocalhost\n127.0.1.1\tweb1.example.org web1\n::1\tlocalhost\n"
    );
    let plan = planned(alpine(), "hostname: web1", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/hosts"), None);
    for name in ["", "a_b", "-a", "a..b", "a b", &"a".repeat(64)] {
        assert!(planned(debian(), &format!("hostname: '{name}'"), &material()).is_err(), "{name}");
    }
}

#[test]
fn other_families_keep_the_host_name_elsewhere() {
    let old = FakeFiles::default()
        .file("/etc/os-release", "ID=centos\n")
        .dir("/bin")
        .file("/etc/inittab", "")
        .file("/etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=old\n");
    let plan = planned(old, "hostname: web1", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/sysconfig/network").unwrap(), "NETWORKING=yes\nHOSTNAME=web1\n");
    let pretty = debian().file("/etc/machine-info", "PRETTY_HOSTNAME=\"Old\"\nCHASSIS=vm\n");
    let plan = planned(pretty, "hostname: web1", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/machine-info").unwrap(), "PRETTY_HOSTNAME=web1\nCHASSIS=vm\n");
}

#[test]
fn the_machine_id_is_emptied_or_kept() {
    let files = FakeFiles::default()
        .file("/etc/os-release", "ID=debian\n")
        .dir("/usr")
        .file("/var/lib/dbus/machine-id", "old\n")
        .file("/etc/machine-id", "old");
    let plan = planned(files.clone(), "{}", &material()).unwrap();
    step(&plan, "remove", "/etc/machine-id");
    step(&plan, "remove", "/var/lib/dbus/machine-id");
    let plan =
        planned(files.clone().link("/sbin/init", "/lib/systemd/systemd").file("/lib/systemd/systemd", ""), "{}", &material());
    let plan = plan.unwrap();
    assert_eq!(written(&plan, "/etc/machine-id").as_deref(), Some(""), "systemd takes it for a first boot");
    step(&plan, "remove", "/var/lib/dbus/machine-id");
    assert!(planned(files, "machine_id: keep", &material()).unwrap().edits.is_empty());
}

#[test]
fn minted_host_keys_are_known_and_survive_cloud_init() {
    let files = debian().file("/etc/ssh/ssh_host_rsa_key", "old").file("/etc/ssh/ssh_host_ed25519_key", "old");
    let mut material = material();
    material.known_as = vec!["192.0.2.7".to_owned()];
    let plan = planned(files, "host_keys: mint\nhostname: web1\ndomain: example.org", &material).unwrap();
    assert_eq!(plan.known_hosts, ["web1.example.org,web1,192.0.2.7 ssh-ed25519 DDDD"]);
    assert_eq!(owner_and_mode(&step(&plan, "write", "/etc/ssh/ssh_host_ed25519_key")), (Some(0), Some(0), Some("0600")));
    assert_eq!(owner_and_mode(&step(&plan, "write", "/etc/ssh/ssh_host_ed25519_key.pub")), (Some(0), Some(0), Some("0644")));
    step(&plan, "remove", "/etc/ssh/ssh_host_rsa_key");
    assert!(
        written(&plan, "/etc/cloud/cloud.cfg.d/99-vmimg.cfg")
            .unwrap()
            .ends_with(".\nssh_deletekeys: false\nprefer_fqdn_over_hostname: false\n")
    );
    material.host_keys.clear();
    assert!(matches!(planned(debian(), "host_keys: mint", &material), Err(Error::MissingHostKeys)));
}

#[test]
fn cloud_init_leaves_the_keys_of_root_alone() {
    let yaml = format!("root_keys: ['{ANA}']");
    let plan = planned(debian(), &yaml, &material()).unwrap();
    assert!(written(&plan, "/etc/cloud/cloud.cfg.d/99-vmimg.cfg").unwrap().ends_with(".\ndisable_root: false\n"));
    let plan = planned(debian().file("/etc/cloud/cloud-init.disabled", ""), &yaml, &material()).unwrap();
    assert_eq!(written(&plan, "/etc/cloud/cloud.cfg.d/99-vmimg.cfg"), None);
}

#[test]
fn a_locked_account_of_an_alpine_gets_a_login_by_key() {
    let files = alpine().file("/etc/shadow", "root:!::0:::::\n");
    let plan = planned(files, &format!("root_keys: ['{ANA}']"), &material()).unwrap();
    assert_eq!(written(&plan, "/etc/shadow").as_deref(), Some("root:*::0:::::\n"));
    let plan = planned(debian(), &format!("users: [{{name: debian, ssh_keys: ['{ANA}']}}]"), &material()).unwrap();
    assert_eq!(written(&plan, "/etc/shadow"), None, "with PAM a locked password is no locked account");
}

#[test]
fn a_debian_that_will_not_make_host_keys_is_warned_about() {
    let files = debian().file("/etc/cloud/cloud-init.disabled", "");
    assert_eq!(warnings(&planned(files, "{}", &material()).unwrap()).len(), 1);
}

fn with_minion(files: FakeFiles) -> FakeFiles {
    files.file("/usr/bin/salt-minion", "").file("/usr/lib/systemd/system/salt-minion.service", "[Unit]\n")
}

#[test]
fn a_minion_is_preseeded_and_started() {
    let files = with_minion(debian())
        .file("/etc/salt/minion", "# stock\n#master: salt\n")
        .file("/etc/salt/pki/minion/minion_master.pub", "old")
        .file("/var/cache/salt/minion/x", "old");
    let finger = ["ab"; 32].join(":");
    let yaml = format!(
        "hostname: web1\nminion: {{master: [a, b], master_finger: '{finger}', config: {{log_level: 'on'}}, grains: {{role: web}}}}"
    );
    let plan = planned(files, &yaml, &material()).unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&written(&plan, "/etc/salt/minion").unwrap()).unwrap();
    assert_eq!(config, serde_json::json!({"id": "web1", "master": ["a", "b"], "master_finger": finger, "log_level": "on"}));
    assert_eq!(written(&plan, "/etc/salt/grains").as_deref(), Some("role: web\n"));
    assert_eq!(written(&plan, "/etc/salt/minion_id").as_deref(), Some("web1\n"));
    assert_eq!(
        written(&plan, "/etc/salt/pki/minion/minion.pem").unwrap(),
        "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"
    );
    for (op, path, mode) in [
        ("write", "/etc/salt/minion", "0644"),
        ("write", "/etc/salt/grains", "0644"),
        ("write", "/etc/salt/pki/minion/minion.pem", "0400"),
        ("write", "/etc/salt/pki/minion/minion.pub", "0644"),
        ("create_dir", "/etc/salt/pki", "0700"),
        ("create_dir", "/etc/salt/pki/minion", "0700"),
    ] {
        assert_eq!(owner_and_mode(&step(&plan, op, path)), (Some(0), Some(0), Some(mode)), "{path}");
    }
    step(&plan, "remove", "/etc/salt/pki/minion/minion_master.pub");
    step(&plan, "remove", "/var/cache/salt/minion");
    let link = step(&plan, "symlink", "/etc/systemd/system/multi-user.target.wants/salt-minion.service");
    assert_eq!(link.target.as_deref(), Some("/usr/lib/systemd/system/salt-minion.service"));
    let minion = plan.minion.as_ref().unwrap();
    assert_eq!(
        (minion.id.as_str(), minion.public.as_str()),
        ("web1", "-----BEGIN PUBLIC KEY-----\nBBBB\n-----END PUBLIC KEY-----\n")
    );
    assert_eq!(plan.notes, []);
}

#[test]
fn a_template_s_drop_ins_do_not_defeat_the_preseed() {
    let files = with_minion(debian())
        .file("/etc/salt/minion", "master: old\nhash_type: sha256\n")
        .file("/etc/salt/minion.d/master.conf", "master: older\npki_dir: /srv/keys/\n")
        .file("/etc/salt/minion.d/unrelated.conf", "beacons: {}\n");
    let plan = planned(files, "minion: {id: web1, master: new}", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/salt/minion").unwrap(), "hash_type: sha256\nid: web1\nmaster: new\n");
    assert_eq!(written(&plan, "/etc/salt/minion.d/99-vmimg.conf"), None, "a name in letters sorts after it");
    assert_eq!(written(&plan, "/etc/salt/minion.d/zz-vmimg.conf").unwrap(), "id: web1\nmaster: new\n");
    assert_eq!(owner_and_mode(&step(&plan, "write", "/srv/keys/minion.pem")), (Some(0), Some(0), Some("0400")));
    assert!(plan.notes[0].to_string().contains("minion.d/master.conf would override"), "{:?}", plan.notes);
    let early = with_minion(debian()).file("/etc/salt/minion.d/10-id.conf", "id: template\n");
    let plan = planned(early, "minion: {id: web1, master: new}", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/salt/minion.d/99-vmimg.conf").unwrap(), "id: web1\nmaster: new\n");
}

#[test]
fn a_configuration_that_is_not_understood_is_kept() {
    let files = with_minion(debian()).file("/etc/salt/minion", "{% jinja %}: [\n");
    let plan = planned(files, "minion: {id: web1, master: new}", &material()).unwrap();
    assert_eq!(written(&plan, "/etc/salt/minion"), None);
    assert_eq!(written(&plan, "/etc/salt/minion.d/99-vmimg.conf").unwrap(), "id: web1\nmaster: new\n");
    assert_eq!(warnings(&plan).len(), 1);
}

#[test]
fn a_minion_without_a_given_key_makes_its_own() {
    let mut material = material();
    material.minion_key = None;
    let files = with_minion(debian())
        .file("/etc/salt/pki/minion/minion.pem", "template")
        .file("/etc/salt/pki/minion/minion.pub", "template");
    let plan = planned(files, "minion: {id: web1, leftovers: keep}", &material).unwrap();
    step(&plan, "remove", "/etc/salt/pki/minion/minion.pem");
    step(&plan, "remove", "/etc/salt/pki/minion/minion.pub");
    assert_eq!(plan.minion, None);
}

#[test]
fn a_minion_id_is_a_safe_file_name() {
    for id in ["../x", "a/b", "a\\\\b", "", ".", "a b", "a\\u0000"] {
        let error = planned(debian(), &format!("minion: {{id: \"{id}\"}}"), &material()).unwrap_err();
        assert!(error.to_string().starts_with("the minion id"), "{id}: {error}");
    }
}

#[test]
fn openrc_starts_the_minion_by_its_runlevel() {
    let files = alpine().file("/usr/bin/salt-minion", "").file("/etc/init.d/salt-minion", "");
    let plan = planned(files, "minion: {id: a}", &material()).unwrap();
    assert_eq!(step(&plan, "symlink", "/etc/runlevels/default/salt-minion").target.as_deref(), Some("/etc/init.d/salt-minion"));
}

#[test]
fn files_are_written_where_links_and_mounts_lead() {
    let root = debian().file("/etc/fstab", "LABEL=root / ext4\nLABEL=srv /srv ext4\n").link("/www", "srv/www").dir("/srv");
    let volumes = [root.volume(1, "root"), FakeFiles::default().volume(2, "srv")];
    let tree = Tree::assemble(&volumes, None).unwrap();
    let guest = Guest::inspect(&tree).unwrap();
    let seed = seed(
        "machine_id: keep\nfiles: [{path: /www/a/index.html, source: S, owner: debian, mode: '0640', group: sudo}, {path: /etc/motd, content: hi}]",
    );
    let mut material = material();
    assert!(matches!(plan(&guest, &tree, &seed, &material), Err(Error::MissingSource(name)) if name == "S"));
    material.sources.insert("S".to_owned(), Content::from("page"));
    let plan = plan(&guest, &tree, &seed, &material).unwrap();
    let steps: Vec<_> = plan.describe().iter().map(|step| (step.partition.clone(), step.op, step.path.clone())).collect();
    assert_eq!(
        steps,
        [
            (1.into(), "write", "/etc/motd".to_owned()),
            (2.into(), "create_dir", "/www".to_owned()),
            (2.into(), "create_dir", "/www/a".to_owned()),
            (2.into(), "write", "/www/a/index.html".to_owned())
        ]
    );
    assert_eq!(owner_and_mode(&step(&plan, "write", "/www/a/index.html")), (Some(1000), Some(27), Some("0640")));
}

#[test]
fn a_file_below_a_mount_that_cannot_be_written_is_an_error() {
    let error = planned(debian(), "files: [{path: /boot/efi/EFI/x, content: ''}]", &material()).unwrap_err();
    assert!(error.to_string().contains("mounted at `/boot/efi`"), "{error}");
}

#[test]
fn files_of_the_seed_are_checked() {
    for file in [
        "{path: /a}",
        "{path: /a, content: a, source: b}",
        "{path: a, content: ''}",
        "{path: /a/../b, content: ''}",
        "{path: /a, content: '', mode: '999'}",
        "{path: /a, content: '', mode: '10000'}",
        "{path: /a, content: '', owner: nobody2}",
        "{path: /a, content: '', group: nogroup2}",
        "{path: /etc, content: ''}",
        "{path: /etc/passwd/x, content: ''}",
    ] {
        assert!(planned(debian(), &format!("files: [{file}]"), &material()).is_err(), "{file}");
    }
    let twice =
        "files: [{path: /etc/motd, content: a}, {path: /etc/../etc/motd, content: b}]".replace("/etc/../etc", "/etc/./");
    assert!(matches!(planned(debian(), &twice, &material()), Err(Error::Twice(_))));
}

#[test]
fn selinux_labels_are_those_of_the_guest_s_policy() {
    let files = |contexts: &str| {
        debian()
            .file("/etc/cloud/cloud-init.disabled", "")
            .file("/usr/sbin/load_policy", "")
            .file("/etc/selinux/config", "SELINUX=permissive\nSELINUXTYPE=targeted\n")
            .file("/etc/selinux/targeted/contexts/files/file_contexts", contexts)
    };
    let yaml = format!("machine_id: keep\nroot_keys: ['{ANA}']");
    let plan = planned(
        files("/root(/.*)? system_u:object_r:admin_home_t:s0\n/root/\\.ssh(/.*)? system_u:object_r:ssh_home_t:s0\n"),
        &yaml,
        &material(),
    )
    .unwrap();
    assert_eq!(step(&plan, "create_dir", "/root/.ssh").label.as_deref(), Some("system_u:object_r:ssh_home_t:s0"));
    assert_eq!(
        step(&plan, "append_line", "/root/.ssh/authorized_keys").label.as_deref(),
        Some("system_u:object_r:ssh_home_t:s0")
    );
    assert_eq!(written(&plan, "/.autorelabel"), None);
    let plan = planned(files(""), &yaml, &material()).unwrap();
    assert_eq!(written(&plan, "/.autorelabel").as_deref(), Some(""));
}

#[test]
fn time_zone_and_random_seed_are_set() {
    let mut material = material();
    material.random_seed = Some(super::RandomSeed(vec![7; 512]));
    let plan = planned(debian(), "timezone: Europe/Madrid", &material).unwrap();
    assert_eq!(step(&plan, "symlink", "/etc/localtime").target.as_deref(), Some("/usr/share/zoneinfo/Europe/Madrid"));
    assert_eq!(written(&plan, "/etc/timezone").as_deref(), Some("Europe/Madrid\n"));
    assert_eq!(step(&plan, "write", "/var/lib/systemd/random-seed").size, Some(512));
    for zone in ["Europe/Atlantis", "../../etc/passwd", ""] {
        assert!(planned(debian(), &format!("timezone: '{zone}'"), &material).is_err(), "{zone}");
    }
}

#[test]
fn a_step_reads_as_a_line_and_hides_what_a_terminal_would_obey() {
    let edit =
        Edit::Symlink { path: "/etc/a\u{1b}[2J".parse().unwrap(), target: "b".to_owned(), attributes: Attributes::default() };
    assert_eq!(Step::of(&VolumeId::Partition(1), &edit).to_string(), "symlink        1:/etc/a\u{fffd}[2J -> b");
    let edit = Edit::Write { path: "/a".parse().unwrap(), content: Content::from("abc"), attributes: Attributes::root(0o600) };
    assert_eq!(
        Step::of(&VolumeId::Partition(0), &edit).to_string(),
        "write          0:/a 0600 0:0 3 bytes sha256:ba7816bf8f01cfea"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_a_guest_s_files_are_planned_or_refused(
        which in 0_usize..11,
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        text in "([a-z#:/=*!+%-]{0,12}[ \t\n]){0,12}",
        as_text in any::<bool>(),
    ) {
        let paths = [
            "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/fstab", "/usr/lib/os-release", "/etc/hosts", "/root/.ssh/authorized_keys",
            "/etc/salt/minion", "/etc/login.defs", "/etc/ssh/sshd_config", "/etc/cloud/cloud.cfg",
        ];
        let content = if as_text { text.into_bytes() } else { bytes };
        let tree = Tree::assemble(&[with_minion(debian()).file(paths[which], content).volume(1, "root")], None).unwrap();
        if let Ok(guest) = Guest::inspect(&tree) {
            let yaml = format!("hostname: a\nroot_keys: ['{ANA}']\nroot_password_hash: x\nusers: [{{name: eve, create: true, ssh_keys: ['{ANA}']}}]\nminion: {{}}");
            if let Ok(plan) = plan(&guest, &tree, &seed(&yaml), &material()) {
                assert!(!plan.describe().is_empty());
            }
        }
    }
}
