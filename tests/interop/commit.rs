//! Commit: the base and the emptied image are what qemu-img's own commit makes of the same chain.

use std::path::Path;

use imgcore::image::{self, CommitOptions, Format};
use vmimg_tests::tool::Tool;

use crate::qcow2::{Bench, assert_clean, assert_same, content, read, trusting};
use crate::rebase::{GEOMETRIES, chain, create};

fn commit(image: &Path, base: Option<&Path>, keep: bool) -> Result<(), image::Error> {
    let options = CommitOptions { open: trusting(Format::Qcow2), base, keep, threads: 2 };
    image::commit(image, &options, &|_| Ok(()))
}

fn qemu_commit(image: &Path, base: Option<&Path>) -> bool {
    let mut tool = Tool::new("qemu-img").args(["commit", "-q", "-f", "qcow2"]);
    if let Some(base) = base {
        tool = tool.arg("-b").arg(base);
    }
    tool.arg(image).output().status.success()
}

/// What qemu-img finds in an image of either format.
fn shown(image: &Path) -> Vec<u8> {
    if image.extension().is_some_and(|end| end == "raw") { std::fs::read(image).unwrap() } else { content(image, &[]) }
}

#[test]
fn the_base_takes_over_what_qemu_img_would_give_it_and_the_image_is_empty() {
    let mut refused = 0;
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        for (round, base) in ["base.raw", "base.qcow2"].into_iter().enumerate() {
            for (deep, keep) in [(false, false), (false, true), (true, true)] {
                println!("{options} into {base}, through the chain: {deep}, kept: {keep}");
                let mut bench = Bench::new((300 + seed * 2 + round) as u64);
                chain(&mut bench, options, *size, base);
                let names = ["top.qcow2", "mid.qcow2", base];
                let goal = bench.path(if deep { base } else { "mid.qcow2" });
                let top = bench.path("top.qcow2");
                let model = content(&top, &[]);
                let before = names.map(|name| std::fs::read(bench.path(name)).unwrap());
                let theirs = qemu_commit(&top, deep.then_some(goal.as_path()));
                let expected = shown(&goal);
                for (name, bytes) in names.iter().zip(&before) {
                    std::fs::write(bench.path(name), bytes).unwrap();
                }
                let ours = commit(&top, deep.then_some(goal.as_path()), keep);
                assert_eq!(ours.is_ok(), theirs, "{ours:?}");
                if !theirs {
                    // Version 2 has no zeros to hide a longer base with.
                    refused += 1;
                    assert_same(&content(&top, &[]), &model);
                    continue;
                }
                assert_same(&shown(&goal), &expected);
                assert_same(&content(&top, &[]), &model);
                for name in names.iter().filter(|name| name.ends_with("qcow2")) {
                    assert_clean(&bench.path(name));
                }
                let stored = image::open(&top, &trusting(Format::Qcow2)).unwrap().stored().unwrap();
                assert_eq!(stored.is_empty(), !keep, "{stored:?}");
            }
        }
    }
    assert!(refused < 8, "{refused}");
}

#[test]
fn an_emptied_image_keeps_its_snapshots_and_bitmaps_and_gives_its_space_back() {
    let mut bench = Bench::new(5);
    create(&bench.path("base.qcow2"), "", None, 8 << 20);
    create(&bench.path("top.qcow2"), "", Some(("base.qcow2", "qcow2")), 8 << 20);
    let top = bench.path("top.qcow2");
    Tool::new("qemu-io").args(["-c", "write -P 3 1M 4M"]).arg(&top).run();
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    let plain = bench.path("plain.qcow2");
    std::fs::copy(&top, &plain).unwrap();
    commit(&plain, None, false).unwrap();
    assert!(length(&plain) <= 5 * 65536, "{}", length(&plain));
    assert_clean(&plain);

    Tool::new("qemu-img").args(["snapshot", "-c", "before"]).arg(&top).run();
    Tool::new("qemu-img").args(["bitmap", "--add"]).arg(&top).arg("changes").run();
    bench.scribble(&top, "qcow2", 8 << 20, 6);
    let (model, snapshot) = (content(&top, &[]), content(&top, &["-l", "snapshot.name=before"]));
    let bitmaps = |path: &Path| {
        let text = Tool::new("qemu-img").args(["info", "--output=json"]).arg(path).run();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["format-specific"]["data"]["bitmaps"].clone()
    };
    let before = bitmaps(&top);
    commit(&top, None, false).unwrap();
    assert_clean(&top);
    assert_same(&content(&top, &[]), &model);
    assert_same(&content(&bench.path("base.qcow2"), &[]), &model);
    // What the snapshot itself holds: the rest has always been the base's.
    let span = 1 << 20..5 << 20;
    assert_same(&content(&top, &["-l", "snapshot.name=before"])[span.clone()], &snapshot[span]);
    assert_eq!(bitmaps(&top), before);
}

#[test]
fn what_is_no_chain_is_refused_and_a_base_that_somebody_uses_is_left_alone() {
    let bench = Bench::new(6);
    create(&bench.path("base.qcow2"), "", None, 1 << 20);
    create(&bench.path("other.qcow2"), "", None, 1 << 20);
    create(&bench.path("top.qcow2"), "", Some(("base.qcow2", "qcow2")), 1 << 20);
    let top = bench.path("top.qcow2");
    Tool::new("qemu-io").args(["-c", "write -P 3 0 64k"]).arg(&top).run();
    commit(&bench.path("base.qcow2"), None, false).unwrap_err();
    for base in ["other.qcow2", "top.qcow2", "missing.qcow2"] {
        assert!(matches!(commit(&top, Some(&bench.path(base)), false), Err(image::Error::InvalidOptions(_))), "{base}");
    }
    let reader = image::open(&bench.path("base.qcow2"), &trusting(Format::Qcow2)).unwrap();
    assert_eq!(commit(&top, None, false).unwrap_err().kind(), imgcore::block::ErrorKind::InUse);
    assert!(read(&reader).iter().all(|byte| *byte == 0));
    drop(reader);
    commit(&top, None, false).unwrap();
}
