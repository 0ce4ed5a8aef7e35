//! A Debian cloud image: prepared, booted, and finished by cloud-init.

use std::ffi::OsString;
use std::path::Path;

use vmimg_tests::host::Host;
use vmimg_tests::machine::{Guest, Machine};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");
const GIB: u64 = 1 << 30;

/// Prepares a machine of 4 GiB with a root key, an account, a file and a Salt minion's configuration.
fn prepare<'h>(host: &'h Host, name: &str, base: &Path, key: &Path, datasource: &str) -> Machine<'h> {
    let public = format!("{}.pub", key.display());
    let note = host.file("home/note", "from the host\n");
    let mut arguments: Vec<OsString> =
        [datasource, "--size", "4G", "--user", "ops", "--minion-master", "salt.example.org"].map(OsString::from).into();
    arguments.extend(["--hostname".into(), format!("{name}.example.org").into()]);
    arguments.extend(["--ssh-key".into(), public.clone().into()]);
    arguments.extend(["--ssh-key".into(), format!("root:{public}").into()]);
    arguments.extend(["--file".into(), format!("{}:/srv/note:0600", note.display()).into()]);
    Machine::prepare(host, name, base, arguments)
}

/// Asserts that cloud-init has finished without errors on the datasource, and that the guest is as it was prepared.
fn assert_finished(machine: &Machine<'_>, guest: &Guest<'_>, name: &str, key: &Path, datasource: &str) {
    let status = guest.run("root", key, "cloud-init status --wait --long");
    assert!(status.contains("status: done"), "{status}");
    assert!(status.contains(datasource), "{status}");
    let result = guest.run("root", key, "cat /run/cloud-init/result.json");
    assert!(result.contains("\"errors\": []"), "{result}");

    assert_eq!(guest.run("root", key, "hostname").trim().split('.').next(), Some(name));
    assert_eq!(guest.run("ops", key, "sudo -n id -u").trim(), "0", "the account may become root");
    assert_eq!(guest.run("root", key, "cat /srv/note; stat -c %a:%U /srv/note"), "from the host\n600:root\n");
    let minion = guest.run("root", key, "cat /etc/salt/minion; stat -c %a /etc/salt/pki/minion/minion.pem");
    assert!(minion.contains("salt.example.org") && minion.ends_with("400\n"), "{minion}");
    let root = guest.run("root", key, "findmnt -bno SIZE /");
    assert!(root.trim().parse::<u64>().unwrap() > 3 * GIB, "the root file system is grown: {root}");
    let uuid = guest.run("root", key, "cat /sys/class/dmi/id/product_uuid");
    assert_eq!(uuid.trim(), machine.text("/uuid"));
    let instance = guest.run("root", key, "cloud-init query instance_id");
    assert_eq!(instance.trim(), machine.text("/uuid"), "the instance id is the machine's UUID");
    let failed = guest.run("root", key, "systemctl --failed --no-legend --plain");
    assert_eq!(failed.trim(), "", "every service runs");
}

#[test]
fn cloud_init_finishes_on_a_config_drive_and_on_a_nocloud_seed_and_two_machines_differ() {
    let host = Host::new(PROGRAM);
    let base = host.image("debian-12");
    let key = host.key("operator");
    let seeds = [("web1", "--config-drive", "DataSourceConfigDrive"), ("web2", "--nocloud", "DataSourceNoCloud")];
    let machines = seeds.map(|(name, datasource, _)| prepare(&host, name, &base, &key, datasource));
    let start = ["--direct", "--accel", "qemu", "--wait", "ready", "--timeout", "600"];
    let guests = machines.each_ref().map(|machine| machine.boot(start));
    for ((machine, guest), (name, _, datasource)) in machines.iter().zip(&guests).zip(seeds) {
        assert_finished(machine, guest, name, &key, datasource);
    }
    for command in ["cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub", "cat /sys/class/net/e*/address"] {
        let [first, second] = guests.each_ref().map(|guest| guest.run("root", &key, command));
        assert!(!first.trim().is_empty() && first != second, "{command}: {first} and {second}");
    }
}
