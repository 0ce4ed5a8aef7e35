//! qcow2: qemu-img and qemu-io write what is read here, and judge what is written here.

use std::path::{Path, PathBuf};

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Hole, Resize};
use imgcore::image::{self, ConvertOptions, Format, Info, NewDisk, OpenOptions, OpenPolicy};
use imgcore::qcow2::{Compression, CreateOptions, DataFileName, NewBacking, Preallocation, Version};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use tempfile::TempDir;
use vmimg_tests::tool::Tool;

/// Options of qemu-img for images of every kind; sizes are chosen to end inside a cluster.
pub(crate) const GEOMETRIES: &[(&str, u64)] = &[
    ("compat=0.10", 3_000_320),
    ("compat=0.10,cluster_size=512", 200_192),
    ("compat=1.1", 5_000_192),
    ("cluster_size=512,refcount_bits=1", 300_544),
    ("cluster_size=512,refcount_bits=64,compression_type=zstd", 300_032),
    ("cluster_size=1024,refcount_bits=2", 700_416),
    ("cluster_size=4096,refcount_bits=4,lazy_refcounts=on", 2_000_384),
    ("cluster_size=16384,extended_l2=on", 3_000_320),
    ("cluster_size=65536,extended_l2=on,compression_type=zstd,refcount_bits=8", 9_000_448),
    ("cluster_size=2097152,refcount_bits=32", 9_437_696),
    ("cluster_size=2097152,extended_l2=on", 9_437_696),
    ("cluster_size=8192,preallocation=metadata", 2_000_384),
    ("extended_l2=on,preallocation=metadata", 2_000_384),
];

pub(crate) struct Bench {
    folder: TempDir,
    random: ChaCha8Rng,
}

impl Bench {
    pub(crate) fn new(seed: u64) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), random: ChaCha8Rng::seed_from_u64(seed) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.random.next_u64() % end.max(1)
    }

    /// A run of sectors inside `size` bytes, often at the border of a cluster.
    pub(crate) fn run(&mut self, size: u64, cluster: u64) -> (u64, u64) {
        let border = self.below(size / cluster + 1) * cluster;
        let start = match self.below(4) {
            0 => self.below(size / 512) * 512,
            1 => border.saturating_sub(512),
            2 => border + cluster / 32 / 512 * 512,
            _ => border,
        };
        let start = start.min(size - 512);
        let len = match self.below(4) {
            0 => 512,
            1 => cluster,
            2 => cluster * 2 + 512,
            _ => self.below(400) * 512 + 512,
        };
        (start, len.min(size - start))
    }

    /// Lets qemu-io change an image in many ways.
    pub(crate) fn scribble(&mut self, image: &Path, format: &str, size: u64, count: usize) {
        let cluster = cluster_size(image);
        let mut io = Tool::new("qemu-io").args(["-f", format]);
        for _ in 0..count {
            let (start, len) = self.run(size, cluster);
            let byte = self.below(254) + 1;
            let whole = start / cluster * cluster;
            let command = match self.below(8) {
                0..=2 => format!("write -P {byte} {start} {len}"),
                3 => format!("write -z {start} {len}"),
                4 => format!("write -z -u {start} {len}"),
                5 => format!("discard {start} {len}"),
                _ if format == "raw" => format!("write -P {byte} {start} 512"),
                _ => format!("write -c -P {byte} {whole} {}", cluster.min(size - whole)),
            };
            io = io.args(["-c", &command]);
        }
        // A compressed write over an allocated cluster fails, and that is fine.
        io.arg(image).output();
    }

    /// An image by qemu-img, with or without a backing file of another size, and with changes by qemu-io.
    pub(crate) fn foreign(&mut self, options: &str, size: u64, backing: Option<&str>) -> PathBuf {
        let image = self.path("image.qcow2");
        let mut create = Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", options]);
        if let Some(format) = backing {
            let base = self.path("base");
            let base_size = [size / 2 / 512 * 512, size, size + 70_144][(size % 3) as usize];
            Tool::new("qemu-img").args(["create", "-q", "-f", format]).arg(&base).arg(base_size.to_string()).run();
            self.scribble(&base, format, base_size, 10);
            create = create.args(["-b", "base", "-F", format]);
        }
        create.arg(&image).arg(size.to_string()).run();
        self.scribble(&image, "qcow2", size, 12);
        image
    }
}

/// Whether a cluster with several compressed ones can have one more reference from a snapshot.
pub(crate) fn bears_snapshots(options: &str) -> bool {
    !["refcount_bits=1", "refcount_bits=2", "refcount_bits=4"]
        .iter()
        .any(|few| options.ends_with(few) || options.contains(&format!("{few},")))
}

pub(crate) fn cluster_size(image: &Path) -> u64 {
    let text = Tool::new("qemu-img").args(["info", "--output=json"]).arg(image).run();
    let info: serde_json::Value = serde_json::from_str(&text).unwrap();
    info["cluster-size"].as_u64().unwrap_or(65536)
}

/// What qemu-img says that the disk holds.
pub(crate) fn content(image: &Path, arguments: &[&str]) -> Vec<u8> {
    let raw = image.with_extension("reference.raw");
    Tool::new("qemu-img").args(["convert", "-q", "-f", "qcow2", "-O", "raw"]).args(arguments).arg(image).arg(&raw).run();
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(&raw).unwrap();
    bytes
}

#[track_caller]
pub(crate) fn assert_clean(image: &Path) {
    let text = Tool::new("qemu-img").args(["check", "--output=json", "-f", "qcow2"]).arg(image).run();
    let check: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(check.get("leaks").is_none() && check.get("corruptions").is_none(), "{text}");
}

pub(crate) fn trusting(format: Format) -> OpenOptions {
    OpenOptions { format: Some(format), policy: OpenPolicy::PlainPaths, ..OpenOptions::default() }
}

pub(crate) fn read(disk: &dyn BlockRead) -> Vec<u8> {
    let mut bytes = vec![0xEE; usize::try_from(disk.size()).unwrap()];
    for (index, piece) in bytes.chunks_mut(100_003).enumerate() {
        disk.read_exact_at(piece, index as u64 * 100_003).unwrap();
    }
    bytes
}

#[track_caller]
pub(crate) fn assert_same(ours: &[u8], theirs: &[u8]) {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours == theirs, "differs from byte {:?} on", ours.iter().zip(theirs).position(|(a, b)| a != b));
}

#[test]
fn images_of_qemu_read_as_qemu_reads_them() {
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        for backing in [None, Some("raw"), Some("qcow2")] {
            if backing.is_some() && options.contains("preallocation") {
                continue;
            }
            let mut bench = Bench::new(seed as u64);
            let image = bench.foreign(options, *size, backing);
            if bears_snapshots(options) {
                Tool::new("qemu-img").args(["snapshot", "-c", "before"]).arg(&image).run();
                bench.scribble(&image, "qcow2", *size, 5);
            }
            println!("{options} over {backing:?}");
            let theirs = content(&image, &[]);
            let disk = image::open(&image, &trusting(Format::Qcow2)).unwrap();
            assert_same(&read(&disk), &theirs);
            let raw = bench.path("ours.raw");
            let options = ConvertOptions { threads: 2, ..ConvertOptions::default() };
            let new = NewDisk::Raw { size: 0, preallocation: Preallocation::Off, no_cow: false };
            image::convert(&disk, &raw, &new, &options, 1, &|_| Ok(())).unwrap();
            assert_same(&std::fs::read(&raw).unwrap(), &theirs);
        }
    }
}

#[test]
fn writing_in_place_leaves_images_of_qemu_clean_and_their_snapshots_untouched() {
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        for backing in [None, Some("qcow2")] {
            if backing.is_some() && options.contains("preallocation") {
                continue;
            }
            println!("{options} over {backing:?}");
            let mut bench = Bench::new(100 + seed as u64);
            let image = bench.foreign(options, *size, backing);
            let snapshot = bears_snapshots(options).then(|| {
                Tool::new("qemu-img").args(["snapshot", "-c", "before"]).arg(&image).run();
                content(&image, &["-l", "snapshot.name=before"])
            });
            if !options.contains("compat=0.10") {
                Tool::new("qemu-img").args(["bitmap", "--add"]).arg(&image).arg("changes").run();
            }
            let mut model = content(&image, &[]);
            let cluster = cluster_size(&image);
            let mut disk = image::open_writable(&image, &trusting(Format::Qcow2)).unwrap();
            for step in 0..25 {
                let (start, len) = bench.run(model.len() as u64, cluster);
                let span = start as usize..(start + len) as usize;
                match bench.below(3) {
                    0 => {
                        let hole = if step % 2 == 0 { Hole::Allow } else { Hole::Keep };
                        disk.write_zeroes_at(ByteRange::at(start, len).unwrap(), hole).unwrap();
                        model[span].fill(0);
                    }
                    _ => {
                        let bytes: Vec<u8> = span.clone().map(|at| (at % 253 + step) as u8).collect();
                        disk.write_all_at(&bytes, start).unwrap();
                        model[span].copy_from_slice(&bytes);
                    }
                }
                if step == 12 {
                    disk.flush().unwrap();
                }
            }
            if !options.contains("0.10") {
                let larger = model.len() as u64 + cluster * 3 + 1536;
                disk.resize(larger).unwrap();
                model.resize(larger as usize, 0);
            }
            disk.flush().unwrap();
            assert_same(&read(&disk), &model);
            drop(disk);
            assert_clean(&image);
            assert_same(&content(&image, &[]), &model);
            if let Some(snapshot) = snapshot {
                // qemu-img shows it at the size that the disk has now.
                let mut now = content(&image, &["-l", "snapshot.name=before"]);
                now.truncate(snapshot.len());
                assert_same(&now, &snapshot);
            }
        }
    }
}

fn new_images() -> Vec<CreateOptions> {
    let default = CreateOptions::new(3_000_320);
    vec![
        default.clone(),
        CreateOptions { version: Version::V2, ..default.clone() },
        CreateOptions { version: Version::V2, cluster_size: 512, size: 250_880, ..default.clone() },
        CreateOptions { cluster_size: 512, refcount_bits: 1, size: 300_544, ..default.clone() },
        CreateOptions { cluster_size: 512, refcount_bits: 64, size: 300_544, lazy_refcounts: true, ..default.clone() },
        CreateOptions { cluster_size: 1024, refcount_bits: 2, compression: Compression::Zstd, ..default.clone() },
        CreateOptions { cluster_size: 4096, refcount_bits: 32, ..default.clone() },
        CreateOptions { cluster_size: 16384, extended_l2: true, ..default.clone() },
        CreateOptions { extended_l2: true, compression: Compression::Zstd, refcount_bits: 8, ..default.clone() },
        CreateOptions { cluster_size: 2 << 20, size: 40 << 20, ..default.clone() },
        CreateOptions { size: 1 << 40, ..default.clone() },
        CreateOptions { preallocation: Preallocation::Metadata, cluster_size: 8192, ..default.clone() },
        CreateOptions { preallocation: Preallocation::Full, extended_l2: true, ..default },
    ]
}

#[test]
fn new_images_are_what_qemu_would_make_and_bear_its_writes() {
    for options in new_images() {
        println!("{options:?}");
        let mut bench = Bench::new(7);
        let image = bench.path("new.qcow2");
        image::create(&image, &NewDisk::Qcow2(options.clone()), 1).unwrap();
        assert_clean(&image);
        let size = options.size.min(8 << 20);
        bench.scribble(&image, "qcow2", size, 20);
        assert_clean(&image);
    }
}

#[test]
fn converted_images_hold_the_same_and_are_clean() {
    let mut bench = Bench::new(8);
    let source = bench.foreign("cluster_size=4096", 3_000_320, Some("raw"));
    let theirs = content(&source, &[]);
    let disk = image::open(&source, &trusting(Format::Qcow2)).unwrap();
    for options in new_images() {
        for compress in [false, true] {
            if compress && options.preallocation != Preallocation::Off {
                continue;
            }
            println!("{options:?} compressed {compress}");
            let image = bench.path("converted.qcow2");
            let how = ConvertOptions { threads: 3, compress, ..ConvertOptions::default() };
            image::convert(&disk, &image, &NewDisk::Qcow2(options.clone()), &how, 1, &|_| Ok(())).unwrap();
            assert_clean(&image);
            assert_same(&content(&image, &[]), &theirs);
            let again = image::open(&image, &OpenOptions::default()).unwrap();
            assert_same(&read(&again), &theirs);
        }
    }
}

#[test]
fn an_overlay_in_one_pass_holds_what_was_changed_and_nothing_else() {
    let mut bench = Bench::new(9);
    let base = bench.foreign("cluster_size=65536", 5_000_192, None);
    let below = image::open(&base, &OpenOptions::default()).unwrap();
    let mut staged = imgcore::block::Staged::new(&below);
    staged.resize(20 << 20).unwrap();
    let mut changed = Vec::new();
    for (at, len) in [(0, 512), (70_000, 200_000), (4_990_000, 90_000), (19 << 20, 1 << 20)] {
        staged.write_all_at(&vec![7; len], at).unwrap();
        changed.push(ByteRange::at(at, len as u64).unwrap());
    }
    staged.write_zeroes_at(ByteRange::new(1 << 20, 2 << 20).unwrap(), Hole::Allow).unwrap();
    changed.push(ByteRange::new(1 << 20, 2 << 20).unwrap());
    let options = CreateOptions { size: 20 << 20, ..image::overlay_options(&below, b"image.qcow2") };
    let overlay = bench.path("overlay.qcow2");
    let mut file = imgcore::storage::FileDisk::create_new(&overlay).unwrap();
    let content_of = imgcore::qcow2::Content::new(&staged, &changed).over(&below);
    imgcore::qcow2::write_image(&mut file, &options, &content_of).unwrap();
    drop(file);
    assert_clean(&overlay);
    assert_same(&content(&overlay, &[]), &read(&staged));
    // 1 + 5 + 2 + 16 clusters of data, and at most 8 of tables.
    assert!(std::fs::metadata(&overlay).unwrap().len() <= 32 * 65536);
}

#[test]
fn info_says_what_qemu_img_says() {
    for (index, (options, size)) in GEOMETRIES.iter().enumerate() {
        let mut bench = Bench::new(index as u64);
        let backing = if options.contains("preallocation") { None } else { Some("raw") };
        let image = bench.foreign(options, *size, backing);
        if bears_snapshots(options) {
            Tool::new("qemu-img").args(["snapshot", "-c", "a name"]).arg(&image).run();
        }
        if !options.contains("0.10") {
            Tool::new("qemu-img").args(["bitmap", "--add"]).arg(&image).arg("b").run();
        }
        assert_same_info(&image);
    }
    let bench = Bench::new(0);
    let odd = bench.path("odd.qcow2");
    Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on"]).arg(&odd).arg("1M").run();
    Tool::new("qemu-img").args(["snapshot", "-c", "without a count"]).arg(&odd).run();
    let mut bytes = std::fs::read(&odd).unwrap();
    // Spec: "Bit 0: Dirty bit.", of the big-endian word at byte 72.
    bytes[79] |= 1;
    // Spec: "Byte 64 - 71: Offset into the image file at which the snapshot table starts."
    let snapshot = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
    // Spec: "Set to -1 if icount was disabled", at byte 16 of the extra data, which begins at byte 40.
    bytes[snapshot + 56..snapshot + 64].fill(0xFF);
    std::fs::write(&odd, bytes).unwrap();
    assert_same_info(&odd);
    let bench = Bench::new(0);
    let raw = bench.path("disk.raw");
    std::fs::write(&raw, [1; 5000]).unwrap();
    assert_same_info(&raw);
    let ours = bench.path("ours.qcow2");
    let data_file = Some(DataFileName { name: bench.path("ours.data").into_os_string().into_encoded_bytes(), raw: true });
    image::create(&ours, &NewDisk::Qcow2(CreateOptions { data_file, ..CreateOptions::new(1 << 20) }), 1).unwrap();
    assert_clean(&ours);
    assert_same_info(&ours);
    let disk = image::open(&ours, &trusting(Format::Qcow2)).unwrap();
    assert_same(&read(&disk), &vec![0; 1 << 20]);
}

#[track_caller]
fn assert_same_info(image: &Path) {
    let options = OpenOptions { follow: false, ..OpenOptions::default() };
    let info = Info::read(&image::open(image, &options).unwrap(), image).unwrap();
    let theirs = Tool::new("qemu-img").args(["info", "-U", "--output=json"]).arg(image).run();
    let theirs: serde_json::Value = serde_json::from_str(&theirs).unwrap();
    assert_eq!(serde_json::to_value(&info).unwrap(), theirs);
    let text = Tool::new("qemu-img").args(["info", "-U"]).env("TZ", "UTC").arg(image).run();
    assert_eq!(info.to_string(), text);
}

#[test]
fn an_image_is_followed_only_as_far_as_the_policy_says() {
    let bench = Bench::new(1);
    let image = bench.path("top.qcow2");
    let overlay = |name: &str| {
        let backing = Some(NewBacking { name: name.as_bytes().to_vec(), format: "raw".to_owned() });
        image::create(&image, &NewDisk::Qcow2(CreateOptions { backing, ..CreateOptions::new(1 << 20) }), 1).unwrap();
    };
    std::fs::write(bench.path("base"), [1; 4096]).unwrap();
    overlay("base");
    image::open(&image, &trusting(Format::Qcow2)).unwrap();
    let error = image::open(&image, &OpenOptions::default()).unwrap_err();
    assert!(matches!(error, image::Error::NotFollowed { .. }), "{error}");
    for name in ["json:{\"driver\":\"raw\"}", "nbd://127.0.0.1/x", "file:base", "ssh://host/x"] {
        overlay(name);
        let error = image::open(&image, &trusting(Format::Qcow2)).unwrap_err();
        assert!(matches!(error, image::Error::NotFollowed { .. }), "{name}: {error}");
    }
    Tool::new("mkfifo").arg(bench.path("fifo")).run();
    for name in ["fifo", ".", "/dev/null", "missing"] {
        overlay(name);
        let error = image::open(&image, &trusting(Format::Qcow2)).unwrap_err();
        assert!(matches!(error, image::Error::Below { .. }), "{name}: {error}");
    }
}

#[test]
fn a_chain_that_comes_back_to_itself_is_found() {
    let bench = Bench::new(2);
    let backing = |name: &str| Some(NewBacking { name: name.as_bytes().to_vec(), format: "qcow2".to_owned() });
    for (name, below) in [("a.qcow2", "b.qcow2"), ("b.qcow2", "./a.qcow2")] {
        let options = CreateOptions { backing: backing(below), ..CreateOptions::new(1 << 20) };
        image::create(&bench.path(name), &NewDisk::Qcow2(options), 1).unwrap();
    }
    let error = image::open(&bench.path("a.qcow2"), &trusting(Format::Qcow2)).unwrap_err();
    assert!(matches!(error, image::Error::Loop(_)), "{error}");
}
