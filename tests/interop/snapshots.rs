//! Snapshots: qemu-img takes, applies and deletes them, and so does vmimg; each reads, lists and judges what the other did.

use std::path::{Path, PathBuf};

use imgcore::block::{BlockWrite as _, MemoryDisk, Resize as _};
use imgcore::image::{self, Format, WritableDisk};
use imgcore::qcow2::{self, Error, NewSnapshot, SnapshotError, Unsupported, Version};
use vmimg_tests::tool::Tool;

use crate::qcow2::{Bench, GEOMETRIES, assert_clean, assert_same, bears_snapshots, cluster_size, content, trusting};

fn open(image: &Path) -> WritableDisk {
    image::open_writable(image, &trusting(Format::Qcow2)).unwrap()
}

/// Who does something to an image.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Qemu,
    Vmimg,
}

/// An image, and what it should hold.
struct Subject {
    bench: Bench,
    image: PathBuf,
    active: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
    taken: usize,
    options: String,
}

impl Subject {
    fn new(seed: u64, options: &str, size: u64, backing: Option<&str>) -> Self {
        let mut bench = Bench::new(seed);
        let image = bench.foreign(options, size, backing);
        let active = content(&image, &[]);
        Self { bench, image, active, snapshots: Vec::new(), taken: 0, options: options.to_owned() }
    }

    fn qemu(&self, action: &str, name: &str) -> bool {
        Tool::new("qemu-img").args(["snapshot", action, name]).arg(&self.image).output().status.success()
    }

    /// Repairs what qemu-img leaks when it finds that refcounts are too narrow.
    fn forget_leaks(&self) {
        Tool::new("qemu-img").args(["check", "-q", "-r", "leaks"]).arg(&self.image).output();
    }

    fn write(&mut self, actor: Actor) {
        let size = self.active.len() as u64;
        match actor {
            Actor::Qemu => {
                self.bench.scribble(&self.image, "qcow2", size, 4);
                self.active = content(&self.image, &[]);
            }
            Actor::Vmimg => {
                let cluster = cluster_size(&self.image);
                let mut disk = open(&self.image);
                for _ in 0..4 {
                    let (start, len) = self.bench.run(size, cluster);
                    let byte = self.bench.below(255) as u8;
                    disk.write_all_at(&vec![byte; len as usize], start).unwrap();
                    self.active[start as usize..(start + len) as usize].fill(byte);
                }
                let resizes = disk.qcow2().unwrap().version() == Version::V3;
                if resizes && self.bench.below(3) == 0 {
                    let larger = size + self.bench.below(9) * 4096;
                    disk.resize(larger).unwrap();
                    self.active.resize(larger as usize, 0);
                }
                disk.qcow2_mut().unwrap().close().unwrap();
            }
        }
    }

    fn create(&mut self, actor: Actor) {
        let name = format!("state {}", self.taken);
        let created = match actor {
            Actor::Qemu => self.qemu("-c", &name),
            Actor::Vmimg => {
                let new = NewSnapshot { name: name.clone(), seconds: 1_700_000_000, nanoseconds: 5 };
                match open(&self.image).qcow2_mut().unwrap().create_snapshot(&new) {
                    Ok(()) => true,
                    Err(Error::Unsupported(Unsupported::References(_))) => false,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        if created {
            self.taken += 1;
            self.snapshots.push((name, self.active.clone()));
            return;
        }
        if matches!(actor, Actor::Qemu) {
            self.forget_leaks();
            let new = NewSnapshot { name, seconds: 0, nanoseconds: 0 };
            let error = open(&self.image).qcow2_mut().unwrap().create_snapshot(&new).unwrap_err();
            assert!(matches!(error, Error::Unsupported(Unsupported::References(_))), "{error:?}");
        }
    }

    fn apply(&mut self, actor: Actor, which: usize) {
        let (name, bytes) = self.snapshots[which].clone();
        let done = matches!(actor, Actor::Qemu) && self.qemu("-a", &name);
        if !done {
            // qemu-img counts the new references before it gives up the old ones, and may not have the bits for both.
            if matches!(actor, Actor::Qemu) {
                assert!(!bears_snapshots(&self.options));
                self.forget_leaks();
            }
            open(&self.image).qcow2_mut().unwrap().apply_snapshot(&name).unwrap();
        }
        self.active = bytes;
    }

    fn delete(&mut self, actor: Actor, which: usize) {
        let (name, _) = self.snapshots.remove(which);
        match actor {
            Actor::Qemu => assert!(self.qemu("-d", &name)),
            Actor::Vmimg => open(&self.image).qcow2_mut().unwrap().delete_snapshot(&name).unwrap(),
        }
    }

    #[track_caller]
    fn judge(&self) {
        assert_clean(&self.image);
        assert_same(&content(&self.image, &[]), &self.active);
        let disk = image::open(&self.image, &trusting(Format::Qcow2)).unwrap();
        let names: Vec<String> = disk.qcow2().unwrap().snapshots().unwrap().into_iter().map(|snapshot| snapshot.name).collect();
        assert_eq!(names, self.snapshots.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    }

    /// Compares what a snapshot holds, which qemu-img shows at the size that the disk has now.
    #[track_caller]
    fn judge_snapshot(&self, which: usize) {
        let (name, bytes) = &self.snapshots[which];
        let now = content(&self.image, &["-l", &format!("snapshot.name={name}")]);
        let len = now.len().min(bytes.len());
        assert_same(&now[..len], &bytes[..len]);
    }
}

#[test]
fn any_sequence_of_changes_by_two_programs_leaves_clean_images_with_what_was_kept() {
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        for backing in [None, Some("qcow2")] {
            if backing.is_some() && options.contains("preallocation") {
                continue;
            }
            let mut subject = Subject::new(300 + seed as u64, options, *size, backing);
            for step in 0..9 {
                let actor = if subject.bench.below(3) == 0 { Actor::Qemu } else { Actor::Vmimg };
                let count = subject.snapshots.len();
                let which = subject.bench.below(count as u64) as usize;
                let action = subject.bench.below(8);
                println!("{options} over {backing:?}: step {step}, {actor:?} does {action} with {which} of {count}");
                match action {
                    0..=1 => subject.write(actor),
                    2 | 3 if count > 0 => subject.apply(actor, which),
                    4 if count > 0 => subject.delete(actor, which),
                    _ => {
                        subject.create(actor);
                        subject.write(actor);
                    }
                }
                subject.judge();
                if !subject.snapshots.is_empty() {
                    subject.judge_snapshot(step % subject.snapshots.len());
                }
            }
            while !subject.snapshots.is_empty() {
                subject.delete(Actor::Vmimg, 0);
                subject.judge();
            }
        }
    }
}

#[test]
fn the_state_of_a_machine_is_kept_with_its_snapshot() {
    let bench = Bench::new(1);
    let image = bench.path("image.qcow2");
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("8M").run();
    Tool::new("qemu-io").args(["-c", "write -P 1 0 3M"]).arg(&image).run();
    let machine = |image: &Path, commands: &str| {
        let drive = format!("file={},if=virtio,format=qcow2", image.display());
        let arguments =
            ["-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-monitor", "stdio", "-drive", &drive, "-S"];
        Tool::new("qemu-system-x86_64").args(arguments).stdin(commands.as_bytes().to_vec()).run()
    };
    machine(&image, "savevm running\nquit\n");
    let running = open(&image).qcow2().unwrap().snapshots().unwrap().remove(0);
    assert!(running.vm_state_size > 1000, "{running:?}");
    Tool::new("qemu-io").args(["-c", "write -P 2 1M 4M"]).arg(&image).run();
    let new = NewSnapshot { name: "later".to_owned(), seconds: 9, nanoseconds: 0 };
    open(&image).qcow2_mut().unwrap().create_snapshot(&new).unwrap();
    assert_clean(&image);
    open(&image).qcow2_mut().unwrap().apply_snapshot("running").unwrap();
    assert_clean(&image);
    Tool::new("qemu-io").args(["-c", "read -P 1 0 3M", "-c", "read -P 0 3M 5M"]).arg(&image).run();
    open(&image).qcow2_mut().unwrap().delete_snapshot("later").unwrap();
    assert_clean(&image);
    assert_eq!(open(&image).qcow2().unwrap().snapshots().unwrap(), std::slice::from_ref(&running));
    let said = machine(&image, "loadvm running\ninfo status\nquit\n");
    assert!(!said.contains("Error") && said.contains("paused"), "{said}");
    open(&image).qcow2_mut().unwrap().delete_snapshot(&running.name).unwrap();
    assert_clean(&image);
}

#[test]
fn nothing_is_kept_of_an_image_with_an_external_data_file_and_nothing_applied_over_bitmaps() {
    let bench = Bench::new(1);
    let image = bench.path("image.qcow2");
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("1M").run();
    Tool::new("qemu-img").args(["bitmap", "--add"]).arg(&image).arg("changes").run();
    let new = NewSnapshot { name: "kept".to_owned(), seconds: 0, nanoseconds: 0 };
    open(&image).qcow2_mut().unwrap().create_snapshot(&new).unwrap();
    assert_clean(&image);
    assert!(!Tool::new("qemu-img").args(["snapshot", "-a", "kept"]).arg(&image).output().status.success());
    let before = std::fs::read(&image).unwrap();
    let error = open(&image).qcow2_mut().unwrap().apply_snapshot("kept").unwrap_err();
    assert!(error.to_string().contains("bitmaps"), "{error}");
    assert_eq!(std::fs::read(&image).unwrap(), before);
    let other = bench.path("other.qcow2");
    let data = format!("data_file={}", bench.path("data").display());
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &data]).arg(&other).arg("1M").run();
    assert!(!Tool::new("qemu-img").args(["snapshot", "-c", "kept"]).arg(&other).output().status.success());
    let mut other = qcow2::Image::open(std::fs::read(&other).map(MemoryDisk::new).unwrap()).unwrap();
    assert!(matches!(other.create_snapshot(&new), Err(Error::Snapshot(SnapshotError::DataFile))));
    open(&image).qcow2_mut().unwrap().delete_snapshot("kept").unwrap();
    assert_clean(&image);
}
