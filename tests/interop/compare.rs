//! Comparing: the same words and the same exit status as qemu-img.

use std::fs;

use vmimg_tests::sandbox::Sandbox;

use crate::qcow2::{Bench, GEOMETRIES};

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_vmimg-program"))
}

/// Asserts that both programs say the same: the same bytes, and the same exit status.
#[track_caller]
fn assert_alike(sandbox: &Sandbox, line: &str) -> i32 {
    let (theirs, ours) = (sandbox.qemu_img(line), sandbox.run(&format!("image {line}")));
    assert_eq!((ours.status, &ours.stdout), (theirs.status, &theirs.stdout), "{line}\n{theirs}\n{ours}");
    ours.status
}

#[test]
fn copies_and_copies_with_a_change_are_told_apart_as_by_qemu_img() {
    let sandbox = sandbox();
    let mut statuses = Vec::new();
    for (case, (options, size)) in GEOMETRIES.iter().enumerate() {
        let mut bench = Bench::new(500 + case as u64);
        let backing = [None, Some("raw"), Some("qcow2")][if options.contains("preallocation") { 0 } else { case % 3 }];
        let image = bench.foreign(options, *size, backing);
        let (raw, other) = (sandbox.path("copy.raw"), sandbox.path("copy.qcow2"));
        let (image, raw_path, other_path) = (image.display(), raw.display(), other.display());
        for line in [
            format!("convert -f qcow2 -O raw {image} {raw_path}"),
            format!("convert -f qcow2 -O qcow2 -o cluster_size=4k {image} {other_path}"),
        ] {
            assert_eq!(sandbox.qemu_img(&line).status, 0, "{line}");
        }
        for round in 0..4 {
            for strict in ["", "-s"] {
                for pair in [
                    format!("-f qcow2 -F raw {image} {raw_path}"),
                    format!("-f raw -F qcow2 {raw_path} {image}"),
                    format!("-f qcow2 -F qcow2 {image} {other_path}"),
                    format!("-f raw -F qcow2 {raw_path} {other_path}"),
                ] {
                    statuses.push(assert_alike(&sandbox, &format!("compare {strict} {pair}")));
                }
            }
            // One byte more each time; then the end.
            let mut bytes = fs::read(&raw).unwrap();
            let at = usize::try_from(bench.below(bytes.len() as u64)).unwrap();
            bytes[at] ^= 1;
            if round == 2 {
                bytes.truncate(bytes.len() / 2);
            }
            fs::write(&raw, bytes).unwrap();
        }
    }
    assert!(statuses.contains(&0) && statuses.contains(&1), "{statuses:?}");
}

#[test]
fn overlays_of_one_base_are_compared_where_they_differ() {
    let sandbox = sandbox();
    let mut statuses = Vec::new();
    for seed in 0..8 {
        let mut bench = Bench::new(300 + seed);
        let first = bench.foreign("cluster_size=4096", 2_000_384, Some("qcow2"));
        let second = first.with_file_name("second.qcow2");
        fs::copy(&first, &second).unwrap();
        for round in 0..3 {
            let pair = format!("-f qcow2 -F qcow2 {} {}", first.display(), second.display());
            for strict in ["", "-s"] {
                statuses.push(assert_alike(&sandbox, &format!("compare {strict} {pair}")));
            }
            bench.scribble(&second, "qcow2", 2_000_384, round + 1);
        }
    }
    assert!(statuses.contains(&0) && statuses.contains(&1), "{statuses:?}");
}

#[test]
fn sizes_and_failures_are_told_as_qemu_img_tells_them() {
    let sandbox = sandbox();
    sandbox.file("a.raw", vec![0; 1 << 20]);
    sandbox.file("long.raw", vec![0; 2 << 20]);
    let mut bytes = vec![0; 2 << 20];
    bytes[1_600_003] = 1;
    sandbox.file("tail.raw", &bytes);
    bytes[3] = 1;
    sandbox.file("both.raw", &bytes);
    sandbox.file("odd.raw", vec![5; 100_100]);
    for line in [
        "compare a.raw a.raw",
        "compare a.raw long.raw",
        "compare long.raw a.raw",
        "compare -s a.raw long.raw",
        "compare -q a.raw tail.raw",
        "compare a.raw tail.raw",
        "compare tail.raw a.raw",
        "compare a.raw both.raw",
        "compare -f raw -F raw odd.raw odd.raw",
        "compare --strict --a-format raw --b-format raw odd.raw a.raw",
        "compare -U a.raw tail.raw",
        "compare -T none a.raw long.raw",
        "compare -p -q a.raw a.raw",
        "compare -p -s a.raw long.raw",
        "compare -p a.raw nothing",
        "compare a.raw nothing",
        "compare nothing a.raw",
        "compare -f qcow2 a.raw a.raw",
        "compare -f raw -F nonsense a.raw a.raw",
        "compare a.raw",
        "compare a.raw a.raw a.raw",
    ] {
        assert_alike(&sandbox, line);
    }
}

#[test]
fn what_cannot_be_read_is_an_error_with_a_status_of_its_own() {
    let sandbox = sandbox();
    sandbox.file("a.raw", vec![9; 1 << 20]);
    assert_eq!(sandbox.qemu_img("convert -c -f raw -O qcow2 a.raw a.qcow2").status, 0);
    // The compressed clusters are behind the tables: no longer what was compressed.
    let mut bytes = fs::read(sandbox.path("a.qcow2")).unwrap();
    let start = bytes.len() - 1024;
    bytes[start..].fill(0xff);
    fs::write(sandbox.path("a.qcow2"), bytes).unwrap();
    assert_eq!(assert_alike(&sandbox, "compare -f raw -F qcow2 a.raw a.qcow2"), 4);
}
