//! Checking: the same images, sound and damaged, before qemu-img and before vmimg.

use std::path::{Path, PathBuf};

use serde_json::Value;
use vmimg_tests::sandbox::Sandbox;
use vmimg_tests::tool::Tool;

use crate::qcow2::{Bench, GEOMETRIES, bears_snapshots};

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_vmimg-program"))
}

/// What a program says of an image: exit status, both forms of its report, and its lines about what is wrong.
#[derive(Debug, Eq, PartialEq)]
struct Verdict {
    status: Option<i32>,
    report: Option<Value>,
    text: String,
    lines: Vec<String>,
}

fn verdict(tool: impl Fn() -> Tool, image: &Path) -> Verdict {
    let text = tool().args(["check"]).arg(image).output();
    let json = tool().args(["check", "--output=json"]).arg(image).output();
    let mut lines: Vec<String> = String::from_utf8_lossy(&text.stderr).lines().map(str::to_owned).collect();
    lines.sort();
    Verdict {
        status: text.status.code(),
        report: serde_json::from_slice(&json.stdout).ok(),
        text: String::from_utf8_lossy(&text.stdout).into_owned(),
        lines,
    }
}

fn theirs(image: &Path) -> Verdict {
    verdict(|| Tool::new("qemu-img"), image)
}

fn ours(sandbox: &Sandbox, image: &Path) -> Verdict {
    verdict(|| sandbox.program().arg("image"), image)
}

/// An image of this geometry with all that there can be in one.
fn full_image(bench: &mut Bench, options: &str, size: u64) -> PathBuf {
    let image = bench.foreign(options, size, None);
    if bears_snapshots(options) {
        for name in ["one", "two"] {
            Tool::new("qemu-img").args(["snapshot", "-c", name]).arg(&image).run();
            bench.scribble(&image, "qcow2", size, 4);
        }
    }
    if !options.contains("0.10") {
        Tool::new("qemu-img").args(["bitmap", "--add"]).arg(&image).arg("b").run();
        bench.scribble(&image, "qcow2", size, 4);
    }
    image
}

#[test]
fn sound_and_dirty_images_are_judged_as_qemu_img_judges_them() {
    let sandbox = sandbox();
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        let mut bench = Bench::new(seed as u64);
        let image = full_image(&mut bench, options, *size);
        let wanted = theirs(&image);
        assert_eq!(wanted.status, Some(0), "{options}");
        assert_eq!(ours(&sandbox, &image), wanted, "{options}");
        if !options.contains("0.10") {
            let mut bytes = std::fs::read(&image).unwrap();
            // Spec: "Bit 0: Dirty bit", of the big-endian word at byte 72.
            bytes[79] |= 1;
            std::fs::write(&image, bytes).unwrap();
            assert_eq!(ours(&sandbox, &image), theirs(&image), "dirty {options}");
        }
    }
}

/// Where the words of an image's tables are: L1, L2, refcount table, refcount block, the snapshots' L1, bitmap tables.
fn table_words(bytes: &[u8]) -> Vec<usize> {
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let offset = |at: usize| (word(at) & 0x00ff_ffff_ffff_fe00) as usize;
    let cluster = 1_usize << half(20);
    let used = |from: usize, len: usize| (from..from + len).step_by(8).filter(|at| word(*at) != 0).collect::<Vec<_>>();
    let mut words = used(offset(48), 8);
    words.extend(used(offset(words[0]), cluster));
    let mut l1s = vec![(offset(40), half(36) as usize * 8)];
    if half(60) > 0 {
        let snapshot = word(64) as usize;
        l1s.push((word(snapshot) as usize, half(snapshot + 8) as usize * 8));
    }
    for (l1, len) in l1s {
        for entry in used(l1, len) {
            words.push(entry);
            words.extend(used(offset(entry), cluster));
        }
    }
    words
}

#[test]
fn damaged_images_are_judged_as_qemu_img_judges_them() {
    let sandbox = sandbox();
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        let mut bench = Bench::new(100 + seed as u64);
        let image = full_image(&mut bench, options, *size);
        let sound = std::fs::read(&image).unwrap();
        let words = table_words(&sound);
        for round in 0..10 {
            let mut bytes = sound.clone();
            for _ in 0..=bench.below(3) {
                let at = words[bench.below(words.len() as u64) as usize] + bench.below(8) as usize;
                bytes[at] ^= 1 << bench.below(8);
            }
            std::fs::write(&image, &bytes).unwrap();
            let (ours, theirs) = (ours(&sandbox, &image), theirs(&image));
            assert!(std::fs::read(&image).unwrap() == bytes, "a check has written");
            // Where blocks of refcounts are lost, each program says so in its own words.
            let Some(report) = theirs.report.as_ref().filter(|report| report["check-errors"] == 0) else { continue };
            assert_eq!(ours.report.as_ref(), Some(report), "{options}, round {round}: {ours:?} {theirs:?}");
            assert_eq!((ours.status, ours.text), (theirs.status, theirs.text), "{options}, round {round}");
        }
    }
}
