//! Copies: qemu-img finds in them what it finds in the image, whatever the formats, options and sources.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use vmimg_tests::sandbox::Sandbox;

/// Options of source images; the size ends inside a cluster.
const SOURCES: &[(&str, &str)] = &[
    ("raw", ""),
    ("qcow2", "compat=0.10"),
    ("qcow2", "cluster_size=512,refcount_bits=1"),
    ("qcow2", "extended_l2=on,compression_type=zstd"),
    ("qcow2", "cluster_size=2M"),
];

/// What copies are made of them: the format, options and further arguments.
const COPIES: &[(&str, &str)] = &[
    ("raw", ""),
    ("raw", "-S 0"),
    ("raw", "-S 64k"),
    ("raw", "-o preallocation=falloc"),
    ("raw", "-o preallocation=full"),
    ("qcow2", ""),
    ("qcow2", "-W -m 4 -t unsafe -T none"),
    ("qcow2", "-c"),
    ("qcow2", "-c -o compression_type=zstd,cluster_size=4k"),
    ("qcow2", "-c -o cluster_size=512,refcount_bits=1"),
    ("qcow2", "-c -o cluster_size=2M,refcount_bits=2"),
    ("qcow2", "-o compat=0.10,cluster_size=512"),
    ("qcow2", "-o cluster_size=512,refcount_bits=64"),
    ("qcow2", "-o extended_l2=on,cluster_size=16k,lazy_refcounts=on"),
    ("qcow2", "-o preallocation=metadata,cluster_size=512"),
    ("qcow2", "-o preallocation=metadata,extended_l2=on"),
    ("qcow2", "-o preallocation=falloc"),
    ("qcow2", "-o preallocation=full"),
    ("qcow2", "-o data_file=DATA"),
    ("qcow2", "-o data_file=DATA,data_file_raw=on"),
    ("qcow2", "-o data_file=DATA,preallocation=falloc"),
    ("qcow2", "-B base.raw -F raw"),
    ("qcow2", "-c -B base.raw -F raw -o compat=0.10"),
    ("qcow2", "-o backing_file=base.raw,backing_fmt=raw,extended_l2=on"),
];

const SIZE: &str = "5000704";

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");

fn sandbox() -> Sandbox {
    Sandbox::new(PROGRAM)
}

fn qemu(sandbox: &Sandbox, line: &str) {
    let outcome = sandbox.qemu_img(line);
    assert_eq!(outcome.status, 0, "qemu-img {line}: {outcome}");
}

fn io(sandbox: &Sandbox, format: &str, image: &str, commands: &[&str]) {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    sandbox.tool("qemu-io").args(["-f", format]).args(commands).arg(image).run();
}

/// Makes `base.raw`, and `a.FORMAT` with data, zeros and holes.
fn sources(sandbox: &Sandbox, format: &str, options: &str) {
    qemu(sandbox, &format!("create -q -f raw base.raw {SIZE}"));
    io(sandbox, "raw", "base.raw", &["write -P 7 0 600k", "write -P 8 3M 200k"]);
    let options = if options.is_empty() { String::new() } else { format!("-o {options}") };
    qemu(sandbox, &format!("create -q -f {format} {options} a.{format} {SIZE}"));
    let data = ["write -P 7 0 300k", "write -P 1 301k 100k", "write -P 2 1M 1500k", "write -z 1200k 300k", "write -P 0 3M 70k"];
    io(sandbox, format, &format!("a.{format}"), &data);
    io(sandbox, format, &format!("a.{format}"), &["write -P 9 5000192 512"]);
    if format == "qcow2" && !options.contains("2M") {
        io(sandbox, format, "a.qcow2", &["write -c -P 5 4M 64k"]);
    }
}

#[test]
fn every_copy_is_the_same_disk_and_sound() {
    for (from, from_options) in SOURCES {
        let sandbox = sandbox();
        sources(&sandbox, from, from_options);
        for (index, (to, how)) in COPIES.iter().enumerate() {
            let how = how.replace("DATA", &format!("{index}.data"));
            sandbox.done(&format!("image convert {how} -f {from} -O {to} a.{from} {index}.{to}"));
            qemu(&sandbox, &format!("compare -f {from} -F {to} a.{from} {index}.{to}"));
            if *to == "qcow2" {
                qemu(&sandbox, &format!("check -q -f qcow2 {index}.qcow2"));
            }
            // And as large as theirs, but for a few tables.
            let theirs = how.replace(&format!("{index}.data"), &format!("{index}-theirs.data"));
            qemu(&sandbox, &format!("convert {theirs} -f {from} -O {to} a.{from} {index}-theirs.{to}"));
            for end in [*to, "data"] {
                let stored = |name: String| fs::metadata(sandbox.path(name)).map(|found| (found.len(), found.blocks() * 512));
                let Ok((theirs, their_blocks)) = stored(format!("{index}-theirs.{end}")) else { continue };
                let (ours, our_blocks) = stored(format!("{index}.{end}")).unwrap();
                assert!(ours <= theirs * 103 / 100 + (4 << 20), "{how}: {ours} bytes, {theirs} by qemu-img");
                let full = how.contains("falloc") || how.contains("full") || how == "-S 0";
                // QEMU gives up what was set aside in a data file where there are zeros.
                assert!(
                    full || our_blocks <= their_blocks * 11 / 10 + (256 << 10),
                    "{how}: {our_blocks} stored, {their_blocks} by qemu-img"
                );
                assert!(
                    !full || our_blocks + (512 << 10) >= their_blocks,
                    "{how}: {our_blocks} stored, {their_blocks} by qemu-img"
                );
            }
        }
    }
}

#[test]
fn the_same_image_gives_the_same_bytes_whatever_the_number_of_threads() {
    let sandbox = sandbox();
    sources(&sandbox, "qcow2", "");
    for how in ["", "-c", "-c -o compression_type=zstd", "-o cluster_size=512", "-B base.raw -F raw"] {
        sandbox.done(&format!("image convert {how} -O qcow2 a.qcow2 b.qcow2"));
        let alone = sandbox.tool("taskset").args(["-c", "0", PROGRAM, "image", "convert"]).args(how.split_whitespace());
        alone.args(["-O", "qcow2", "a.qcow2", "c.qcow2"]).run();
        assert!(fs::read(sandbox.path("b.qcow2")).unwrap() == fs::read(sandbox.path("c.qcow2")).unwrap(), "{how}");
    }
}

#[test]
fn snapshots_are_copied_as_they_were() {
    let sandbox = sandbox();
    sources(&sandbox, "qcow2", "");
    qemu(&sandbox, "snapshot -c before a.qcow2");
    io(&sandbox, "qcow2", "a.qcow2", &["write -P 99 0 1M"]);
    qemu(&sandbox, "snapshot -c 7 a.qcow2");
    io(&sandbox, "qcow2", "a.qcow2", &["write -z 0 2M"]);
    let names = ["before", "1", "7", "2", "snapshot.name=before", "snapshot.id=2", "snapshot.id=1,snapshot.name=before"];
    for name in names {
        qemu(&sandbox, &format!("convert -l {name} -O raw a.qcow2 {name}.raw"));
    }
    // A snapshot keeps the size that the disk had.
    qemu(&sandbox, "resize -q a.qcow2 +1M");
    for name in names {
        sandbox.done(&format!("image convert -l {name} -O raw a.qcow2 ours.raw"));
        let [theirs, ours] = [format!("{name}.raw"), "ours.raw".to_owned()].map(|name| fs::read(sandbox.path(name)).unwrap());
        assert!(theirs == ours, "{name}");
    }
    for name in ["after", "snapshot.id=2,snapshot.name=before", "snapshot.colour=2"] {
        assert_eq!(sandbox.run(&format!("image convert -l {name} a.qcow2 x.raw")).status, 1, "{name}");
    }
    assert!(!sandbox.path("x.raw").exists());
}

#[test]
fn several_images_follow_each_other_in_one_copy() {
    let sandbox = sandbox();
    sources(&sandbox, "qcow2", "");
    fs::write(sandbox.path("odd.raw"), vec![3; 70_000]).unwrap();
    for (to, images) in
        [("raw", "a.qcow2 base.raw odd.raw"), ("raw", "odd.raw a.qcow2"), ("qcow2", "odd.raw odd.raw a.qcow2 base.raw")]
    {
        qemu(&sandbox, &format!("convert -O {to} {images} theirs.{to}"));
        sandbox.done(&format!("image convert -O {to} {images} ours.{to}"));
        qemu(&sandbox, &format!("compare -f {to} -F {to} theirs.{to} ours.{to}"));
    }
}

#[test]
fn an_image_that_is_there_is_filled_and_keeps_what_is_behind() {
    let sandbox = sandbox();
    sources(&sandbox, "qcow2", "");
    for (format, options, how) in [
        ("raw", "", ""),
        ("raw", "", "-S 0"),
        ("qcow2", "", ""),
        ("qcow2", "-o cluster_size=512,compat=0.10", ""),
        ("qcow2", "-o extended_l2=on", "-p"),
        ("qcow2", "-o compression_type=zstd", "-c"),
        ("qcow2", "-o cluster_size=512", "-c"),
    ] {
        for (size, written) in [(SIZE, false), (SIZE, true), ("7M", true)] {
            qemu(&sandbox, &format!("create -q -f {format} {options} there.{format} {size}"));
            if written {
                io(&sandbox, format, &format!("there.{format}"), &["write -P 77 0 4883k"]);
                io(&sandbox, format, &format!("there.{format}"), &["write -P 78 5000192 512"]);
            }
            let zero = if written { "" } else { "--target-is-zero" };
            sandbox.done(&format!("image convert -n {how} {zero} -O {format} a.qcow2 there.{format}"));
            qemu(&sandbox, &format!("compare -f qcow2 -F {format} a.qcow2 there.{format}"));
            if format == "qcow2" {
                qemu(&sandbox, "check -q -f qcow2 there.qcow2");
            }
        }
    }
    // What lies behind the source stays.
    qemu(&sandbox, "create -q -f raw there.raw 6M");
    io(&sandbox, "raw", "there.raw", &["write -P 5 0 6M"]);
    sandbox.done("image convert -n -O raw a.qcow2 there.raw");
    io(&sandbox, "raw", "there.raw", &["read -P 5 5000704 1290752"]);
    // Nothing is written to one that is too small.
    qemu(&sandbox, "create -q -f raw there.raw 1M");
    assert_eq!(sandbox.run("image convert -n -O raw a.qcow2 there.raw").status, 1);
    io(&sandbox, "raw", "there.raw", &["read -P 0 0 1M"]);
}

#[test]
fn bitmaps_are_copied_on_demand_and_broken_ones_left_out_on_demand() {
    let sandbox = sandbox();
    sources(&sandbox, "qcow2", "");
    qemu(&sandbox, "bitmap --add -g 32k a.qcow2 on");
    qemu(&sandbox, "bitmap --add --disable a.qcow2 off");
    io(&sandbox, "qcow2", "a.qcow2", &["write -P 4 2M 100k"]);
    let found = |image: &str| -> serde_json::Value {
        let info: serde_json::Value =
            serde_json::from_str(&sandbox.qemu_img(&format!("info --output=json {image}")).stdout).unwrap();
        info["format-specific"]["data"]["bitmaps"].clone()
    };
    let marks = |image: &str| {
        let image =
            imgcore::qcow2::Image::open(imgcore::block::MemoryDisk::new(fs::read(sandbox.path(image)).unwrap())).unwrap();
        ["on", "off"].map(|name| image.bitmap_bits(name).unwrap().runs().collect::<Vec<_>>())
    };
    for how in ["--bitmaps", "--bitmaps -c -o compression_type=zstd", "--bitmaps -o cluster_size=4k"] {
        sandbox.done(&format!("image convert {how} -O qcow2 a.qcow2 b.qcow2"));
        qemu(&sandbox, &format!("convert {how} -O qcow2 a.qcow2 theirs.qcow2"));
        qemu(&sandbox, "check -q b.qcow2");
        qemu(&sandbox, "compare a.qcow2 b.qcow2");
        assert_eq!(found("b.qcow2"), found("theirs.qcow2"));
        assert_eq!(marks("b.qcow2"), marks("theirs.qcow2"));
    }
    sandbox.done("image convert -O qcow2 a.qcow2 none.qcow2");
    assert!(found("none.qcow2").is_null());
    // A program that dies while it writes leaves its bitmaps in use.
    let kill = sandbox.tool("qemu-io").args(["-c", "write -P 6 0 64k", "-c", "abort", "a.qcow2"]).output();
    assert!(!kill.status.success());
    assert_eq!(sandbox.run("image convert --bitmaps -O qcow2 a.qcow2 broken.qcow2").status, 1);
    assert!(!sandbox.path("broken.qcow2").exists());
    sandbox.done("image convert --bitmaps --skip-broken-bitmaps -O qcow2 a.qcow2 whole.qcow2");
    qemu(&sandbox, "convert -q --bitmaps --skip-broken-bitmaps -O qcow2 a.qcow2 theirs.qcow2");
    assert_eq!(found("whole.qcow2"), found("theirs.qcow2"));
}

#[test]
fn what_cannot_be_read_is_zeros_when_the_rest_is_to_be_saved() {
    let sandbox = sandbox();
    qemu(&sandbox, "create -q -f qcow2 a.qcow2 1M");
    io(&sandbox, "qcow2", "a.qcow2", &["write -c -P 5 0 64k", "write -P 6 64k 64k"]);
    let mut bytes = fs::read(sandbox.path("a.qcow2")).unwrap();
    let map = sandbox.qemu_img("map --output=json a.qcow2").stdout;
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let data = map[1]["offset"].as_u64().unwrap() as usize;
    // The compressed cluster lies in the one before.
    let compressed = bytes[..data].iter().rposition(|byte| *byte != 0).unwrap();
    bytes[compressed / 512 * 512..][..512].fill(0xFF);
    fs::write(sandbox.path("a.qcow2"), bytes).unwrap();
    assert_eq!(sandbox.run("image convert -O raw a.qcow2 x.raw").status, 1);
    assert!(!sandbox.path("x.raw").exists());
    let saved = sandbox.run("image convert --salvage -O raw a.qcow2 x.raw");
    assert_eq!((saved.status, saved.stderr.contains("offset 0")), (0, true), "{saved}");
    io(&sandbox, "raw", "x.raw", &["read -P 0 0 64k", "read -P 6 64k 64k"]);
    assert_eq!(sandbox.run("image convert -q --salvage -O raw a.qcow2 x.raw").stderr, "");
}

#[test]
fn progress_is_printed_in_qemu_img_s_form_and_the_rate_is_kept() {
    let sandbox = sandbox();
    sources(&sandbox, "qcow2", "");
    let shown = sandbox.done("image convert -p -O raw a.qcow2 b.raw");
    assert!(shown.starts_with("    (0.00/100%)\r") && shown.ends_with("    (100.00/100%)\r\n"), "{shown:?}");
    assert_eq!(sandbox.done("image convert -p -q -O raw a.qcow2 b.raw"), "");
    let begun = std::time::Instant::now();
    sandbox.done("image convert -r 4M -O raw a.qcow2 b.raw");
    // Some 2.5 MB are data; the first piece is free.
    assert!(begun.elapsed().as_millis() > 200, "{:?}", begun.elapsed());
}

#[test]
fn both_refuse_the_same() {
    let sandbox = sandbox();
    sources(&sandbox, "qcow2", "");
    qemu(&sandbox, "snapshot -c s a.qcow2");
    for line in [
        "-c -O raw a.qcow2 x.raw",
        "-c -O qcow2 -o preallocation=metadata a.qcow2 x.qcow2",
        "-c -O qcow2 -o data_file=x.data a.qcow2 x.qcow2",
        "-O raw -B base.raw -F raw a.qcow2 x.raw",
        "-O qcow2 -B base.raw a.qcow2 x.qcow2",
        "-O qcow2 -F raw a.qcow2 x.qcow2",
        "-O qcow2 -B base.raw -F raw -o preallocation=full a.qcow2 x.qcow2",
        "-O qcow2 -B base.raw -F raw a.qcow2 a.qcow2 x.qcow2",
        "-n -O qcow2 -o cluster_size=4k a.qcow2 a.qcow2",
        "-n -O raw a.qcow2 missing.raw",
        "--target-is-zero -O raw a.qcow2 x.raw",
        "--target-image-opts -O raw a.qcow2 driver=raw,file.filename=x.raw",
        "-O raw a.qcow2 a.qcow2",
        "-O qcow2 a.qcow2 a.qcow2",
        "-l s a.qcow2 a.qcow2 x.raw",
        "-S 3 a.qcow2 x.raw",
        "-S 32M a.qcow2 x.raw",
        "-m 0 a.qcow2 x.raw",
        "-m 17 a.qcow2 x.raw",
        "-t bogus a.qcow2 x.raw",
        "-T bogus a.qcow2 x.raw",
        "-r x a.qcow2 x.raw",
        "-C -S 4k a.qcow2 x.raw",
        "-C -c -O qcow2 a.qcow2 x.qcow2",
        "-C --salvage a.qcow2 x.raw",
        "--bitmaps -O raw a.qcow2 x.raw",
        "--skip-broken-bitmaps -O qcow2 a.qcow2 x.qcow2",
        "-O vfat a.qcow2 x.vfat",
        "-O raw -o preallocation=metadata a.qcow2 x.raw",
        "-O qcow2 -o cluster_size=3 a.qcow2 x.qcow2",
        "-O qcow2 -o compat=0.10,extended_l2=on a.qcow2 x.qcow2",
        "-O qcow2 -o data_file_raw=on a.qcow2 x.qcow2",
        "-O qcow2 -o data_file=x.data,data_file_raw=on -B base.raw -F raw a.qcow2 x.qcow2",
        "a.qcow2",
        "missing.qcow2 x.raw",
        "a.qcow2 missing/x.raw",
    ] {
        let before = sandbox.names();
        let (theirs, ours) = (sandbox.qemu_img(&format!("convert {line}")), sandbox.run(&format!("image convert {line}")));
        assert_eq!((theirs.status, ours.status), (1, 1), "{line}\n{theirs}\n{ours}");
        for left in sandbox.names().iter().filter(|name| !before.contains(name)) {
            assert!(!ours.stderr.is_empty() && fs::remove_file(sandbox.path(left)).is_ok(), "{line} leaves {left}");
        }
    }
}

#[test]
fn an_image_with_its_contents_in_a_data_file_is_read_back_by_both() {
    let sandbox = sandbox();
    sources(&sandbox, "raw", "");
    for options in ["data_file=b.data", "data_file=b.data,data_file_raw=on", "data_file=b.data,preallocation=metadata"] {
        sandbox.done(&format!("image convert -f raw -O qcow2 -o {options} a.raw b.qcow2"));
        qemu(&sandbox, "compare -f raw -F qcow2 a.raw b.qcow2");
        sandbox.done("image convert -f qcow2 -O raw b.qcow2 back.raw");
        assert!(fs::read(sandbox.path("a.raw")).unwrap() == fs::read(sandbox.path("back.raw")).unwrap());
        if options.contains("raw=on") {
            qemu(&sandbox, "compare -f raw -F raw a.raw b.data");
        }
        qemu(&sandbox, "check -q b.qcow2");
    }
}
