//! Guests whose file systems mke2fs made are inspected and planned for; other programs read what comes of it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgcore::block::Slice;
use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Content, Edit, GuestPath};
use imgcore::partition::Table;
use imgcore::storage::{Access, FileDisk};
use seed::guest::{Family, Guest, Init, Network, SshServer, Tree, Volume, VolumeContent, VolumeNames};
use seed::plan::{HostKeys, KeyPair, Material, Planned, Secret, Seed, SeedMinion, SeedUser};
use tempfile::TempDir;
use vmimg_tests::tool::Tool;

/// Writes the files of a small Debian below `root`.
fn debian(root: &Path) {
    let files = [
        ("usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
        ("usr/lib/systemd/systemd", ""),
        ("usr/lib/systemd/system/salt-minion.service", "[Unit]\n"),
        ("usr/bin/salt-minion", ""),
        ("usr/bin/bash", ""),
        ("usr/bin/sudo", ""),
        ("usr/sbin/sshd", ""),
        ("usr/sbin/ifup", ""),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\ndebian:x:1000:1000::/home/debian:/bin/bash\n"),
        ("etc/shadow", "root:*:19000:0:99999:7:::\ndebian:!:19000:0:99999:7:::\n"),
        ("etc/group", "root:x:0:\ndebian:x:1000:\n"),
        ("etc/gshadow", "root:*::\ndebian:!::\n"),
        ("etc/hostname", "localhost\n"),
        ("etc/hosts", "127.0.0.1\tlocalhost\n"),
        ("etc/fstab", "LABEL=root / ext4 rw 0 1\nLABEL=data /srv ext4 rw 0 2\nLABEL=ESP /boot/efi vfat rw 0 1\n"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/skel/.profile", "# skel\n"),
        ("etc/sudoers", "@includedir /etc/sudoers.d\n"),
        ("etc/salt/minion", "# stock\n#master: salt\nfile_recv_max_size: 0144\ntcp_keepalive: yes\nmaster:\n  - old\n"),
        ("root/.profile", ""),
        ("home/debian/.profile", ""),
    ];
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::create_dir_all(root.join("boot/efi")).unwrap();
    fs::create_dir_all(root.join("srv")).unwrap();
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("etc/os-release", "../usr/lib/os-release"),
        ("usr/sbin/init", "/lib/systemd/systemd"),
        ("var", "srv/var"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
}

/// The file system that mke2fs makes of `root`.
fn volume(folder: &Path, partition: u32, label: &str, root: &Path) -> Volume {
    let image = folder.join(format!("{label}.ext4"));
    fs::File::create_new(&image).unwrap().set_len(16 << 20).unwrap();
    Tool::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-L", label, "-E", "root_owner=0:0", "-d"]).arg(root).arg(&image).run();
    let files = Ext4::open(FileDisk::open(&image, Access::Read).unwrap()).unwrap();
    let names = VolumeNames { label: Some(String::from_utf8(files.label()).unwrap()), ..VolumeNames::default() };
    Volume { partition: partition.into(), names, content: VolumeContent::Files(Arc::new(files)) }
}

/// A root, and a partition with `/var`, which the root reaches through a link.
fn guest() -> (TempDir, Guest, Tree) {
    let folder = tempfile::tempdir().unwrap();
    let (root, data) = (folder.path().join("root"), folder.path().join("data"));
    debian(&root);
    fs::create_dir_all(data.join("var/cache/salt/minion")).unwrap();
    let volumes = [volume(folder.path(), 1, "root", &root), volume(folder.path(), 2, "data", &data)];
    let tree = Tree::assemble(&volumes, None).unwrap();
    (folder, Guest::inspect(&tree).unwrap(), tree)
}

/// Does to the files below `roots`, by partition number, what a plan says, but for owners.
fn apply(planned: &Planned, roots: &[(u32, PathBuf)]) {
    for (partition, edits) in &planned.edits {
        let root = &roots.iter().find(|(number, _)| *partition == (*number).into()).unwrap().1;
        for edit in &edits.edits {
            let path = root.join(edit.path().as_str().trim_start_matches('/'));
            match edit {
                Edit::Write { content: Content::Bytes(bytes), .. } => fs::write(path, bytes).unwrap(),
                Edit::CreateDir { .. } => fs::create_dir_all(path).unwrap(),
                Edit::Symlink { target, .. } => symlink(target, path).unwrap(),
                Edit::AppendLine { line, .. } => {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    fs::write(path, format!("{text}{line}\n")).unwrap();
                }
                Edit::Remove { .. } if path.is_dir() => fs::remove_dir_all(path).unwrap(),
                Edit::Remove { .. } => fs::remove_file(path).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn seed() -> Seed {
    let mut seed = Seed {
        hostname: Some("web1".to_owned()),
        domain: Some("example.org".to_owned()),
        host_keys: HostKeys::Keep,
        ..Seed::default()
    };
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti ana@laptop".to_owned();
    seed.root_keys.push(key.clone());
    let hash = Some(Secret::new("$6$saltsalt$hash"));
    seed.users.push(SeedUser {
        name: "ana".to_owned(),
        create: true,
        sudo: true,
        password_hash: hash,
        ssh_keys: vec![key],
        ..Default::default()
    });
    let mut minion = SeedMinion { master: vec!["salt.example.org".to_owned()], ..Default::default() };
    minion.config.insert("log_level".to_owned(), "off".into());
    minion.grains.insert("serial".to_owned(), "0123".into());
    minion.grains.insert("since".to_owned(), "2026-01-01".into());
    minion.grains.insert("roles".to_owned(), serde_json::json!(["web", "no", "12:30:00", 5, true, null]));
    seed.minion = Some(minion);
    seed
}

fn plan(guest: &Guest, tree: &Tree, seed: &Seed, material: &Material) -> Result<Planned, seed::plan::Error> {
    seed::plan::plan(guest, tree, seed, material, || Ok(()))
}

fn material(folder: &Path) -> Material {
    let pem = folder.join("minion.pem");
    Tool::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(&pem).arg("2048").run();
    let public = Tool::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&pem).run();
    let pair = KeyPair { private: Secret::new(fs::read_to_string(&pem).unwrap()), public };
    Material { now: 1_767_225_600, minion_key: Some(pair), ..Material::default() }
}

#[test]
fn a_guest_on_file_systems_of_mke2fs_is_recognized() {
    let (_folder, guest, tree) = guest();
    assert_eq!((guest.os.family, guest.init, guest.ssh_server), (Family::Debian, Init::Systemd, Some(SshServer::Openssh)));
    assert_eq!(guest.network, [Network::Ifupdown]);
    assert_eq!(guest.user("debian").unwrap().home, "/home/debian");
    let minion = guest.salt_minion.unwrap();
    assert_eq!((minion.installed, minion.enabled), (true, false));
    assert_eq!(minion.leftovers, ["/var/cache/salt/minion"]);
    let place = tree.resolve(&GuestPath::new("/var/cache/salt").unwrap()).unwrap().place;
    assert_eq!((place.partition, place.path.as_str()), (2.into(), "/var/cache/salt"));
    let hidden = tree.resolve(&GuestPath::new("/boot/efi/x").unwrap()).unwrap_err();
    assert_eq!(hidden.to_string(), "`/boot/efi/x` is on LABEL=ESP, mounted at `/boot/efi`: it is not on this disk");
}

#[test]
fn accounts_keys_and_yaml_of_a_plan_are_what_other_programs_expect() {
    let (folder, guest, tree) = guest();
    let planned = plan(&guest, &tree, &seed(), &material(folder.path())).unwrap();
    assert!(planned.notes.is_empty(), "{:?}", planned.notes);
    let root = folder.path().join("root");
    apply(&planned, &[(1, root.clone()), (2, folder.path().join("data"))]);

    // pwck and grpck look at the home folders of this machine, which is not what is asked: only their syntax verdict counts.
    let verdict = Tool::new("pwck").args(["-r", "-q"]).arg(root.join("etc/passwd")).arg(root.join("etc/shadow")).output();
    let said = String::from_utf8_lossy(&verdict.stdout).into_owned();
    assert!(!said.contains("invalid") && !said.contains("no matching") && !said.contains("duplicate"), "{said}");
    Tool::new("grpck").arg("-r").arg(root.join("etc/group")).arg(root.join("etc/gshadow")).run();
    for home in ["root", "home/ana"] {
        let listed = Tool::new("ssh-keygen").arg("-lf").arg(root.join(home).join(".ssh/authorized_keys")).run();
        assert!(listed.contains("ana@laptop (ED25519)"), "{listed}");
    }
    assert_eq!(fs::read_to_string(root.join("etc/sudoers.d/90-vmimg-ana")).unwrap(), "ana ALL=(ALL:ALL) ALL\n");

    // PyYAML is what Salt reads its files with, by the rules of YAML 1.1.
    let read = "import json, sys, yaml; print(json.dumps([yaml.safe_load(open(name)) for name in sys.argv[1:]]))";
    let json = Tool::new("/usr/bin/python3")
        .args(["-c", read])
        .args(["minion", "grains"].map(|name| root.join("etc/salt").join(name)))
        .run();
    let expected = serde_json::json!([
        {
            "file_recv_max_size": 100, "tcp_keepalive": true, "log_level": "off", "id": "web1.example.org", "master": "salt.example.org",
        },
        { "serial": "0123", "since": "2026-01-01", "roles": ["web", "no", "12:30:00", 5, true, null] },
    ]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), expected);
    assert!(fs::read_to_string(root.join("etc/salt/minion")).unwrap().starts_with("# stock\n#master: salt\n"));

    let pki = root.join("etc/salt/pki/minion");
    let public = Tool::new("openssl").args(["rsa", "-pubout", "-in"]).arg(pki.join("minion.pem")).run();
    assert_eq!(public, planned.minion.as_ref().unwrap().public);
    assert_eq!(public, fs::read_to_string(pki.join("minion.pub")).unwrap());
    assert!(!folder.path().join("data/var/cache/salt/minion").exists());
    assert_eq!(fs::metadata(root.join("etc/machine-id")).unwrap().size(), 0);
}

#[test]
fn a_second_plan_adds_no_key_and_no_account() {
    let (folder, guest, tree) = guest();
    let material = material(folder.path());
    let first = plan(&guest, &tree, &seed(), &material).unwrap();
    let (root, data) = (folder.path().join("root"), folder.path().join("data"));
    apply(&first, &[(1, root.clone()), (2, data.clone())]);
    let again = tempfile::tempdir().unwrap();
    let volumes = [volume(again.path(), 1, "root", &root), volume(again.path(), 2, "data", &data)];
    let tree = Tree::assemble(&volumes, None).unwrap();
    let guest = Guest::inspect(&tree).unwrap();
    assert!(guest.salt_minion.as_ref().unwrap().enabled);
    let mut seed = seed();
    seed.users[0].password_hash = None;
    let second = plan(&guest, &tree, &seed, &material).unwrap();
    let steps = second.describe();
    for step in &steps {
        let repeated = step.op == "append_line"
            || step.op == "symlink"
            || ["/etc/passwd", "/etc/group", "/etc/hosts"].contains(&step.path.as_str());
        assert!(!repeated, "{step}");
    }
    assert!(steps.iter().any(|step| step.path == "/etc/salt/minion"));
}

#[test]
fn the_demo_image_is_a_debian_that_can_be_planned_for() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("demo.raw");
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/demo/demo.qcow2");
    Tool::new("qemu-img").args(["convert", "-q", "-f", "qcow2", "-O", "raw"]).arg(image).arg(&raw).run();
    let disk = FileDisk::open(&raw, Access::Read).unwrap();
    let table = Table::read(&disk).unwrap().unwrap();
    let entry = table.partition(1).unwrap();
    let files = Ext4::open(Slice::open(disk, entry.range).unwrap()).unwrap();
    let names = VolumeNames { part_uuid: Some(entry.part_uuid.clone()), ..VolumeNames::default() };
    let tree =
        Tree::assemble(&[Volume { partition: 1.into(), names, content: VolumeContent::Files(Arc::new(files)) }], None).unwrap();
    let guest = Guest::inspect(&tree).unwrap();
    assert_eq!((guest.os.family, guest.init), (Family::Debian, Init::Systemd));
    assert!(guest.cloud_init && guest.salt_minion.is_some() && guest.user("debian").is_some());
    let planned = plan(&guest, &tree, &seed(), &material(folder.path())).unwrap();
    assert!(planned.describe().iter().any(|step| step.path == "/root/.ssh/authorized_keys"));
}
