//! The commands that work on prepared machines.

use std::fs;

use imgcore::block::BlockRead as _;
use vmimg::domain::{Bus, Disk, DiskFormat, Domain, Link, Nic, Source};
use vmimg::machine::{BaseRecord, DiskRecord, FileIdentity, GuestRecord, Machine, RECORD_FILE, State};
use vmimg_tests::sandbox::{Outcome, Sandbox};

use crate::sandbox;

/// A sandbox with a machine `web1` on an empty base, as `vmimg prepare` leaves one.
struct Machines(Sandbox);

impl Machines {
    fn new() -> Self {
        let machines = Self(sandbox());
        machines.0.file("base.raw", vec![0; 1 << 20]);
        let folder = machines.0.path("r/web1");
        fs::create_dir_all(&folder).unwrap();
        let disk = folder.join("disk.qcow2");
        let base = machines.0.path("base.raw");
        let create = machines.0.tool("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
        create.arg(&base).arg(&disk).run();
        let mut domain = Domain::new("web1");
        domain.uuid = Some("5eed0000-0000-4000-8000-0000000000aa".parse().unwrap());
        domain.memory_mib = 32;
        domain.disks.push(Disk { source: Source::File(disk), format: DiskFormat::Qcow2, bus: Bus::Virtio, read_only: false });
        domain.nics.push(Nic { mac: None, link: Link::User { forwards: Vec::new() } });
        fs::write(folder.join("domain.xml"), domain.to_xml().unwrap()).unwrap();
        let identity = FileIdentity::of(&base).unwrap();
        let record = Machine {
            format: 1,
            name: "web1".parse().unwrap(),
            state: State::Ready,
            created: 1_767_225_600,
            uuid: domain.uuid.unwrap(),
            base: BaseRecord {
                reference: "./base.raw".to_owned(),
                path: base,
                format: "raw".to_owned(),
                identity,
                sha256: None,
            },
            disk: DiskRecord { file: Some("disk.qcow2".to_owned()), export: None, format: "qcow2".to_owned(), size: 1 << 20 },
            data: Vec::new(),
            seed: None,
            domain,
            guest: GuestRecord { os: "Debian 12".to_owned(), hostname: "web1".to_owned(), ..GuestRecord::default() },
        };
        fs::write(folder.join(RECORD_FILE), serde_json::to_string(&record).unwrap()).unwrap();
        machines
    }

    fn run(&self, line: &str) -> Outcome {
        let program = self.0.program().env("VMIMG_ROOT", self.0.path("r")).env("XDG_RUNTIME_DIR", self.0.path("home"));
        self.0.outcome(program.args(line.split_whitespace()).output())
    }

    #[track_caller]
    fn done(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!(outcome.status, 0, "vmimg {line}\n{outcome}");
        outcome.stdout
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        drop(self.run("stop web1 --force"));
    }
}

#[test]
fn a_machine_is_listed_shown_and_verified() {
    let machines = Machines::new();
    insta::assert_snapshot!(machines.done("list"), @r"
    NAME  STATE     SSH   DISK  MEMORY  CPUS  OS         BASE
    web1  shut off       1 MiB  32 MiB     1  Debian 12  ./base.raw
    ");
    insta::assert_snapshot!(machines.done("show web1"), @r"
    name       web1
    state      shut off
    guest      Debian 12, host name web1
    uuid       5eed0000-0000-4000-8000-0000000000aa
    memory     32 MiB
    processors 1
    disk       1 MiB, [SANDBOX]/r/web1/disk.qcow2
    base       ./base.raw, [SANDBOX]/base.raw
    interface  any address, QEMU's own network
    ");
    insta::assert_snapshot!(machines.done("verify"), @"web1: ok");
}

#[test]
fn a_machine_that_is_not_there_is_not_found() {
    let machines = Machines::new();
    for verb in ["boot", "show", "verify", "stop", "remove", "console", "ssh"] {
        assert_eq!(machines.run(&format!("{verb} web2")).status, 3, "{verb}");
    }
    insta::assert_snapshot!(machines.run("show web2"), @r"
    exit status 3
    --- stderr
    error: there is no machine `web2`

    hint: did you mean `web1`?
    ");
}

#[test]
fn a_machine_runs_until_it_is_stopped_and_then_can_be_removed() {
    let machines = Machines::new();
    let booted = machines.done("boot web1 --direct --accel qemu");
    assert!(booted.starts_with("web1 runs (QEMU, without KVM)\nssh: vmimg ssh web1, or port "), "{booted}");
    assert_eq!(machines.run("boot web1 --direct --accel qemu").status, 6);
    assert_eq!(machines.run("remove web1").status, 6);
    assert!(machines.done("list").contains("web1  running"));
    assert_eq!(machines.run("verify web1").status, 0);
    assert_eq!(machines.run("stop web1 --timeout 1").status, 9, "a machine without a system does not shut down");
    machines.done("stop web1 --force");
    machines.done("stop web1");
    assert!(machines.done("list").contains("web1  shut off"));
    machines.done("remove web1");
    assert_eq!(fs::read_dir(machines.0.path("r")).unwrap().count(), 0);
    assert_eq!(machines.0.names(), ["base.raw", "r"]);
}

#[test]
fn a_guest_that_never_gets_ready_is_given_up_and_keeps_running() {
    let machines = Machines::new();
    let outcome = machines.run("boot web1 --direct --accel qemu --wait ready --timeout 1");
    assert_eq!(outcome.status, 9, "{outcome}");
    assert!(machines.done("list").contains("web1  running"));
    machines.done("remove web1 --force");
    assert_eq!(machines.done("list"), "");
}

#[test]
fn a_machine_whose_base_has_changed_does_not_start() {
    let machines = Machines::new();
    fs::write(machines.0.path("base.raw"), vec![1; 1 << 20]).unwrap();
    insta::assert_snapshot!(machines.run("boot web1 --direct --accel qemu"), @r"
    exit status 6
    --- stderr
    error: the base image `[SANDBOX]/base.raw` has changed (its time or its inode) since the machine was prepared

    hint: put the old image back, or remove the machine and prepare it again
    ");
    assert_eq!(machines.run("verify web1").status, 4);
    fs::remove_file(machines.0.path("base.raw")).unwrap();
    assert_eq!(machines.run("boot web1 --direct --accel qemu").status, 6);
}

#[test]
fn a_machine_in_use_by_another_program_is_not_removed() {
    let machines = Machines::new();
    let disk = imgcore::storage::FileDisk::open(&machines.0.path("r/web1/disk.qcow2"), imgcore::storage::Access::ReadWrite);
    let disk = disk.unwrap();
    assert!(disk.size() > 0);
    let lock = imgcore::storage::Lock::acquire(&disk, imgcore::storage::LockKind::Write).unwrap();
    assert_eq!(machines.run("remove web1").status, 6);
    drop((lock, disk));
    machines.done("remove web1");
}

#[test]
fn a_libvirt_that_does_not_answer_is_an_error_when_it_was_asked_for() {
    let machines = Machines::new();
    let outcome = machines.run("boot web1 --accel qemu --connect qemu+unix:///session?socket=/nonexistent");
    assert_eq!(outcome.status, 8, "{outcome}");
    assert!(outcome.stderr.contains("hint: `--direct` runs QEMU without libvirt"), "{outcome}");
}

#[test]
fn a_record_that_is_broken_is_corrupt_and_its_machine_can_still_be_removed() {
    let machines = Machines::new();
    fs::write(machines.0.path("r/web1/machine.json"), "{}").unwrap();
    assert_eq!(machines.run("boot web1 --direct").status, 4);
    fs::write(machines.0.path("r/web1/boot.json"), "{}").unwrap();
    assert_eq!(machines.run("remove web1").status, 4);
    machines.done("remove web1 --force");
    assert!(!machines.0.path("r/web1").exists());
}
