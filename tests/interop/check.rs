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

/// All bytes of the disk, as QEMU reads them.
fn content(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("raw");
    Tool::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(image).arg(&raw).run();
    std::fs::read(raw).unwrap()
}

#[test]
fn repaired_refcounts_and_flags_are_sound_for_qemu_img_and_the_disk_is_the_same() {
    let sandbox = sandbox();
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        let mut bench = Bench::new(200 + seed as u64);
        let image = full_image(&mut bench, options, *size);
        let (sound, old) = (std::fs::read(&image).unwrap(), content(&image));
        let word = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap()) as usize;
        let cluster = 1_usize << sound[23];
        let block = word(word(48));
        let used = sound[block..block + cluster].iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        for round in 0..6 {
            let mut bytes = sound.clone();
            for _ in 0..=bench.below(4) {
                match bench.below(4) {
                    0 => bytes[word(40)] ^= 0x80,
                    // A block of refcounts that is gone.
                    1 if round == 5 => bytes[word(48)..word(48) + 8].fill(0),
                    _ => bytes[block + bench.below(used) as usize] ^= 1 << bench.below(8),
                }
            }
            std::fs::write(&image, &bytes).unwrap();
            let found = theirs(&image);
            let done = sandbox.program().args(["image", "check", "-r", "all", "--output=json"]).arg(&image).output();
            let report: Value = serde_json::from_slice(&done.stdout).unwrap();
            assert_eq!(done.status.code(), Some(0), "{options}, round {round}: {done:?}");
            let judged = theirs(&image);
            assert_eq!(judged.status, Some(0), "{options}, round {round}: {judged:?}");
            assert_eq!(found.status == Some(0), report["leaks-fixed"].is_null() && report["corruptions-fixed"].is_null());
            assert!(content(&image) == old, "{options}, round {round}");
        }
    }
}

#[test]
fn a_repair_says_what_qemu_img_says_of_leaks() {
    let sandbox = sandbox();
    let bench = Bench::new(0);
    let (ours, theirs) = (bench.path("ours.qcow2"), bench.path("theirs.qcow2"));
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&ours).arg("4M").run();
    Tool::new("qemu-io").args(["-c", "write 0 1M"]).arg(&ours).run();
    let mut bytes = std::fs::read(&ours).unwrap();
    let size = bytes.len();
    bytes.resize(size + (1 << 20), 0);
    // Refcounts of 16 bits begin at byte 0x20000 of such an image: a cluster behind the last, and one that is counted twice.
    bytes[0x20000 + size / 65536 * 2 + 7] = 1;
    bytes[0x20000 + 2 * 6 + 1] = 2;
    for what in ["leaks", "all"] {
        for output in ["--output=human", "--output=json"] {
            std::fs::write(&ours, &bytes).unwrap();
            std::fs::write(&theirs, &bytes).unwrap();
            let run = |tool: Tool, image: &Path| {
                let output = tool.args(["check", output, "-r", what]).arg(image).output();
                let stdout = String::from_utf8_lossy(&output.stdout).replace("theirs.qcow2", "ours.qcow2");
                let value = serde_json::from_str::<Value>(&stdout).ok();
                (output.status.code(), value.clone(), if value.is_some() { String::new() } else { stdout })
            };
            let told = run(sandbox.program().arg("image"), &ours);
            let wanted = run(Tool::new("qemu-img"), &theirs);
            // The new refcounts take other clusters: where the file ends is not the same.
            let number = |mut told: (Option<i32>, Option<Value>, String)| {
                told.1.as_mut().map(|report| report.as_object_mut().unwrap().remove("image-end-offset"));
                told.2 = told.2.lines().filter(|line| !line.starts_with("Image end offset")).collect();
                told
            };
            assert_eq!(number(told), number(wanted));
        }
    }
    let shared = sandbox.program().args(["image", "check", "-U", "-r", "all"]).arg(&ours).output();
    assert_eq!(shared.status.code(), Some(1));
    let raw = bench.path("disk.raw");
    std::fs::write(&raw, [1; 4096]).unwrap();
    for arguments in [["-f", "raw"].as_slice(), &["-f", "raw", "-r", "all"]] {
        let output = sandbox.program().args(["image", "check"]).args(arguments).arg(&raw).output();
        assert_eq!(output.status.code(), Some(63));
    }
}

#[test]
fn an_image_that_was_not_closed_is_repaired_before_it_is_written() {
    let sandbox = sandbox();
    for options in ["lazy_refcounts=on", "lazy_refcounts=on,cluster_size=512,refcount_bits=1"] {
        let bench = Bench::new(0);
        let image = bench.path("image.qcow2");
        Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", options]).arg(&image).arg("4M").run();
        let killed = Tool::new("qemu-io").args(["-c", "write -P 5 0 1M", "-c", "abort"]).arg(&image).output();
        assert!(!killed.status.success());
        assert_eq!(ours(&sandbox, &image), theirs(&image));
        assert_eq!(theirs(&image).status, Some(2), "its refcounts are not stored");
        let output = sandbox.program().args(["image", "resize", "-f", "qcow2"]).arg(&image).arg("5M").output();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(theirs(&image).status, Some(0));
        let disk = content(&image);
        assert!(disk.len() == 5 << 20 && disk[..1 << 20].iter().all(|byte| *byte == 5));
        // One that is marked as corrupt is not written but by a repair.
        let mut bytes = std::fs::read(&image).unwrap();
        bytes[79] |= 2;
        std::fs::write(&image, &bytes).unwrap();
        let refused = sandbox.program().args(["image", "resize", "-f", "qcow2"]).arg(&image).arg("6M").output();
        assert!(!refused.status.success() && std::fs::read(&image).unwrap() == bytes);
        let output = sandbox.program().args(["image", "check", "-r", "all"]).arg(&image).output();
        assert!(output.status.success(), "{output:?}");
        Tool::new("qemu-io").args(["-c", "write 0 4k"]).arg(&image).run();
    }
}

#[test]
fn what_lies_behind_the_end_of_a_file_reads_as_qemu_reads_it() {
    let bench = Bench::new(0);
    let image = bench.path("image.qcow2");
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("4M").run();
    Tool::new("qemu-io").args(["-c", "write -P 5 0 1M"]).arg(&image).run();
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(std::fs::metadata(&image).unwrap().len() - 300_000).unwrap();
    let copy = bench.path("ours.raw");
    sandbox().program().args(["image", "convert", "-f", "qcow2", "-O", "raw"]).arg(&image).arg(&copy).run();
    assert!(std::fs::read(copy).unwrap() == content(&image));
}

/// Changes an image of 64 KiB clusters whose L2 table is given.
type Damage = fn(&mut [u8], usize);

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_be_bytes());
}

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

const DAMAGES: &[(&str, &str, Damage)] = &[
    ("a cluster named twice", "compat=1.1", |bytes, l2| put(bytes, l2 + 24, get(bytes, l2 + 32))),
    ("a cluster behind the end and far away", "compat=1.1", |bytes, l2| put(bytes, l2 + 24, (1 << 63) | (1 << 40))),
    ("a cluster in the middle of two", "compat=1.1", |bytes, l2| put(bytes, l2 + 24, get(bytes, l2 + 24) + 512)),
    ("a reserved bit", "compat=1.1", |bytes, l2| put(bytes, l2 + 24, get(bytes, l2 + 24) | 2)),
    ("a block of refcounts named twice", "compat=1.1", |bytes, _| {
        let table = get(bytes, 48) as usize;
        put(bytes, table + 8, get(bytes, table));
    }),
    ("no refcounts", "compat=1.1", |bytes, _| put(bytes, get(bytes, 48) as usize, 0)),
    ("an unused cluster in the middle of two", "extended_l2=on", |bytes, l2| {
        put(bytes, l2 + 32, get(bytes, l2 + 32) + 512);
        put(bytes, l2 + 40, 0);
    }),
    ("one snapshot too many", "compat=1.1", |bytes, _| bytes[63] = 2),
    ("a snapshot without the size of its disk", "compat=1.1", |bytes, _| {
        let table = get(bytes, 64) as usize;
        bytes[table + 36..table + 40].copy_from_slice(&8_u32.to_be_bytes());
    }),
];

#[test]
fn repairs_of_other_structures_report_what_qemu_img_reports() {
    let sandbox = sandbox();
    for (what, options, damage) in DAMAGES {
        let bench = Bench::new(0);
        let (ours, theirs) = (bench.path("ours.qcow2"), bench.path("theirs.qcow2"));
        Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", options]).arg(&ours).arg("4M").run();
        Tool::new("qemu-io").args(["-c", "write 0 1M"]).arg(&ours).run();
        if what.contains("snapshot") {
            Tool::new("qemu-img").args(["snapshot", "-c", "one"]).arg(&ours).run();
        }
        let mut bytes = std::fs::read(&ours).unwrap();
        let l2 = (get(&bytes, get(&bytes, 40) as usize) & 0x00ff_ffff_ffff_fe00) as usize;
        damage(&mut bytes, l2);
        std::fs::write(&ours, &bytes).unwrap();
        std::fs::write(&theirs, &bytes).unwrap();
        let report = |tool: Tool, image: &Path| {
            let output = tool.args(["check", "--output=json", "-r", "all"]).arg(image).output();
            let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
            // The new refcounts take other clusters.
            report.as_object_mut().unwrap().retain(|key, _| key != "image-end-offset" && key != "filename");
            (output.status.code(), report)
        };
        let told = report(sandbox.program().arg("image"), &ours);
        assert_eq!(told, report(Tool::new("qemu-img"), &theirs), "{what}");
        let judged = Tool::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&ours).output();
        assert_eq!(judged.status.code(), told.0, "{what}");
    }
}
