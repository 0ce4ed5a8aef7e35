//! The main job, end to end: prepare and boot, by QEMU directly and by libvirt.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use vmimg_tests::disk;
use vmimg_tests::host::Host;
use vmimg_tests::libvirt::{self, Libvirt};
use vmimg_tests::machine::{Guest, Machine};
use vmimg_tests::plan::Plan;
use vmimg_tests::tool::Tool;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");
const GIB: u64 = 1 << 30;

/// A machine with everything that `prepare` puts into a guest, and what is expected of it.
struct Seeded<'h> {
    host: &'h Host,
    machine: Machine<'h>,
    plan: Plan,
    root_key: PathBuf,
    user_key: PathBuf,
}

impl<'h> Seeded<'h> {
    /// Prepares the machine. Equal seed values give equal SSH ports, so each test has its own.
    fn prepare(host: &'h Host, seed_value: &str) -> Self {
        let base = host.image("tiny");
        let (root_key, user_key) = (host.key("root"), host.key("user"));
        let masters_keys = host.folder("home/minions");
        let application = host.file("home/application.conf", "listen = 80\n");
        let mut arguments: Vec<OsString> =
            ["--size", "2G", "--hostname", "web1.example.org", "--seed-value", seed_value].map(OsString::from).into();
        arguments.extend(
            ["--minion-master", "salt.example.org", "--minion-grain", "role=web", "--config-drive"].map(OsString::from),
        );
        arguments.extend(["--ephemeral", "100M", "--swap", "16M"].map(OsString::from));
        arguments.extend(["--master-keys".into(), masters_keys.into_os_string()]);
        arguments.extend(["--ssh-key".into(), format!("root:{}.pub", root_key.display()).into()]);
        arguments.extend(["--ssh-key".into(), format!("debian:{}.pub", user_key.display()).into()]);
        arguments.extend(["--user".into(), "ops".into()]);
        arguments.extend(["--ssh-key".into(), format!("ops:{}.pub", user_key.display()).into()]);
        arguments.extend(["--file".into(), format!("{}:/opt/app/application.conf:0640:debian", application.display()).into()]);
        // The guest reports the paths that it is told of: those of the plan.
        let paths = Self::plan(host, &base, &arguments).paths().join("\n") + "\n/etc/vmimg-facts\n";
        let list = host.file("home/paths", paths);
        arguments.extend(["--file".into(), format!("{}:/etc/vmimg-facts", list.display()).into()]);
        let plan = Self::plan(host, &base, &arguments);
        let machine = Machine::prepare(host, "web1", &base, &arguments);
        Self { host, machine, plan, root_key, user_key }
    }

    fn plan(host: &Host, base: &std::path::Path, arguments: &[OsString]) -> Plan {
        let prepare = host.vmimg().args(["prepare", "web1", "--dry-run", "--json", "--image"]).arg(base);
        Plan::read(&prepare.args(arguments).run())
    }

    /// Asserts that the guest's own report equals the plan, and that its keys open it.
    fn assert_seen_by(&self, guest: &Guest<'_>) {
        let facts = guest.facts();
        self.plan.assert_reported(&facts);
        assert_eq!(facts.get("hostname"), "web1.example.org");
        assert_eq!(facts.get("machine_id"), "", "every machine makes its own");

        assert_eq!(facts.number("disk_bytes"), 2 * GIB);
        assert!(facts.number("partition_bytes") > 2 * GIB - (16 << 20), "the partition is grown: {facts:?}");
        assert!(facts.number("root_bytes") > 2 * GIB - (80 << 20), "the file system is grown: {facts:?}");

        assert_eq!(facts.get("product_uuid"), self.machine.text("/uuid"), "the SMBIOS UUID is the machine's");
        let nic = facts.about("nic", "eth0");
        assert_eq!(nic["mac"], self.machine.text("/domain/nics/0/mac"));
        assert_eq!(facts.get("seed"), "config-2");
        self.assert_seed_is_what_the_guest_reads(&facts.all("seed_file"), guest);

        let known = self.machine.record("/guest/known_hosts").to_string();
        assert!(known.contains("ssh-ed25519"), "the host keys are minted: {known}");
        let minion = fs::read_to_string(self.host.path("home/minions/web1.example.org")).unwrap();
        let in_guest = &facts.about("file", "/etc/salt/pki/minion/minion.pub")["sha256"];
        assert_eq!(*in_guest, disk::digest_of(minion.as_bytes()), "the master accepts the minion's key");

        assert_eq!(guest.run("root", &self.root_key, "hostname; id -u"), "web1.example.org\n0\n");
        assert_eq!(guest.run("debian", &self.user_key, "id -un; cat /opt/app/application.conf"), "debian\nlisten = 80\n");
        let disks = "mkdir -p /mnt; mount -t ext4 LABEL=ephemeral0 /mnt && grep -o '^/dev/vdb /mnt ext4' /proc/mounts
            swapon /dev/vdc && grep -o '^/dev/vdc' /proc/swaps";
        let seen = "/dev/vdb /mnt ext4\n/dev/vdc\n";
        assert_eq!(guest.run("root", &self.root_key, disks), seen, "the data disks are there, in order");
        assert_eq!(guest.run("ops", &self.user_key, "id -un; pwd"), "ops\n/home/ops\n", "the account is made");
    }

    /// Compares the seed that another program reads from the ISO file with what the guest has read.
    fn assert_seed_is_what_the_guest_reads(&self, files: &[&str], guest: &Guest<'_>) {
        let facts = guest.facts();
        let out = self.host.path("seed");
        Tool::new("xorriso")
            .args(["-osirrox", "on", "-indev"])
            .arg(self.machine.seed())
            .args(["-extract", "/"])
            .arg(&out)
            .run();
        assert!(files.contains(&"openstack/latest/meta_data.json"), "{files:?}");
        for file in files {
            assert_eq!(facts.about("seed_file", file)["sha256"], disk::digest(&out.join(file)), "{file}");
        }
        let meta = fs::read_to_string(out.join("openstack/latest/meta_data.json")).unwrap();
        assert!(meta.contains(self.machine.text("/uuid")), "the instance id is the machine's UUID: {meta}");
        let network = fs::read_to_string(out.join("openstack/latest/network_data.json")).unwrap();
        assert!(network.contains(self.machine.text("/domain/nics/0/mac")), "{network}");
    }
}

#[test]
fn a_guest_started_by_qemu_is_what_prepare_planned() {
    let host = Host::new(PROGRAM);
    let seeded = Seeded::prepare(&host, "started by QEMU");
    let guest = seeded.machine.boot(["--direct", "--accel", "qemu", "--wait", "ready", "--marker", "VMIMG-READY"]);
    seeded.assert_seen_by(&guest);
}

#[test]
fn a_guest_started_by_libvirt_is_what_prepare_planned() {
    let host = Host::new(PROGRAM);
    let libvirt = Libvirt::start(&host);
    let seeded = Seeded::prepare(&host, "started by libvirt");
    host.tool("virt-xml-validate").arg(seeded.machine.folder().join("domain.xml")).arg("domain").run();
    {
        let guest = seeded.machine.boot(["--connect", libvirt::URI, "--accel", "qemu", "--wait", "ready"]);
        assert_eq!(libvirt.virsh(["domstate", "web1"]).trim(), "running");
        seeded.assert_seen_by(&guest);
    }
    assert_eq!(libvirt.virsh(["domstate", "web1"]).trim(), "shut off");
    host.vmimg().args(["remove", "web1"]).run();
    assert_eq!(libvirt.virsh(["list", "--all", "--name"]).trim(), "", "remove undefines the domain");
}
