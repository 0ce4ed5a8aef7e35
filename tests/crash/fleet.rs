use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;
use vmimg_tests::disk::assert_sound;
use vmimg_tests::host::Host;

use crate::PROGRAM;

fn fleet(host: &Host, machines: &str) -> std::path::PathBuf {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/demo/demo.qcow2");
    let base = host.file("base.qcow2", fs::read(demo).unwrap());
    host.file("machines.yaml", format!("defaults: {{image: {}, size: 256M}}\nmachines:\n{machines}", base.display()))
}

#[test]
fn a_hundred_machines_from_one_file_are_all_sound_and_all_different() {
    let host = Host::new(PROGRAM);
    let mut machines = String::new();
    for number in 0..100 {
        writeln!(machines, "  m{number}:").unwrap();
    }
    let file = fleet(&host, &machines);
    let report = host.vmimg().args(["prepare", "--json", "-f"]).arg(&file).run();
    let report: Value = serde_json::from_str(&report).unwrap();
    let text = |machine: &Value, pointer: &str| machine.pointer(pointer).unwrap().to_string();
    for pointer in ["/machine/uuid", "/machine/domain/nics/0/mac", "/machine/guest/known_hosts/0", "/folder"] {
        let mut values: Vec<String> = report.as_array().unwrap().iter().map(|machine| text(machine, pointer)).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 100, "{pointer}");
    }
    for number in 0..100 {
        assert_sound(&host.path(format!("machines/m{number}/disk.qcow2")), &host.path(""));
    }
}

#[test]
fn one_machine_that_cannot_be_made_does_not_keep_the_others_from_it() {
    let host = Host::new(PROGRAM);
    let file = fleet(&host, "  good:\n  bad: {seed: {users: [{name: nobody-here}]}}\n  also-good:\n");
    let output = host.vmimg().args(["prepare", "-f"]).arg(&file).output();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot prepare `bad`"), "{stderr}");
    let listed = host.vmimg().args(["list", "--json"]).run();
    assert!(listed.contains("\"good\"") && listed.contains("\"also-good\"") && !listed.contains("\"bad\""), "{listed}");
    for name in ["good", "also-good"] {
        assert_sound(&host.path(format!("machines/{name}/disk.qcow2")), &host.path(""));
    }
}

#[test]
fn the_same_inputs_and_seed_value_give_the_same_bytes() {
    let host = Host::new(PROGRAM);
    let file = fleet(&host, "  m1: {seed: {minion: {master: salt}}, datasource: config-drive}\n");
    let files = || {
        let output =
            host.vmimg().env("SOURCE_DATE_EPOCH", "1700000000").args(["prepare", "--seed-value", "s", "-f"]).arg(&file);
        output.run();
        let made: Vec<_> = ["disk.qcow2", "seed.iso", "domain.xml", "machine.json"]
            .map(|name| fs::read(host.path("machines/m1").join(name)).unwrap())
            .into();
        assert_sound(&host.path("machines/m1/disk.qcow2"), &host.path(""));
        host.vmimg().args(["remove", "m1"]).run();
        made
    };
    assert!(files() == files());
}
