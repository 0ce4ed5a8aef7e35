//! Measuring: the same sizes as qemu-img, and large enough for what is then written.

use serde_json::Value;
use vmimg_tests::sandbox::Sandbox;

use crate::qcow2::{Bench, GEOMETRIES};

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_vmimg-program"))
}

/// Asserts that both programs say the same, also as JSON.
#[track_caller]
fn assert_alike(sandbox: &Sandbox, line: &str) {
    let (theirs, ours) = (sandbox.qemu_img(line), sandbox.run(&format!("image {line}")));
    assert_eq!((ours.status, &ours.stdout), (theirs.status, &theirs.stdout), "{line}\n{theirs}\n{ours}");
    let json = format!("{line} --output=json");
    let (theirs, ours) = (sandbox.qemu_img(&json), sandbox.run(&format!("image {json}")));
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    assert_eq!(read(&ours.stdout), read(&theirs.stdout), "{json}");
}

#[test]
fn empty_images_of_every_kind_are_as_large_as_qemu_img_says() {
    let sandbox = sandbox();
    let sizes = ["0", "1", "1000", "1M", "10G", "3333M", "64T", "2P", "3P"];
    for size in sizes {
        assert_alike(&sandbox, &format!("measure --size {size}"));
        for cluster_size in ["512", "4k", "64k", "2M"] {
            for more in ["refcount_bits=1", "refcount_bits=64", "preallocation=full", "compat=0.10", "preallocation=metadata"] {
                assert_alike(&sandbox, &format!("measure --size {size} -O qcow2 -o cluster_size={cluster_size},{more}"));
            }
        }
        for options in ["extended_l2=on", "extended_l2=on,cluster_size=16k", "data_file=x", "backing_file=x,backing_fmt=raw"] {
            assert_alike(&sandbox, &format!("measure --size {size} -O qcow2 -o {options}"));
        }
    }
    for wrong in [
        "measure",
        "measure --size 8E -O qcow2",
        "measure --size 1G nothing",
        "measure -O qcow2 nothing",
        "measure --size 1G -O qcow2 -o nonsense=1",
        "measure --size 1G -O qcow2 -o cluster_size=1000",
        "measure --size 1G -O qcow2 -o compat=0.10,refcount_bits=64",
        "measure --size 1G -O vmdk",
        "measure --size 1G -O luks",
        "measure --size 1G -f qcow2",
    ] {
        assert_alike(&sandbox, wrong);
    }
}

#[test]
fn copies_are_as_large_as_qemu_img_says_and_never_larger() {
    let sandbox = sandbox();
    for (case, (options, size)) in GEOMETRIES.iter().enumerate() {
        let mut bench = Bench::new(100 + case as u64);
        let backing = [None, Some("raw"), Some("qcow2")][if options.contains("preallocation") { 0 } else { case % 3 }];
        let image = bench.foreign(options, *size, backing);
        let image = image.display();
        if !options.contains("0.10") {
            let line = format!("bitmap --add -g 512 {image} marks");
            assert_eq!(sandbox.qemu_img(&line).status, 0, "{line}");
        }
        assert_alike(&sandbox, &format!("measure -f qcow2 {image}"));
        for target in
            ["cluster_size=64k", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "compat=0.10", "preallocation=falloc"]
        {
            assert_alike(&sandbox, &format!("measure -f qcow2 -O qcow2 -o {target} {image}"));
        }
        assert_alike(&sandbox, &format!("measure -f qcow2 -O qcow2 -o backing_file=b,backing_fmt=raw {image}"));
        let report = sandbox.done(&format!("image measure --output=json -f qcow2 -O qcow2 {image}"));
        let report: Value = serde_json::from_str(&report).unwrap();
        sandbox.done(&format!("image convert -f qcow2 -O qcow2 {image} copy.qcow2"));
        let len = std::fs::metadata(sandbox.path("copy.qcow2")).unwrap().len();
        assert!(len <= report["required"].as_u64().unwrap(), "{len} bytes, {report}");
    }
    sandbox.file("odd.raw", vec![3; 100_100]);
    assert_eq!(sandbox.qemu_img("create -q -f qcow2 kept.qcow2 10M").status, 0);
    let change = |command: &str| drop(sandbox.tool("qemu-io").args(["-f", "qcow2", "-c", command, "kept.qcow2"]).run());
    for line in ["snapshot -c before kept.qcow2", "resize -q kept.qcow2 20M"] {
        change("write 1M 1M");
        assert_eq!(sandbox.qemu_img(line).status, 0, "{line}");
    }
    change("write 12M 3M");
    for snapshot in ["", "-l before", "-l 1", "-l snapshot.name=before", "-l snapshot.id=1,snapshot.name=before", "-l none"] {
        assert_alike(&sandbox, &format!("measure {snapshot} -O qcow2 kept.qcow2"));
        assert_alike(&sandbox, &format!("measure {snapshot} kept.qcow2"));
    }
    assert_alike(&sandbox, "measure --size 1G -l before -O qcow2");
    for line in [
        "measure -f raw -O qcow2 odd.raw",
        "measure -f raw odd.raw",
        "measure --image-opts -O qcow2 driver=raw,file.filename=odd.raw",
    ] {
        assert_alike(&sandbox, line);
    }
}
