//! Maps: qemu-img says the same about every image, and about every part of it.

use std::path::Path;

use serde_json::Value;
use vmimg_tests::sandbox::Sandbox;

use crate::qcow2::{Bench, GEOMETRIES};

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_vmimg-program"))
}

/// Asserts that both programs say the same: the same bytes, and the same exit status.
#[track_caller]
fn assert_alike(sandbox: &Sandbox, line: &str) {
    let (theirs, ours) = (sandbox.qemu_img(line), sandbox.run(&format!("image {line}")));
    assert_eq!((ours.status, &ours.stdout), (theirs.status, &theirs.stdout), "{line}\n{theirs}\n{ours}");
}

fn assert_maps_alike(sandbox: &Sandbox, bench: &mut Bench, image: &Path, format: &str, size: u64) {
    let image = image.display();
    for output in ["human", "json"] {
        assert_alike(sandbox, &format!("map -f {format} --output={output} {image}"));
        for _ in 0..3 {
            let (start, len) = (bench.below(size + 1000), bench.below(size / 2) + 1);
            assert_alike(sandbox, &format!("map -f {format} --output={output} -s {start} -l {len} {image}"));
        }
    }
}

#[test]
fn every_image_maps_as_qemu_img_maps_it() {
    let sandbox = sandbox();
    for (case, (options, size)) in GEOMETRIES.iter().enumerate() {
        for backing in [None, Some("raw"), Some("qcow2")] {
            if backing.is_some() && options.contains("preallocation") {
                continue;
            }
            let mut bench = Bench::new(900 + case as u64);
            let image = bench.foreign(options, *size, backing);
            assert_maps_alike(&sandbox, &mut bench, &image, "qcow2", *size);
        }
    }
}

#[test]
fn chains_of_three_and_raw_files_of_odd_sizes_are_followed() {
    let sandbox = sandbox();
    for seed in 0..12 {
        let mut bench = Bench::new(700 + seed);
        let sizes: Vec<u64> = (0..3).map(|_| (bench.below(8_000) + 8) * 512).collect();
        let base = bench.path("base.raw");
        std::fs::write(&base, vec![7; 70_000]).unwrap();
        let odd = sizes[0] + bench.below(512);
        std::fs::File::options().write(true).open(&base).unwrap().set_len(odd).unwrap();
        let create = |sandbox: &Sandbox, name: &str, below: &str, format: &str, size: u64, options: &str| {
            let image = bench_path(&base, name);
            let line = format!("create -q -f qcow2 -o {options} -b {below} -F {format} {} {size}", image.display());
            assert_eq!(sandbox.qemu_img(&line).status, 0, "{line}");
            image
        };
        let middle = create(&sandbox, "middle.qcow2", "base.raw", "raw", sizes[1], "cluster_size=4k");
        let top = create(&sandbox, "top.qcow2", "middle.qcow2", "qcow2", sizes[2], "extended_l2=on,cluster_size=16k");
        bench.scribble(&middle, "qcow2", sizes[1], 6);
        bench.scribble(&top, "qcow2", sizes[2], 6);
        assert_maps_alike(&sandbox, &mut bench, &base, "raw", odd);
        assert_maps_alike(&sandbox, &mut bench, &top, "qcow2", sizes[2]);
    }
}

fn bench_path(base: &Path, name: &str) -> std::path::PathBuf {
    base.with_file_name(name)
}

#[test]
fn holes_below_data_are_seen_where_much_is_not_stored() {
    let sandbox = sandbox();
    let qemu = |line: &str| assert_eq!(sandbox.qemu_img(line).status, 0, "{line}");
    for (clusters, written) in [(16, 0), (16, 3), (100, 91), (100, 92), (200, 181), (200, 182), (40, 37), (40, 38)] {
        qemu(&format!("create -q -f qcow2 -o preallocation=metadata a.qcow2 {}k", clusters * 64));
        if written > 0 {
            let write = format!("write 0 {}k", written * 64);
            sandbox.tool("qemu-io").args(["-f", "qcow2", "-c", &write, "a.qcow2"]).run();
        }
        for output in ["human", "json"] {
            assert_alike(&sandbox, &format!("map -f qcow2 --output={output} a.qcow2"));
        }
    }
    qemu("create -q -f qcow2 -o data_file=d.dat b.qcow2 1M");
    sandbox
        .tool("qemu-io")
        .args(["-f", "qcow2", "-c", "write 0 256k", "-c", "write -z 0 128k", "-c", "discard 192k 64k", "b.qcow2"])
        .run();
    for output in ["human", "json"] {
        assert_alike(&sandbox, &format!("map -f qcow2 --output={output} b.qcow2"));
    }
}

#[test]
fn names_and_edges_are_those_of_qemu_img() {
    let sandbox = sandbox();
    std::fs::create_dir(sandbox.path("pool")).unwrap();
    let qemu = |line: &str| assert_eq!(sandbox.qemu_img(line).status, 0, "{line}");
    sandbox.file("pool/base.raw", vec![1; 100_000]);
    qemu("create -q -f qcow2 -b base.raw -F raw pool/over.qcow2 1M");
    sandbox.tool("qemu-io").args(["-f", "qcow2", "-c", "write 64k 4k", "pool/over.qcow2"]).run();
    qemu("create -q -f qcow2 empty.qcow2 0");
    for line in [
        "map pool/over.qcow2",
        "map file:pool/over.qcow2",
        "map --image-opts driver=qcow2,file.filename=pool/over.qcow2",
        "map --image-opts --output json driver=raw,file.filename=pool/over.qcow2",
        "map --output json --start-offset 65000 --max-length 2000 -U pool/over.qcow2",
        "map --output json -s 2M pool/over.qcow2",
        "map -s 2M pool/over.qcow2",
        "map --output json empty.qcow2",
        "map empty.qcow2",
        "map -f vmdk pool/over.qcow2",
        "map --output xml pool/over.qcow2",
        "map nothing",
        "map -l -1 pool/over.qcow2",
    ] {
        assert_alike(&sandbox, line);
    }
    let json: Value = serde_json::from_str(&sandbox.done("image map --output=json pool/over.qcow2")).unwrap();
    assert_eq!(json[0]["depth"], 1);
}
