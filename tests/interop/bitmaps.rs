//! Persistent bitmaps: two images go the same way, one with QEMU's programs and one with vmimg, and QEMU says what is in both.

use std::path::Path;

use imgcore::block::{BlockWrite, ByteRange, Hole};
use imgcore::image::{self, Format, OpenOptions};
use imgcore::qcow2::{BitmapChange, Bits, NewBitmap};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use serde_json::Value;
use vmimg_tests::sandbox::Sandbox;
use vmimg_tests::tool::Tool;

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_vmimg-program"))
}

/// The bitmaps that an image has, as qemu-img lists them.
fn listed(image: &Path) -> Value {
    let info = Tool::new("qemu-img").args(["info", "--output=json", "-f", "qcow2"]).arg(image).run();
    let info: Value = serde_json::from_str(&info).unwrap();
    info.pointer("/format-specific/data/bitmaps").cloned().unwrap_or_default()
}

fn names(image: &Path) -> Vec<String> {
    listed(image).as_array().into_iter().flatten().map(|bitmap| bitmap["name"].as_str().unwrap().to_owned()).collect()
}

/// The runs that a bitmap marks, as QEMU exports them over NBD.
fn marked(image: &Path, bitmap: &str) -> Vec<(u64, u64)> {
    let map = Tool::new("nbdinfo")
        .args([
            "--json",
            &format!("--map=qemu:dirty-bitmap:{bitmap}"),
            "--",
            "[",
            "qemu-nbd",
            "-r",
            "-f",
            "qcow2",
            "-B",
            bitmap,
        ])
        .arg(image)
        .arg("]")
        .run();
    let map: Value = serde_json::from_str(&map).unwrap();
    let number = |run: &Value, key: &str| run[key].as_u64().unwrap();
    let dirty = map.as_array().unwrap().iter().filter(|run| run["type"] == 1);
    dirty.map(|run| (number(run, "offset"), number(run, "offset") + number(run, "length"))).collect()
}

fn read_here(image: &Path, bitmap: &str) -> Vec<(u64, u64)> {
    let disk = image::open(image, &OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::default() }).unwrap();
    let bits = disk.qcow2().unwrap().bitmap_bits(bitmap).unwrap();
    bits.runs().map(|run| (run.start(), run.end())).collect()
}

/// Asserts that QEMU finds both images sound and their bitmaps alike, and that they are read here as QEMU reads them.
fn assert_alike(theirs: &Path, ours: &Path, after: &str) {
    Tool::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(ours).run();
    assert_eq!(listed(theirs), listed(ours), "{after}");
    for bitmap in listed(ours).as_array().into_iter().flatten() {
        if bitmap["flags"].as_array().unwrap().contains(&Value::from("in-use")) {
            continue;
        }
        let name = bitmap["name"].as_str().unwrap();
        let expected = marked(theirs, name);
        assert_eq!(marked(ours, name), expected, "{name} after {after}");
        assert_eq!(read_here(ours, name), expected, "{name} after {after}");
        assert_eq!(read_here(theirs, name), expected, "{name} after {after}");
    }
}

struct Twins {
    sandbox: Sandbox,
    random: ChaCha8Rng,
    size: u64,
}

impl Twins {
    fn below(&mut self, end: u64) -> u64 {
        self.random.next_u64() % end
    }

    /// Runs `qemu-img` on one image and `vmimg image` on the other; they must agree on whether it can be done.
    fn both(&self, line: &str) -> bool {
        let qemu = self.sandbox.tool("qemu-img").args(line.replace('@', "theirs.qcow2").split_whitespace()).output();
        let outcome = self.sandbox.run(&format!("image {}", line.replace('@', "ours.qcow2")));
        assert_eq!(Some(outcome.status), qemu.status.code(), "{line}\n{qemu:?}\n{outcome}");
        qemu.status.success()
    }

    fn bitmap(&mut self) -> String {
        let name = |index: u64| format!("b{index}");
        let (target, source) = (name(self.below(5)), name(self.below(5)));
        let actions = match self.below(12) {
            0..=2 => format!("--add -g {}", 512 << self.below(9)),
            3 => "--add".to_owned(),
            4 => format!("--add --merge {source} --disable"),
            5 => "--clear".to_owned(),
            6 => "--remove".to_owned(),
            7 => "--enable".to_owned(),
            8 => "--disable".to_owned(),
            9 => format!("--clear --merge {source}"),
            10 => format!("--merge {source} -b other.qcow2 -F qcow2"),
            _ => format!("--merge {source}"),
        };
        let line = format!("bitmap -f qcow2 {actions} @ {target}");
        // Where several things are asked for, a failure undoes them all here, and not in qemu-img.
        let several = actions.matches("--").count() > 1;
        let have = names(&self.sandbox.path("theirs.qcow2"));
        let can = have.contains(&source) && (have.contains(&target) != actions.starts_with("--add"));
        if !several || can {
            self.both(&line);
        }
        line
    }

    fn write(&mut self) -> String {
        let start = self.below(self.size / 512) * 512;
        let len = (self.below(400) * 512 + 512).min(self.size - start);
        let kind = self.below(3);
        let command = match kind {
            0 => format!("write -P 7 {start} {len}"),
            1 => format!("write -z {start} {len}"),
            _ => format!("discard {start} {len}"),
        };
        self.sandbox.tool("qemu-io").args(["-f", "qcow2", "-d", "unmap", "-c", &command, "theirs.qcow2"]).run();
        let path = self.sandbox.path("ours.qcow2");
        let mut disk =
            image::open_writable(&path, &OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::default() }).unwrap();
        let range = ByteRange::at(start, len).unwrap();
        match kind {
            0 => disk.write_all_at(&vec![7; len as usize], start).unwrap(),
            1 => disk.write_zeroes_at(range, Hole::Keep).unwrap(),
            _ => disk.write_zeroes_at(range, Hole::Allow).unwrap(),
        }
        disk.close().unwrap();
        command
    }

    fn resize(&mut self) -> String {
        let size = self.below(8_000) * 512 + 512;
        let line = format!("resize -q -f qcow2 {} @ {size}", if size < self.size { "--shrink" } else { "" });
        if self.both(&line) {
            self.size = size;
        }
        line
    }
}

#[test]
fn bitmaps_go_the_same_way_here_and_in_qemu() {
    for (seed, options) in
        ["cluster_size=512", "cluster_size=4k,refcount_bits=1", "cluster_size=64k", "cluster_size=2M"].iter().enumerate()
    {
        let mut twins = Twins { sandbox: sandbox(), random: ChaCha8Rng::seed_from_u64(seed as u64), size: 3_000_320 };
        assert!(twins.both(&format!("create -q -f qcow2 -o {options} @ {}", twins.size)));
        let qemu = |line: &str| twins.sandbox.tool("qemu-img").args(line.split_whitespace()).run();
        qemu(&format!("create -q -f qcow2 -o {options} other.qcow2 {}", twins.size));
        qemu("bitmap --add -g 4k other.qcow2 b1");
        twins.sandbox.tool("qemu-io").args(["-c", "write 0 1M", "-c", "write 2900k 1k", "other.qcow2"]).run();
        for step in 0..36 {
            let line = match twins.below(8) {
                0..=3 => twins.bitmap(),
                4..=6 => twins.write(),
                _ => twins.resize(),
            };
            if step % 6 != 5 {
                continue;
            }
            let after = format!("{line} of {options}");
            assert_alike(&twins.sandbox.path("theirs.qcow2"), &twins.sandbox.path("ours.qcow2"), &after);
        }
    }
}

#[test]
fn a_bitmap_that_was_not_saved_is_inconsistent_here_and_in_qemu() {
    let sandbox = sandbox();
    sandbox.done("image create -q -f qcow2 a.qcow2 1M");
    sandbox.done("image bitmap --add a.qcow2 lost");
    sandbox.done("image bitmap --add --disable a.qcow2 kept");
    let path = sandbox.path("a.qcow2");
    let mut disk = image::open_writable(&path, &OpenOptions::default()).unwrap();
    disk.write_all_at(&[1; 512], 0).unwrap();
    disk.flush().unwrap();
    drop(disk);
    assert_eq!(listed(&path).pointer("/0/flags/0"), Some(&Value::from("in-use")));
    assert!(sandbox.done("image info a.qcow2").contains("in-use"));
    for line in [
        "bitmap --clear @ lost",
        "bitmap --enable @ lost",
        "bitmap --disable @ lost",
        "bitmap --merge kept @ lost",
        "bitmap --merge lost @ kept",
        "bitmap --add @ lost",
        "resize @ 2M",
    ] {
        let line = line.replace('@', "a.qcow2");
        let qemu = sandbox.tool("qemu-img").args(line.split_whitespace()).output();
        assert_eq!((qemu.status.code(), sandbox.run(&format!("image {line}")).status), (Some(1), 1), "{line}");
    }
    sandbox.done("image bitmap --add a.qcow2 new");
    sandbox.done("image bitmap --remove a.qcow2 lost");
    assert_eq!(names(&path), ["kept", "new"]);
    sandbox.done("image resize -q a.qcow2 2M");
    sandbox.tool("qemu-img").args(["check", "-q", "a.qcow2"]).run();
}

#[test]
fn many_bitmaps_with_long_names_are_stored_and_a_full_one_takes_no_space() {
    let sandbox = sandbox();
    sandbox.done("image create -q -f qcow2 -o cluster_size=512 a.qcow2 64M");
    let path = sandbox.path("a.qcow2");
    let mut disk = image::open_writable(&path, &OpenOptions::default()).unwrap();
    let mut full = Bits::new(64 << 20, 512);
    full.mark(ByteRange::new(0, 64 << 20).unwrap());
    let new = |index: usize, bits: &Bits| NewBitmap {
        name: format!("{index:01023}"),
        auto: index.is_multiple_of(2),
        bits: bits.clone(),
    };
    let all: Vec<NewBitmap> = (0..100).map(|index| new(index, &full)).collect();
    let image = disk.qcow2_mut().unwrap();
    image.store_bitmaps(&all).unwrap();
    image.change_bitmap(&all[0].name, &[BitmapChange::Clear]).unwrap();
    drop(disk);
    assert!(std::fs::metadata(&path).unwrap().len() < 500_000, "{path:?}");
    assert_eq!(names(&path), all.iter().map(|bitmap| bitmap.name.clone()).collect::<Vec<_>>());
    let one = sandbox.tool("qemu-img").args(["bitmap", "--add", "-g", "512", "--merge", &all[1].name, "a.qcow2", "copy"]);
    one.run();
    assert_eq!(marked(&path, "copy"), [(0, 64 << 20)]);
    sandbox.tool("qemu-img").args(["check", "-q", "a.qcow2"]).run();
}
