//! Power cuts while an image is rebased, flattened, committed or written through a data file: after a cut at any write, with any part
//! of what was not flushed, the image opens, shows what it should, and has nothing worse than leaked clusters.

use std::path::Path;
use std::sync::{Arc, Mutex};

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Error, Hole, MemoryDisk, Resize};
use imgcore::image::{self, Chains, Disk, Format, OpenOptions, OpenPolicy, RebaseOptions};
use imgcore::qcow2::{Image, NewBacking};
use tempfile::TempDir;
use vmimg_tests::tool::Tool;

/// One thing that was done to one of the files.
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
    Flush,
}

type Log = Arc<Mutex<Vec<(usize, Change)>>>;

/// A file in memory that records what is done to it, in one order with the others.
#[derive(Debug)]
struct Recorded {
    disk: MemoryDisk,
    index: usize,
    log: Log,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Write(offset, bytes) => write!(f, "write {} at {offset}", bytes.len()),
            Self::Resize(size) => write!(f, "resize {size}"),
            Self::Flush => write!(f, "flush"),
        }
    }
}

impl Recorded {
    fn note(&self, change: Change) {
        self.log.lock().unwrap().push((self.index, change));
    }
}

impl BlockRead for Recorded {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.disk.read_exact_at(buf, offset)
    }
}

impl BlockWrite for Recorded {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.note(Change::Write(offset, buf.to_vec()));
        self.disk.write_all_at(buf, offset)
    }
    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.note(Change::Write(range.start(), vec![0; range.len() as usize]));
        self.disk.write_zeroes_at(range, hole)
    }
    fn flush(&mut self) -> Result<(), Error> {
        self.note(Change::Flush);
        Ok(())
    }
}

impl Resize for Recorded {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        self.note(Change::Resize(size));
        self.disk.resize(size)
    }
}

/// The files of a test, and what is done to some of them.
struct Bench {
    folder: TempDir,
    log: Log,
    before: Vec<(&'static str, Vec<u8>)>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), log: Log::default(), before: Vec::new() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn create(&self, name: &str, options: &str, backing: Option<(&str, &str)>, size: u64, commands: &[&str]) {
        let format = name.split_once('.').unwrap().1;
        let mut create = Tool::new("qemu-img").current_dir(self.folder.path()).args(["create", "-q", "-f", format]);
        if !options.is_empty() {
            create = create.args(["-o", options]);
        }
        if let Some((name, format)) = backing {
            create = create.args(["-b", name, "-F", format]);
        }
        create.args([name, &size.to_string()]).run();
        let io = Tool::new("qemu-io").current_dir(self.folder.path()).args(["-f", format]);
        commands.iter().fold(io, |io, command| io.args(["-c", command])).arg(name).run();
    }

    fn open(&self, name: &str) -> Disk {
        let format = name.split_once('.').unwrap().1.parse().unwrap();
        image::open(&self.path(name), &trusting(format)).unwrap()
    }

    /// A file that is written in memory, and recorded.
    fn record(&mut self, name: &'static str) -> Recorded {
        let bytes = std::fs::read(self.path(name)).unwrap();
        self.before.push((name, bytes.clone()));
        Recorded { disk: MemoryDisk::new(bytes), index: self.before.len() - 1, log: Arc::clone(&self.log) }
    }

    /// The files after a cut, where of what was not flushed only what `luck` lets through has arrived; all of it without luck.
    fn after_cut(&self, cut: usize, luck: Option<u64>) -> Vec<Vec<u8>> {
        let log = self.log.lock().unwrap();
        let mut files: Vec<Vec<u8>> = self.before.iter().map(|(_, bytes)| bytes.clone()).collect();
        let flushed: Vec<usize> = (0..files.len())
            .map(|file| {
                log[..cut]
                    .iter()
                    .rposition(|(index, change)| *index == file && matches!(change, Change::Flush))
                    .map_or(0, |at| at + 1)
            })
            .collect();
        let mut state = luck.unwrap_or(0);
        for (at, (file, change)) in log[..cut].iter().enumerate() {
            let mut arrives = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                at < flushed[*file] || luck.is_none() || state >> 63 == 1
            };
            let bytes = &mut files[*file];
            match change {
                Change::Write(offset, new) => {
                    let mut offset = *offset as usize;
                    let mut rest = new.as_slice();
                    while !rest.is_empty() {
                        let (part, behind) = rest.split_at((512 - offset % 512).min(rest.len()));
                        if arrives() {
                            bytes.resize(bytes.len().max(offset + part.len()), 0);
                            bytes[offset..offset + part.len()].copy_from_slice(part);
                        }
                        offset += part.len();
                        rest = behind;
                    }
                }
                Change::Resize(size) => {
                    let size = *size as usize;
                    if size > bytes.len() || arrives() {
                        bytes.resize(size, 0);
                    }
                }
                Change::Flush => {}
            }
        }
        files
    }

    /// Puts the files after each cut in place, and lets `judge` look; qemu-img checks a part of them.
    fn for_each_cut(&self, mut judge: impl FnMut(&Self, usize)) {
        let count = self.log.lock().unwrap().len();
        assert!(count > 4, "{count} changes are too few to be recorded right");
        let mut state = 0;
        for cut in 0..=count {
            let seed = (cut as u64 + 1) << 20;
            for luck in [None, Some(seed), Some(seed.rotate_left(17) ^ 0x5555)] {
                for ((name, _), bytes) in self.before.iter().zip(self.after_cut(cut, luck)) {
                    std::fs::write(self.path(name), bytes).unwrap();
                }
                judge(self, cut);
                state += 1;
                if state % 9 == 0 {
                    self.before
                        .iter()
                        .filter(|(name, _)| name.ends_with("qcow2"))
                        .for_each(|(name, _)| assert_no_corruption(&self.path(name)));
                }
            }
        }
    }
}

fn trusting(format: Format) -> OpenOptions {
    OpenOptions { format: Some(format), policy: OpenPolicy::PlainPaths, ..OpenOptions::default() }
}

fn read(disk: &dyn BlockRead) -> Vec<u8> {
    let mut bytes = vec![0xEE; disk.size() as usize];
    disk.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Leaked clusters are the only trace that a cut may leave.
fn assert_no_corruption(image: &Path) {
    let output = Tool::new("qemu-img").args(["check", "--output=json", "-f", "qcow2"]).arg(image).output();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report.get("corruptions").is_none() && report["check-errors"] == 0, "{report}");
}

const GEOMETRIES: &[&str] = &[
    "cluster_size=4096",
    "cluster_size=4096,compat=0.10",
    "cluster_size=512,refcount_bits=1",
    "cluster_size=16384,extended_l2=on",
];
const SIZE: u64 = 262_656;

/// A chain of three in which every image has something of its own, and `other.raw` beside it.
fn chain(bench: &Bench, options: &str) {
    bench.create("base.qcow2", "cluster_size=4096", None, SIZE + 8192, &["write -P 1 0 200k", "write -z 40k 12k"]);
    bench.create(
        "mid.qcow2",
        options,
        Some(("base.qcow2", "qcow2")),
        SIZE - 40_960,
        &["write -P 2 33k 30k", "write -z 96k 16k"],
    );
    bench.create("top.qcow2", options, Some(("mid.qcow2", "qcow2")), SIZE, &["write -P 3 50k 20k", "write -P 4 240k 2k"]);
    bench.create("other.raw", "", None, SIZE, &["write -P 1 0 100k", "write -P 7 150k 90k"]);
}

#[test]
fn a_cut_during_a_rebase_leaves_the_same_disk() {
    for (round, options) in GEOMETRIES.iter().enumerate() {
        for target in [None, Some(("other.raw", "raw")), Some(("base.qcow2", "qcow2"))] {
            let compress = round % 2 == 0;
            println!("{options} onto {target:?}, compressed: {compress}");
            let mut bench = Bench::new();
            chain(&bench, options);
            let model = read(&bench.open("top.qcow2"));
            let old = Arc::new(bench.open("mid.qcow2"));
            let new = target.map(|(name, _)| bench.open(name));
            let mut image = Image::open(bench.record("top.qcow2")).unwrap();
            image.set_backing(Arc::clone(&old) as Arc<dyn BlockRead>);
            let backing = target.map(|(name, format)| NewBacking { name: name.as_bytes().to_vec(), format: format.to_owned() });
            let chains = Chains { old: Some(&old), new: new.as_ref() };
            let how = RebaseOptions { open: trusting(Format::Qcow2), threads: 1, compress };
            image::rebase_image(&mut image, chains, backing.as_ref(), &how, &|_| Ok(())).unwrap();
            drop((image, old, new));
            let mut records = std::collections::BTreeSet::new();
            bench.for_each_cut(|bench, cut| {
                let disk = bench.open("top.qcow2");
                assert!(read(&disk) == model, "{options} onto {target:?}: cut {cut}");
                records.insert(disk.qcow2().unwrap().backing_file().map(|file| file.name));
            });
            assert_eq!(records.len(), 2, "{records:?}");
        }
    }
}

#[test]
fn a_cut_during_a_commit_leaves_an_image_that_shows_the_same() {
    for options in GEOMETRIES {
        for deep in [false, true] {
            println!("{options}, through the chain: {deep}");
            let mut bench = Bench::new();
            chain(&bench, options);
            // A version 2 image cannot grow over a longer base.
            if options.contains("0.10") {
                bench.create("mid.qcow2", options, Some(("base.qcow2", "qcow2")), SIZE, &["write -P 2 33k 30k"]);
            }
            let model = read(&bench.open("top.qcow2"));
            let (base, between, below) = if deep {
                ("base.qcow2", vec![bench.open("mid.qcow2")], None)
            } else {
                ("mid.qcow2", Vec::new(), Some(Arc::new(bench.open("base.qcow2"))))
            };
            let mut top = Image::open(bench.record("top.qcow2")).unwrap();
            let mut goal = Image::open(bench.record(base)).unwrap();
            if let Some(below) = below {
                goal.set_backing(below);
            }
            image::commit_image(&top, &between, &mut goal, 1, &|_| Ok(())).unwrap();
            goal.close().unwrap();
            if !deep {
                top.make_empty().unwrap();
            }
            drop((top, goal, between));
            let mut emptied = false;
            bench.for_each_cut(|bench, cut| {
                let disk = bench.open("top.qcow2");
                assert!(read(&disk) == model, "{options}: cut {cut}");
                emptied = disk.stored().unwrap().is_empty();
                let base = bench.open(base);
                read(&base);
            });
            assert_eq!(emptied, !deep);
        }
    }
}

#[test]
fn a_cut_while_a_data_file_is_written_leaves_old_and_new_bytes_and_nothing_else() {
    for raw in ["off", "on"] {
        let mut bench = Bench::new();
        let options = format!("cluster_size=4096,data_file={},data_file_raw={raw}", bench.path("data.raw").display());
        bench.create("top.qcow2", &options, None, SIZE, &["write -P 1 0 100k", "write -z 40k 12k"]);
        let old = read(&bench.open("top.qcow2"));
        let mut image = Image::open(bench.record("top.qcow2")).unwrap();
        image.set_data_file(bench.record("data.raw"));
        let mut new = old.clone();
        for (start, len, byte) in [(1000, 30_000, 2), (41_000, 6000, 0), (90_000, 40_000, 3), (200_000, 8192, 0)] {
            match byte {
                0 => image.write_zeroes_at(ByteRange::at(start, len).unwrap(), Hole::Allow).unwrap(),
                byte => image.write_all_at(&vec![byte; len as usize], start).unwrap(),
            }
            new[start as usize..(start + len) as usize].fill(byte);
        }
        image.flush().unwrap();
        image.resize(SIZE + 20_480).unwrap();
        image.resize(SIZE - 20_480).unwrap();
        image.flush().unwrap();
        drop(image);
        let mut last = Vec::new();
        bench.for_each_cut(|bench, cut| {
            last = read(&bench.open("top.qcow2"));
            for (at, byte) in last.iter().enumerate() {
                let (old, new) = (old.get(at).copied().unwrap_or(0), new.get(at).copied().unwrap_or(0));
                assert!(*byte == old || *byte == new, "raw {raw}, cut {cut}: byte {at} is {byte}, not {old} or {new}");
            }
        });
        assert!(last == new[..(SIZE - 20_480) as usize]);
    }
}
