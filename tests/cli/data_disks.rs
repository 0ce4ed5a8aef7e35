//! Machines with data disks, and machines whose disk is an export, from the command line and from a file.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use vmimg_tests::sandbox::{Outcome, Sandbox};

use crate::sandbox;

/// A sandbox with `base.qcow2`, a guest.
pub(crate) fn with_base() -> Sandbox {
    let sandbox = sandbox();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/demo/demo.qcow2");
    sandbox.file("base.qcow2", fs::read(demo).unwrap());
    sandbox
}

pub(crate) fn vmimg(sandbox: &Sandbox, line: &str) -> Outcome {
    let program = sandbox.program().env("VMIMG_ROOT", sandbox.path("r")).env("XDG_RUNTIME_DIR", sandbox.path("home"));
    sandbox.outcome(program.args(line.split_whitespace()).output())
}

#[track_caller]
pub(crate) fn done(sandbox: &Sandbox, line: &str) -> String {
    let outcome = vmimg(sandbox, line);
    assert_eq!(outcome.status, 0, "vmimg {line}\n{outcome}");
    outcome.stdout
}

fn record(sandbox: &Sandbox) -> Value {
    serde_json::from_slice(&fs::read(sandbox.path("r/web1/machine.json")).unwrap()).unwrap()
}

/// What blkid finds on a data disk of `web1`, whose file qemu-img finds sound; leaves `NAME.raw`.
fn found(sandbox: &Sandbox, file: &str) -> Vec<String> {
    let (path, raw) = (format!("r/web1/{file}"), format!("{file}.raw"));
    sandbox.tool("qemu-img").args(["check", "-q", "-f", "qcow2", &path]).run();
    sandbox.tool("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw", &path, &raw]).run();
    let said = sandbox.tool("blkid").args(["-p", "-o", "export", &raw]).run();
    said.lines().map(str::to_owned).collect()
}

const DISKS: &str = "--ephemeral 100M --ephemeral 3G,vfat --ephemeral 40M,ext3 --swap 64M";

#[test]
fn data_disks_lie_beside_the_system_disk_and_follow_it_in_the_domain() {
    let sandbox = with_base();
    let line = format!("prepare web1 --image ./base.qcow2 --config-drive --seed-value s {DISKS}");
    let plan = done(&sandbox, &format!("{line} --dry-run"));
    assert!(plan.contains("  data disk ephemeral1: vfat, 3 GiB\n") && !sandbox.path("r/web1").exists(), "{plan}");
    let said = done(&sandbox, &line);
    assert!(said.contains("  data disk ephemeral0: ext4, 100 MiB\n") && said.contains("swap: swap, 64 MiB"), "{said}");
    let mut files: Vec<_> = fs::read_dir(sandbox.path("r/web1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    let expected = ["disk.eph0", "disk.eph1", "disk.eph2", "disk.qcow2", "disk.swap", "domain.xml", "machine.json", "seed.iso"];
    assert_eq!(files, expected);

    let record = record(&sandbox);
    for (number, (file, r#type, label, size)) in [
        ("disk.eph0", "ext4", "ephemeral0", 100_u64 << 20),
        ("disk.eph1", "vfat", "ephemeral1", 3 << 30),
        ("disk.eph2", "ext3", "ephemeral2", 40 << 20),
        ("disk.swap", "swap", "swap", 64 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        let data = &record["data"][number];
        let uuid = data["uuid"].as_str().unwrap();
        assert_eq!(*data, json!({"file": file, "format": "qcow2", "size": size, "type": r#type, "label": label, "uuid": uuid}));
        let found = found(&sandbox, file);
        for line in [format!("TYPE={type}"), format!("LABEL={label}"), format!("UUID={uuid}")] {
            assert!(found.contains(&line), "{line}: {found:?}");
        }
        assert_eq!(fs::metadata(sandbox.path(format!("{file}.raw"))).unwrap().len(), size);
        let disk = &record["domain"]["disks"][number + 1];
        assert_eq!(disk["path"], json!(sandbox.path("r/web1").join(file)));
        let xml = fs::read_to_string(sandbox.path("r/web1/domain.xml")).unwrap();
        let letter = ["b", "c", "d", "e"][number];
        let at = |text: String| xml.find(&text).unwrap_or_else(|| panic!("{text} in {xml}"));
        assert!(at(format!("/{file}\"/>")) < at(format!("<target dev=\"vd{letter}\"")), "{xml}");
    }
    sandbox.tool("e2fsck").args(["-fn", "disk.eph0.raw"]).run();
    sandbox.tool("e2fsck").args(["-fn", "disk.eph2.raw"]).run();
    sandbox.tool("fsck.vfat").args(["-n", "disk.eph1.raw"]).run();
    sandbox.tool("virt-xml-validate").args(["r/web1/domain.xml", "domain"]).run();

    let meta = sandbox.tool("isoinfo").args(["-R", "-x", "/ec2/latest/meta-data.json", "-i", "r/web1/seed.iso"]).run();
    let meta: Value = serde_json::from_str(&meta).unwrap();
    let mapping = json!({"ami": "vda", "root": "/dev/vda", "ephemeral0": "/dev/vdb", "ephemeral1": "/dev/vdc",
        "ephemeral2": "/dev/vdd", "swap": "/dev/vde"});
    assert_eq!(meta["block-device-mapping"], mapping);
}

#[test]
fn data_disks_are_shown_verified_booted_and_removed_with_their_machine() {
    let sandbox = with_base();
    done(&sandbox, &format!("prepare web1 --image ./base.qcow2 --no-seed --seed-value s {DISKS}"));
    let shown = done(&sandbox, "show web1");
    assert!(shown.contains("data disk  ephemeral1, 3 GiB, vfat, [SANDBOX]/r/web1/disk.eph1\n"), "{shown}");
    insta::assert_snapshot!(done(&sandbox, "verify web1"), @"web1: ok");
    done(&sandbox, "boot web1 --direct --accel qemu");
    done(&sandbox, "verify web1");
    done(&sandbox, "stop web1 --force");
    // Another program has one of them open.
    let path = sandbox.path("r/web1/disk.eph1");
    let disk = imgcore::storage::FileDisk::open(&path, imgcore::storage::Access::ReadWrite).unwrap();
    let lock = imgcore::storage::Lock::acquire(&disk, imgcore::storage::LockKind::Write).unwrap();
    assert_eq!(vmimg(&sandbox, "remove web1").status, 6);
    drop((lock, disk));
    sandbox.tool("qemu-img").args(["resize", "-q", "-f", "qcow2", "r/web1/disk.swap", "128M"]).run();
    insta::assert_snapshot!(vmimg(&sandbox, "verify web1"), @r"
    exit status 4
    --- stdout
    web1: damaged
      data disk: `[SANDBOX]/r/web1/disk.swap` has 134217728 bytes instead of 67108864
    --- stderr
    error: 1 of 1 machines are not as they were prepared
    ");
    fs::remove_file(sandbox.path("r/web1/disk.eph0")).unwrap();
    assert_eq!(vmimg(&sandbox, "boot web1 --direct --accel qemu").status, 3);
    done(&sandbox, "remove web1");
    assert_eq!(fs::read_dir(sandbox.path("r")).unwrap().count(), 0);
}

#[test]
fn the_same_inputs_give_the_same_data_disks_and_other_machines_others() {
    let sandbox = with_base();
    sandbox.file(
        "machines.yaml",
        "defaults: {image: ./base.qcow2, datasource: none, ephemeral: [64M], swap: 1M}\n\
         machines: {web1: , web2: {ephemeral: [64M, \"20M,vfat\"], swap: null}}\n",
    );
    let files = |machine: &str| {
        done(&sandbox, "prepare --seed-value s -f machines.yaml");
        let names = ["disk.eph0", "disk.eph1", "disk.swap"];
        let bytes = names.map(|name| fs::read(sandbox.path(format!("r/{machine}/{name}"))).ok());
        done(&sandbox, "remove web1 web2");
        bytes
    };
    let (first, second, other) = (files("web1"), files("web1"), files("web2"));
    assert!(first == second);
    assert_eq!(first.each_ref().map(Option::is_some), [true, false, true]);
    assert_eq!(other.each_ref().map(Option::is_some), [true, true, false]);
    assert!(first[0] != other[0], "each has a UUID of its own");
}

#[test]
fn data_disks_that_cannot_be_made_are_refused_and_nothing_is_left() {
    let sandbox = with_base();
    let prepare = |rest: &str| vmimg(&sandbox, &format!("prepare web1 --image ./base.qcow2 {rest}"));
    insta::assert_snapshot!(prepare("--ephemeral 1G,xfs"), @r"
    exit status 2
    --- stderr
    error: invalid value '1G,xfs' for '--ephemeral <SIZE[,FORMAT]>': `xfs` is no format of a data disk: ext4, vfat, ext3 or ext2

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(prepare("--ephemeral 100M --ephemeral 10k --dry-run"), @r"
    exit status 5
    --- stderr
    error: cannot make the data disk `ephemeral1` of 10k
    caused by: the ext4 file system cannot be made: 10240 bytes are too few for it

    hint: nothing was changed
    ");
    assert_eq!(prepare("--swap 8k").status, 5);
    assert_eq!(prepare("--ephemeral 3T,vfat").status, 5);
    assert_eq!(prepare(&"--ephemeral 1M ".repeat(24)).status, 2, "a machine has room for fewer");
    sandbox.file("machines.yaml", "machines: {web1: {image: ./base.qcow2, ephemeral: [\"1G,ntfs\"]}}\n");
    let outcome = vmimg(&sandbox, "prepare -f machines.yaml");
    assert!(outcome.status == 2 && outcome.stderr.contains("machine `web1`: `ntfs` is no format"), "{outcome}");
    assert!(!sandbox.path("r/web1").exists());
}

#[test]
fn a_plan_that_cannot_be_carried_out_is_none() {
    let sandbox = with_base();
    for more in ["", " --dry-run"] {
        let outcome = vmimg(&sandbox, &format!("prepare web1 --image ./base.qcow2 --swap 3E{more}"));
        assert_eq!(outcome.status, 2, "{outcome}");
        assert!(outcome.stderr.contains("cannot make the data disk `swap` of 3E"), "{outcome}");
    }
}
