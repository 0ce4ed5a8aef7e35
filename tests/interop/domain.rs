//! libvirt and QEMU take the machines that are described to them.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmimg::context::Context;
use vmimg::domain::{
    Accelerator, Bus, Disk, DiskFormat, Domain, Export, Firmware, Forward, Link, MachineType, Nic, Server, Source,
};
use vmimg::error::ErrorKind;
use vmimg::hypervisor::{DomainState, Hypervisor as _, Qemu};
use vmimg_tests::tool::Tool;

#[test]
fn libvirt_takes_every_kind_of_domain_and_keeps_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    for domain in kinds(folder.path()).into_iter().chain([exported()]) {
        let xml = folder.path().join("domain.xml");
        fs::write(&xml, domain.to_xml().unwrap()).unwrap();
        Tool::new("virt-xml-validate").arg(&xml).arg("domain").run();
        let commands = format!("define --validate {}; dumpxml -- {}", xml.display(), quoted(&domain.name));
        let kept = Tool::new("virsh").args(["-q", "-c", "test:///default", &commands]).run();
        for kept_word in [
            format!("<memory unit='KiB'>{}</memory>", domain.memory_mib * 1024),
            format!("<domain type='{}'", domain.accelerator.domain_type()),
        ] {
            assert!(kept.contains(&kept_word), "libvirt keeps no {kept_word}:\n{kept}");
        }
        for nic in &domain.nics {
            let mac = nic.mac.unwrap().to_string();
            assert!(kept.contains(&mac), "libvirt keeps no {mac}:\n{kept}");
        }
    }
}

#[test]
fn libvirt_keeps_names_and_paths_that_look_like_xml() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d & 'q' \"<x>\".qcow2");
    for name in ["web1", "a&b", "a<b>", "q'uote\"s", "grüß"] {
        let mut domain = Domain::new(name);
        domain.disks.push(disk(&path, DiskFormat::Qcow2, Bus::Virtio));
        let xml = folder.path().join("domain.xml");
        fs::write(&xml, domain.to_xml().unwrap()).unwrap();
        let listed = Tool::new("virsh")
            .args(["-q", "-c", "test:///default"])
            .arg(format!("define --validate {}; list --all --name; domblklist -- {}", xml.display(), quoted(name)))
            .run();
        assert!(listed.lines().any(|line| line.trim() == name), "{name} in {listed}");
        assert!(listed.contains(path.to_str().unwrap()), "{} in {listed}", path.display());
    }
}

#[test]
fn qemu_runs_every_kind_of_domain_that_needs_no_libvirt_and_ends_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(&folder);
    for mut domain in kinds(folder.path()) {
        let alone = domain.nics.iter().all(|nic| matches!(nic.link, Link::User { .. }));
        if !alone {
            continue;
        }
        domain.accelerator = Accelerator::Qemu;
        let machine = folder.path().join("machine");
        fs::create_dir_all(&machine).unwrap();
        let qemu = Qemu::new(&context, &machine);
        assert_eq!(qemu.state().unwrap(), DomainState::ShutOff);
        qemu.define(&domain).unwrap();
        qemu.start(&domain).unwrap();
        assert_eq!(qemu.state().unwrap(), DomainState::Running);
        assert_eq!(qemu.start(&domain).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(qemu.undefine().unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(qemu.display().unwrap().is_some(), domain.vnc);
        if domain.vnc {
            assert!(qemu.display().unwrap().unwrap().starts_with("127.0.0.1:"));
        }
        qemu.shutdown().unwrap();
        qemu.destroy().unwrap();
        assert_eq!(qemu.state().unwrap(), DomainState::ShutOff);
        qemu.destroy().unwrap();
        qemu.undefine().unwrap();
    }
}

#[test]
fn a_recycled_process_id_is_not_taken_for_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(&folder);
    // Left by a QEMU that was killed; the number is now that of this test.
    fs::write(folder.path().join("qemu.pid"), format!("{}\n", std::process::id())).unwrap();
    let qemu = Qemu::new(&context, folder.path());
    assert_eq!(qemu.state().unwrap(), DomainState::ShutOff);
    qemu.destroy().unwrap();
}

#[test]
fn qemu_that_cannot_start_says_why_and_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(&folder);
    let mut domain = Domain::new("web1");
    domain.disks.push(disk(&folder.path().join("nothing.qcow2"), DiskFormat::Qcow2, Bus::Virtio));
    let qemu = Qemu::new(&context, folder.path());
    let error = qemu.start(&domain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Hypervisor);
    assert!(error.causes().concat().contains("No such file or directory"), "{:?}", error.causes());
    assert_eq!(qemu.state().unwrap(), DomainState::ShutOff);
}

/// Domains that together have everything a domain can have.
fn kinds(folder: &Path) -> Vec<Domain> {
    let small = |name: &str| {
        let mut domain = Domain::new(name);
        domain.memory_mib = 64;
        domain.disks.push(disk(&image(folder, "system.qcow2", "qcow2"), DiskFormat::Qcow2, Bus::Virtio));
        domain
    };
    let mut seeded = small("seeded");
    seeded.uuid = Some("5eed0000-0000-4000-8000-0000000000aa".parse().unwrap());
    seeded.smbios_serial = Some("ds=nocloud;s=http://x/,y".to_owned());
    seeded.seed = Some(image(folder, "seed, the.iso", "raw"));
    seeded.serial_log = Some(folder.join("console, the.log"));
    seeded.nics.push(nic(1, Link::User { forwards: vec![Forward { host: free_port(), guest: 22 }] }));
    seeded.nics.push(nic(2, Link::User { forwards: Vec::new() }));
    let mut sata = small("sata & old");
    sata.disks = vec![disk(&image(folder, "sata.raw", "raw"), DiskFormat::Raw, Bus::Sata)];
    sata.disks.push(disk(&image(folder, "system.qcow2", "qcow2"), DiskFormat::Qcow2, Bus::Virtio));
    sata.disks.push(Disk { read_only: true, ..disk(&image(folder, "data.raw", "raw"), DiskFormat::Raw, Bus::Virtio) });
    sata.seed = Some(image(folder, "seed.iso", "raw"));
    let mut old = small("old");
    old.machine = MachineType::Pc;
    old.vnc = true;
    old.vcpus = 2;
    let mut efi = small("efi");
    efi.firmware = Firmware::Efi;
    efi.accelerator = Accelerator::Kvm;
    let mut networks = small("networks");
    networks.nics.push(nic(3, Link::Bridge { bridge: "br0".to_owned() }));
    networks.nics.push(nic(4, Link::Network { network: "default".to_owned() }));
    vec![small("small"), seeded, sata, old, efi, networks]
}

/// A domain whose disks are exports.
fn exported() -> Domain {
    let mut domain = Domain::new("exported");
    for (export, server) in [
        ("", Server::Unix("/run/s & t.sock".into())),
        ("a \"b\"", Server::Tcp { host: "storage.example".to_owned(), port: 10809 }),
    ] {
        let source = Source::Export(Export { export: export.to_owned(), server });
        domain.disks.push(Disk { source, format: DiskFormat::Raw, bus: Bus::Virtio, read_only: false });
    }
    domain
}

fn disk(path: &Path, format: DiskFormat, bus: Bus) -> Disk {
    Disk { source: Source::File(path.to_owned()), format, bus, read_only: false }
}

fn nic(last: u8, link: Link) -> Nic {
    Nic { mac: Some(format!("52:54:00:00:00:{last:02x}").parse().unwrap()), link }
}

/// An empty image that qemu-img made.
fn image(folder: &Path, name: &str, format: &str) -> PathBuf {
    let path = folder.join(name);
    if !path.exists() {
        Tool::new("qemu-img").args(["create", "-q", "-f", format]).arg(&path).arg("1M").run();
    }
    path
}

/// A word for the shell that is inside virsh.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Surroundings whose sockets and caches are in `folder`.
fn context(folder: &TempDir) -> Context {
    Context::detached(folder.path().to_owned(), Box::new(std::io::sink()), Box::new(std::io::sink()))
        .with_variable("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .with_variable("XDG_RUNTIME_DIR", folder.path())
        .with_variable("XDG_CACHE_HOME", folder.path())
}
