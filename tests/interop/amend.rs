//! Amended images: qemu-img judges what vmimg has changed and goes on with it, and the other way round.

use std::path::Path;

use imgcore::image::{self, Format};
use imgcore::qcow2::{AmendOptions, Error, Unsupported, Version};
use vmimg_tests::tool::Tool;

use crate::qcow2::{Bench, GEOMETRIES, assert_clean, assert_same, bears_snapshots, content, trusting};

fn qemu(words: &[&str], image: &Path) -> bool {
    Tool::new("qemu-img").args(words).arg(image).output().status.success()
}

fn amend(image: &Path, options: &AmendOptions) -> Result<(), Error> {
    image::open_writable(image, &trusting(Format::Qcow2)).unwrap().qcow2_mut().unwrap().amend(options)
}

/// What qemu-img says about the properties of an image.
fn properties(image: &Path) -> (String, u64, bool) {
    let text = Tool::new("qemu-img").args(["info", "--output=json"]).arg(image).run();
    let info: serde_json::Value = serde_json::from_str(&text).unwrap();
    let data = &info["format-specific"]["data"];
    let lazy = data.get("lazy-refcounts").is_some_and(|lazy| lazy == true);
    (data["compat"].as_str().unwrap().to_owned(), data["refcount-bits"].as_u64().unwrap(), lazy)
}

#[test]
fn images_of_qemu_hold_the_same_with_any_other_properties() {
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        for backing in [None, Some("qcow2")] {
            if backing.is_some() && options.contains("preallocation") {
                continue;
            }
            let mut bench = Bench::new(500 + seed as u64);
            let image = bench.foreign(options, *size, backing);
            let kept = bears_snapshots(options).then(|| {
                assert!(qemu(&["snapshot", "-c", "kept"], &image));
                let kept = content(&image, &["-l", "snapshot.name=kept"]);
                bench.scribble(&image, "qcow2", *size, 4);
                kept
            });
            // QEMU marks an image as corrupt when refcounts are too narrow for a compressed write.
            if image::open(&image, &trusting(Format::Qcow2)).unwrap().qcow2().unwrap().is_corrupt() {
                assert!(!bears_snapshots(options), "{options}");
                continue;
            }
            let model = content(&image, &[]);
            let judge = || {
                assert_clean(&image);
                assert_same(&content(&image, &[]), &model);
                if let Some(kept) = &kept {
                    assert_same(&content(&image, &["-l", "snapshot.name=kept"]), kept);
                }
            };
            for step in 0..5 {
                let version = [None, Some(Version::V2), Some(Version::V3)][bench.below(3) as usize];
                let bits = [None, Some(16), Some(1 << bench.below(7))][bench.below(3) as usize];
                let lazy = [None, Some(true), Some(false)][bench.below(3) as usize];
                let new = AmendOptions { version, refcount_bits: bits, lazy_refcounts: lazy, ..AmendOptions::default() };
                println!("{options} over {backing:?}: step {step}, {new:?}");
                let mut words = Vec::new();
                words.extend(version.map(|version| format!("compat={}", if version == Version::V2 { "0.10" } else { "1.1" })));
                words.extend(bits.map(|bits| format!("refcount_bits={bits}")));
                words.extend(lazy.map(|lazy| format!("lazy_refcounts={}", if lazy { "on" } else { "off" })));
                if words.is_empty() {
                    continue;
                }
                let theirs = bench.path("theirs.qcow2");
                std::fs::copy(&image, &theirs).unwrap();
                let before = properties(&image);
                let result = amend(&image, &new);
                // With the largest clusters, qemu-img takes minutes for other refcounts.
                if options.contains("cluster_size=2097152") && bits.is_some() {
                    judge();
                    continue;
                }
                let done = qemu(&["amend", "-o", &words.join(",")], &theirs);
                assert_eq!(result.is_ok(), done, "{result:?}");
                assert_eq!(properties(&image), if done { properties(&theirs) } else { before });
                judge();
                // What qemu-img makes of an image is read as well, where it is sound.
                if done && qemu(&["check", "-q"], &theirs) {
                    let ours = image::open(&theirs, &trusting(Format::Qcow2)).unwrap();
                    assert_same(&crate::qcow2::read(&ours), &model);
                }
            }
        }
    }
}

#[test]
fn a_new_size_comes_with_the_version_that_allows_it() {
    let bench = Bench::new(1);
    let image = bench.path("image.qcow2");
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", "compat=0.10"]).arg(&image).arg("1M").run();
    Tool::new("qemu-io").args(["-c", "write -P 5 0 1M"]).arg(&image).run();
    assert!(qemu(&["snapshot", "-c", "kept"], &image));
    let grown = AmendOptions { size: Some(3 << 20), ..AmendOptions::default() };
    assert!(matches!(amend(&image, &grown), Err(Error::Unsupported(Unsupported::Resize(_)))));
    amend(&image, &AmendOptions { version: Some(Version::V3), ..grown }).unwrap();
    assert_clean(&image);
    Tool::new("qemu-io").args(["-c", "read -P 5 0 1M", "-c", "read -P 0 1M 2M"]).arg(&image).run();
    amend(&image, &AmendOptions { version: Some(Version::V2), size: Some(1 << 19), ..AmendOptions::default() }).unwrap();
    assert_clean(&image);
    assert_eq!(content(&image, &[]), vec![5; 1 << 19]);
    assert_eq!(properties(&image).0, "0.10");
}

#[test]
fn what_version_2_lacks_is_refused_or_dropped() {
    let bench = Bench::new(1);
    let v2 = AmendOptions { version: Some(Version::V2), ..AmendOptions::default() };
    for (options, compressed, allowed) in [
        ("compression_type=zstd", false, true),
        ("compression_type=zstd", true, false),
        ("compression_type=zlib", true, true),
        ("extended_l2=on", false, false),
        ("refcount_bits=8", false, false),
        ("lazy_refcounts=on", false, true),
    ] {
        let image = bench.path("image.qcow2");
        Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", options]).arg(&image).arg("1M").run();
        let write = if compressed { "write -c -P 5 0 64k" } else { "write -P 5 0 64k" };
        Tool::new("qemu-io").args(["-c", write]).arg(&image).run();
        assert!(qemu(&["bitmap", "--add", image.to_str().unwrap()], Path::new("changes")));
        let before = std::fs::read(&image).unwrap();
        let result = amend(&image, &v2);
        assert_eq!(result.is_ok(), allowed, "{options}: {result:?}");
        if !allowed {
            assert_eq!(std::fs::read(&image).unwrap(), before);
        }
        assert_clean(&image);
        Tool::new("qemu-io").args(["-c", "read -P 5 0 64k"]).arg(&image).run();
        // Nothing of the bitmap is left, which qemu-img leaks.
        amend(&image, &AmendOptions { version: Some(Version::V3), ..AmendOptions::default() }).unwrap();
        let text = Tool::new("qemu-img").args(["info"]).arg(&image).run();
        assert_eq!(text.contains("bitmaps"), !allowed, "{text}");
        assert_clean(&image);
    }
}

#[test]
fn the_name_of_a_data_file_is_replaced_and_it_stops_to_be_a_raw_image() {
    let bench = Bench::new(1);
    let (image, data) = (bench.path("image.qcow2"), bench.path("data"));
    let options = format!("data_file={},data_file_raw=on", data.display());
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &options]).arg(&image).arg("1M").run();
    Tool::new("qemu-io").args(["-c", "write -P 5 0 64k"]).arg(&image).run();
    let moved = bench.path("moved");
    std::fs::rename(&data, &moved).unwrap();
    let new = AmendOptions {
        data_file: Some(moved.to_str().unwrap().as_bytes().to_vec()),
        data_file_raw: Some(false),
        refcount_bits: Some(64),
        ..AmendOptions::default()
    };
    let open = image::OpenOptions { follow: false, ..trusting(Format::Qcow2) };
    image::open_writable(&image, &open).unwrap().qcow2_mut().unwrap().amend(&new).unwrap();
    assert_clean(&image);
    Tool::new("qemu-io").args(["-c", "read -P 5 0 64k"]).arg(&image).run();
    let raw = AmendOptions { data_file_raw: Some(true), ..AmendOptions::default() };
    assert!(matches!(amend(&image, &raw), Err(Error::InvalidOptions(_))));
    let none = AmendOptions { data_file: Some(b"other".to_vec()), ..AmendOptions::default() };
    let plain = bench.path("plain.qcow2");
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&plain).arg("1M").run();
    assert!(matches!(amend(&plain, &none), Err(Error::InvalidOptions(_))));
}
