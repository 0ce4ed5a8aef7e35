use imgcore::fs::GuestPath;

use super::fake::{FakeFiles, alpine, debian};
use super::{
    Error, Family, Guest, Init, Network, ReadOnlyRoot, SelinuxMode, SshServer, Tree, Volume, VolumeContent, VolumeId,
    VolumeNames,
};

fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

fn esp() -> Volume {
    Volume {
        partition: 15.into(),
        names: VolumeNames { label: Some("ESP".to_owned()), ..VolumeNames::default() },
        content: VolumeContent::Other("vfat is not supported".to_owned()),
    }
}

#[test]
fn a_debian_is_recognized() {
    let tree = Tree::assemble(&[debian().volume(1, "root"), esp()], None).unwrap();
    let guest = Guest::inspect(&tree).unwrap();
    assert_eq!((guest.os.id.as_str(), guest.os.version_id.as_deref(), guest.os.family), ("debian", Some("12"), Family::Debian));
    assert_eq!(guest.init, Init::Systemd);
    assert_eq!(guest.hostname.as_deref(), Some("localhost"));
    assert!(guest.cloud_init);
    assert_eq!(guest.ssh_server, Some(SshServer::Openssh));
    assert_eq!(guest.network, [Network::Netplan]);
    assert_eq!(guest.user("debian").unwrap().uid, 1000);
    assert_eq!((guest.salt_minion, guest.selinux), (None, None));
    assert_eq!(
        guest.mounts.iter().map(|mount| (mount.path.as_str(), mount.partition.clone())).collect::<Vec<_>>(),
        [("/", Some(1.into())), ("/boot/efi", None)]
    );
}

#[test]
fn an_alpine_is_recognized() {
    let (guest, _) = alpine().inspect();
    assert_eq!((guest.os.family, guest.init, guest.cloud_init), (Family::Alpine, Init::Openrc, false));
}

#[test]
fn a_red_hat_with_selinux_and_a_minion_is_recognized() {
    let (guest, _) = FakeFiles::default()
        .file("/etc/os-release", "ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n")
        .file("/usr/lib/systemd/systemd", "")
        .link("/usr/sbin/init", "../lib/systemd/systemd")
        .link("/sbin", "usr/sbin")
        .file("/usr/sbin/load_policy", "")
        .file("/usr/sbin/NetworkManager", "")
        .file("/etc/selinux/config", "# c\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
        .file("/etc/selinux/targeted/contexts/files/file_contexts", "")
        .file("/usr/lib/systemd/system/salt-minion.service", "")
        .file("/usr/bin/salt-minion", "")
        .link("/etc/systemd/system/salt-minion.service", "/dev/null")
        .file("/etc/salt/minion.d/master.conf", "master: old\n")
        .file("/etc/salt/pki/minion/minion.pem", "k")
        .inspect();
    assert_eq!((guest.os.family, guest.network.as_slice()), (Family::RedHat, [Network::NetworkManager].as_slice()));
    let selinux = guest.selinux.unwrap();
    assert_eq!((selinux.mode, selinux.kind.as_str()), (SelinuxMode::Enforcing, "targeted"));
    assert!(selinux.file_contexts.is_some());
    let minion = guest.salt_minion.unwrap();
    assert_eq!(minion.unit.as_deref(), Some("/usr/lib/systemd/system/salt-minion.service"));
    assert_eq!((minion.installed, minion.enabled, minion.masked), (true, false, true));
    assert_eq!(minion.leftovers, ["/etc/salt/pki/minion/minion.pem", "/etc/salt/minion.d/master.conf"]);
}

#[test]
fn links_are_followed_across_file_systems_and_never_out_of_the_guest() {
    let root = debian()
        .file("/etc/fstab", "LABEL=root / ext4\nLABEL=data /data ext4\nLABEL=var /data/var ext4\n")
        .link("/var/www", "/data/../data/www/./site")
        .link("/up", "../../../../etc/hostname")
        .link("/loop", "/loop2")
        .link("/loop2", "loop")
        .dir("/data");
    let data = FakeFiles::default().dir("/www/site").link("/back", "/etc/hostname").dir("/var");
    let var = FakeFiles::default().dir("/lib");
    let tree = Tree::assemble(&[data.volume(2, "data"), root.volume(1, "root"), var.volume(3, "var")], None).unwrap();
    assert_eq!(tree.root_partition(), 1.into());
    let place =
        |text: &str| tree.resolve(&path(text)).map(|resolved| (resolved.place.partition, resolved.place.path.to_string()));
    assert_eq!(place("/var/www/index.html").unwrap(), (2.into(), "/www/site/index.html".to_owned()));
    assert_eq!(place("/data/back").unwrap(), (1.into(), "/etc/hostname".to_owned()));
    assert_eq!(place("/data/var/lib/x/y").unwrap(), (3.into(), "/lib/x/y".to_owned()));
    assert_eq!(place("/data/var").unwrap(), (3.into(), "/".to_owned()));
    assert_eq!(place("/up").unwrap(), (1.into(), "/etc/hostname".to_owned()));
    assert_eq!(place("/bin/new").unwrap(), (1.into(), "/usr/bin/new".to_owned()));
    assert!(matches!(place("/loop/x"), Err(Error::TooManyLinks(_))));
    assert!(matches!(place("/etc/hostname/x"), Err(Error::NotFolder(_))));
    let parent = tree.resolve_parent(&path("/data/back")).unwrap();
    assert_eq!((parent.place.partition, parent.place.path.as_str()), (2.into(), "/back"));
}

#[test]
fn a_path_below_a_mount_that_cannot_be_used_is_an_error_that_names_it() {
    let tree = Tree::assemble(&[debian().volume(1, "root"), esp()], None).unwrap();
    let message = tree.resolve(&path("/boot/efi/EFI/x")).unwrap_err().to_string();
    assert_eq!(message, "`/boot/efi/EFI/x` is on LABEL=ESP, mounted at `/boot/efi`: vfat is not supported");
    assert!(!tree.exists("/boot/efi/EFI").unwrap());
    let tree = Tree::assemble(&[debian().volume(1, "root")], None).unwrap();
    assert!(tree.resolve(&path("/boot/efi")).unwrap_err().to_string().contains("not on this disk"));
}

#[test]
fn a_disk_without_a_root_says_what_it_holds() {
    let message =
        Tree::assemble(&[FakeFiles::default().dir("/lost+found").volume(1, "x"), esp()], None).unwrap_err().to_string();
    assert!(message.ends_with("partition 1 holds no operating system; partition 15: vfat is not supported"), "{message}");
}

#[test]
fn of_two_roots_the_one_that_mounts_itself_is_taken() {
    let rescue = debian().volume(2, "rescue");
    let both = [debian().volume(1, "root"), rescue];
    assert_eq!(Tree::assemble(&both, None).unwrap().root_partition(), 1.into());
    assert_eq!(Tree::assemble(&both, Some(&2.into())).unwrap().root_partition(), 2.into());
    let twins = [alpine().volume(1, "a"), alpine().volume(2, "b")];
    assert!(
        matches!(Tree::assemble(&twins, None), Err(Error::SeveralRoots(roots)) if roots == [1, 2].map(VolumeId::Partition))
    );
}

#[test]
fn systems_with_a_root_that_is_not_what_it_seems_are_refused() {
    let ostree = FakeFiles::default().dir("/ostree/repo").dir("/boot").volume(3, "root");
    assert!(matches!(Tree::assemble(&[ostree], None), Err(Error::ReadOnly(ReadOnlyRoot::Ostree))));
    let mut usr = esp();
    usr.names.part_label = Some("USR-A".to_owned());
    assert!(matches!(Tree::assemble(&[usr, debian().volume(9, "ROOT")], None), Err(Error::ReadOnly(ReadOnlyRoot::Flatcar))));
    let micro = FakeFiles::default().file("/etc/os-release", "ID=opensuse-microos\n").dir("/usr").volume(1, "r");
    let tree = Tree::assemble(&[micro], None).unwrap();
    assert!(matches!(Guest::inspect(&tree), Err(Error::ReadOnly(ReadOnlyRoot::MicroOs))));
}

#[test]
fn an_inspection_is_json() {
    let (guest, _) = debian().inspect();
    let json = serde_json::to_value(&guest).unwrap();
    assert_eq!(json["os"]["family"], "debian");
    assert_eq!(json["init"], "systemd");
    assert_eq!(json["users"][0]["home"], "/root");
}

#[test]
fn a_table_whose_mount_points_take_minutes_to_find_is_refused() {
    // Each link says its folder 800 times, and the next link.
    let mut files = debian().dir("/d");
    for at in 0..39 {
        files = files.link(&format!("/l{at}"), &format!("{}l{}", "d/../".repeat(800), at + 1));
    }
    let files = files.dir("/l39");
    let lines = |count: usize, point: &str| {
        let line = |at: usize| format!("LABEL=x /{point}{at} ext4\n");
        format!("LABEL=root / ext4\n{}", (0..count).map(line).collect::<String>())
    };
    let mut begun = std::time::Instant::now();
    for table in [lines(250, "l0/x"), lines(300, "srv")] {
        let tree = Tree::assemble(&[files.clone().file("/etc/fstab", table).volume(1, "root")], None);
        assert!(matches!(tree, Err(Error::TooManyMounts)));
    }
    assert!(begun.elapsed().as_secs() < 10);
    let tree = Tree::assemble(&[files.clone().file("/etc/fstab", lines(200, "srv/data")).volume(1, "root")], None).unwrap();
    assert_eq!(tree.mounts().count(), 201);
    // One such path is followed as Linux would, or not for long.
    begun = std::time::Instant::now();
    assert!(matches!(tree.resolve(&path("/l0/x")), Err(Error::TooManyLinks(_))));
    assert!(tree.resolve(&path("/l35/x")).is_ok());
    assert!(begun.elapsed().as_secs() < 10);
}
