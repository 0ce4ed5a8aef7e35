//! Machines whose disk is an export.

use std::fs;
use std::path::Path;

use vmimg_tests::disk::assert_sound;
use vmimg_tests::sandbox::{Outcome, Sandbox};

use crate::PROGRAM;
use crate::peer::Peer;
use crate::proxy::{Cut, Proxy};

/// A sandbox with `base.qcow2`, a guest, and a key.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/demo/demo.qcow2");
    sandbox.file("base.qcow2", fs::read(demo).unwrap());
    sandbox.tool("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", "key"]).run();
    sandbox
}

fn empty(sandbox: &Sandbox, format: &str, size: &str) {
    assert_eq!(sandbox.qemu_img(&format!("create -q -f {format} target.{format} {size}")).status, 0);
}

fn vmimg(sandbox: &Sandbox, line: &str) -> Outcome {
    let program = sandbox.program().env("VMIMG_ROOT", sandbox.path("machines")).env("XDG_RUNTIME_DIR", sandbox.path("home"));
    sandbox.outcome(program.args(line.split_whitespace()).output())
}

fn prepare(sandbox: &Sandbox, uri: &str, rest: &str) -> Outcome {
    let line = format!("prepare web1 --image ./base.qcow2 --ssh-key key.pub --nocloud --seed-value s --target {uri} {rest}");
    vmimg(sandbox, &line)
}

#[track_caller]
fn assert_done(outcome: &Outcome) {
    assert_eq!(outcome.status, 0, "{outcome}");
}

#[test]
fn an_export_becomes_the_grown_and_seeded_disk_of_a_machine() {
    for (program, line, format) in [
        ("qemu-nbd", "-t -f raw -e 8 -k SOCKET target.raw", "raw"),
        ("qemu-nbd", "-t -f qcow2 -k SOCKET target.qcow2", "qcow2"),
        ("nbdkit", "-f -U SOCKET file target.raw", "raw"),
    ] {
        let sandbox = sandbox();
        empty(&sandbox, format, "300M");
        let key = fs::read_to_string(sandbox.path("key.pub")).unwrap();
        let peer = Peer::start(&sandbox, program, line);
        let plan = prepare(&sandbox, &peer.uri, "--dry-run");
        assert!(plan.status == 0 && plan.stdout.contains("300M") && plan.stdout.contains("grown"), "{plan}");
        assert_done(&prepare(&sandbox, &peer.uri, ""));
        let record = fs::read(sandbox.path("machines/web1/machine.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let socket = sandbox.path(peer.uri.split_once('=').unwrap().1).display().to_string();
        assert_eq!(record["disk"]["export"].as_str(), Some(format!("nbd+unix:///?socket={socket}").as_str()));
        assert_eq!(record["domain"]["disks"][0]["path"]["server"]["unix"].as_str(), Some(socket.as_str()));
        assert!(!sandbox.path("machines/web1/disk.qcow2").exists());
        assert!(sandbox.path("machines/web1/seed.iso").exists());
        let xml = fs::read_to_string(sandbox.path("machines/web1/domain.xml")).unwrap();
        assert!(xml.contains("<disk type=\"network\" device=\"disk\">") && xml.contains("protocol=\"nbd\""), "{xml}");
        sandbox.tool("virt-xml-validate").args(["machines/web1/domain.xml", "domain"]).run();
        assert_done(&vmimg(&sandbox, "verify"));
        assert!(vmimg(&sandbox, "show web1").stdout.contains("nbd+unix:///?socket="));
        assert_eq!(sandbox.done(&format!("disk cat {} /root/.ssh/authorized_keys", peer.uri)), key);
        if line.contains("-e 8") {
            assert_done(&vmimg(&sandbox, "boot web1 --direct --accel qemu"));
            assert_done(&vmimg(&sandbox, "stop web1 --force"));
        }
        // What is there is not lost by accident.
        assert_done(&vmimg(&sandbox, "remove web1"));
        let again = prepare(&sandbox, &peer.uri, "");
        assert!(again.status == 6 && again.stderr.contains("holds something") && again.stderr.contains("--force"), "{again}");
        assert_done(&prepare(&sandbox, &peer.uri, "--force"));
        drop(peer);
        let copy = format!("convert -f {format} -O qcow2 target.{format} disk.qcow2");
        assert_eq!(sandbox.qemu_img(&copy).status, 0);
        assert_sound(&sandbox.path("disk.qcow2"), &sandbox.path(""));
        let df = sandbox.done("disk df --json disk.qcow2");
        let df: serde_json::Value = serde_json::from_str(&df).unwrap();
        assert!(df["size"].as_u64().unwrap() > 280 << 20, "{df}");
    }
}

#[test]
fn machines_of_a_file_have_exports_of_their_own_and_data_disks_in_files() {
    let sandbox = sandbox();
    empty(&sandbox, "raw", "300M");
    let peer = Peer::start(&sandbox, "qemu-nbd", "-t -f raw -e 8 -k SOCKET target.raw");
    let machines = |machines: &str| {
        let defaults = "image: ./base.qcow2, datasource: none, swap: 1M, ephemeral: [10M]";
        sandbox.file("machines.yaml", format!("defaults: {{{defaults}}}\nmachines: {{{machines}}}\n"));
    };
    let target = format!("target: '{}'", peer.uri);
    machines(&format!("web1: {{{target}}}, web2: {{{target}}}"));
    let outcome = vmimg(&sandbox, "prepare -f machines.yaml");
    assert!(outcome.status == 2 && outcome.stderr.contains("`web1` and `web2` have one target"), "{outcome}");
    machines(&format!("web1: {{{target}, size: 1G}}"));
    let outcome = vmimg(&sandbox, "prepare -f machines.yaml");
    assert!(outcome.status == 2 && outcome.stderr.contains("`size: null`"), "{outcome}");
    assert!(fs::read(sandbox.path("target.raw")).unwrap().iter().all(|byte| *byte == 0));
    machines(&format!("web1: {{{target}}}, web2: "));
    assert_done(&vmimg(&sandbox, "prepare -f machines.yaml"));
    for machine in ["web1", "web2"] {
        let has = |name: &str| sandbox.path(format!("machines/{machine}/{name}")).exists();
        assert!(has("disk.eph0") && has("disk.swap") && has("disk.qcow2") == (machine == "web2"));
    }
    assert_done(&vmimg(&sandbox, "verify"));
    assert_done(&vmimg(&sandbox, "boot web1 --direct --accel qemu"));
    assert_done(&vmimg(&sandbox, "stop web1 --force"));
    assert_done(&vmimg(&sandbox, "remove web1 web2"));
    assert_eq!(vmimg(&sandbox, "prepare -f machines.yaml web1").status, 6, "it holds something");
    assert_done(&vmimg(&sandbox, "prepare -f machines.yaml web1 --force"));
    assert_eq!(prepare(&sandbox, &peer.uri, "--via nbd --dry-run").status, 5);
}

#[test]
fn a_preparation_that_is_cut_leaves_no_machine_and_nothing_that_boots() {
    let sandbox = sandbox();
    // What was there before does not show through.
    let old = vec![0x55; 96 << 20];
    let whole = {
        sandbox.file("target.raw", &old);
        let peer = Peer::start(&sandbox, "qemu-nbd", "-t -f raw -e 8 -k SOCKET target.raw");
        let proxy = Proxy::start(&sandbox, &peer.uri, Cut::Never);
        assert_done(&prepare(&sandbox, &proxy.uri, "--force"));
        assert_done(&vmimg(&sandbox, "remove web1"));
        (proxy.changes().len(), fs::read(sandbox.path("target.raw")).unwrap())
    };
    let last = whole.0;
    for change in [0, 1, 2, last / 2, last - 3, last - 2, last - 1] {
        sandbox.file("target.raw", &old);
        let peer = Peer::start(&sandbox, "qemu-nbd", "-t -f raw -e 8 -k SOCKET target.raw");
        let proxy = Proxy::start(&sandbox, &peer.uri, Cut::Change(change));
        let outcome = prepare(&sandbox, &proxy.uri, "--force");
        assert!(outcome.status != 0 && outcome.stderr.starts_with("error: "), "{change}: {outcome}");
        assert_eq!(vmimg(&sandbox, "list").stdout, "", "{change}");
        drop(peer);
        let after = fs::read(sandbox.path("target.raw")).unwrap();
        let is = |bytes: &[u8]| after[..64 << 10] == bytes[..64 << 10];
        match change {
            0 => assert!(after == old),
            _ if is(&whole.1) => assert!(after == whole.1, "{change}: half a disk"),
            _ => assert!(after[..64 << 10].iter().all(|byte| *byte == 0), "{change}"),
        }
    }
}

#[test]
fn what_cannot_become_a_disk_is_refused_before_anything_is_written() {
    let sandbox = sandbox();
    empty(&sandbox, "raw", "1M");
    let small = Peer::start(&sandbox, "qemu-nbd", "-t -f raw -k SOCKET target.raw");
    let refused = |uri: &str, rest: &str, status: i32, why: &str| {
        let outcome = prepare(&sandbox, uri, rest);
        assert!(outcome.status == status && outcome.stderr.contains(why), "{uri}: {outcome}");
    };
    refused(&small.uri, "", 6, "holds a disk of");
    refused(&small.uri, "--size 1G", 2, "--size");
    refused("disk.raw", "", 2, "no address of an NBD export");
    refused("nbd+unix:///?socket=none", "", 3, "cannot connect");
    refused("nbd+unix:///?socket=%00abstract", "", 2, "its socket has no path");
    refused("nbds://localhost/?tls-certificates=pki", "", 2, "without encryption");
    drop(small);
    empty(&sandbox, "raw", "300M");
    let read_only = Peer::start(&sandbox, "qemu-nbd", "-t -r -f raw -k SOCKET target.raw");
    refused(&read_only.uri, "", 6, "for reading only");
    assert!(!sandbox.path("machines/web1").exists());
    assert!(fs::read(sandbox.path("target.raw")).unwrap().iter().all(|byte| *byte == 0));
}
