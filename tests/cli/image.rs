//! `vmimg image`: qemu-img's command lines.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::sandbox;

#[test]
fn create_says_what_qemu_img_says_and_qemu_img_finds_no_fault() {
    let sandbox = sandbox();
    for (line, name) in [
        ("create -f qcow2 a.qcow2 1G", "a.qcow2"),
        ("create -f raw a.raw 1.5M", "a.raw"),
        ("create -f qcow2 -o cluster_size=2M,compat=1.1,lazy_refcounts=on,refcount_bits=64 b.qcow2 20G", "b.qcow2"),
        ("create -f qcow2 -o compat=0.10 c.qcow2 64k", "c.qcow2"),
        ("create -f qcow2 -b a.qcow2 -F qcow2 d.qcow2", "d.qcow2"),
        ("create -f qcow2 -o extended_l2=on,compression_type=zstd,preallocation=metadata e.qcow2 8M", "e.qcow2"),
    ] {
        let ours = sandbox.done(&format!("image {line}"));
        if name.ends_with("qcow2") {
            sandbox.tool("qemu-img").args(["check", "-q", "-f", "qcow2", name]).run();
        }
        assert_eq!(sandbox.tool("qemu-img").args(line.split_whitespace()).run(), ours);
    }
}

#[test]
fn info_is_what_qemu_img_prints() {
    let sandbox = sandbox();
    let qemu = |line: &str| sandbox.tool("qemu-img").args(line.split_whitespace()).run();
    qemu("create -q -f raw base.raw 10M");
    qemu("create -q -f qcow2 -b base.raw -F raw over.qcow2");
    qemu("create -q -f qcow2 -o compat=0.10 old.qcow2 10M");
    qemu("snapshot -c first old.qcow2");
    qemu("create -q -f qcow2 -o extended_l2=on,compression_type=zstd,lazy_refcounts=on new.qcow2 1G");
    qemu("bitmap --add new.qcow2 changes");
    for line in [
        "info base.raw",
        "info over.qcow2",
        "info --backing-chain over.qcow2",
        "info old.qcow2",
        "info new.qcow2",
        "info -f raw new.qcow2",
    ] {
        assert_eq!(sandbox.done(&format!("image {line}")), qemu(line), "{line}");
        let line = line.replace("info", "info --output=json");
        let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert_eq!(json(sandbox.done(&format!("image {line}"))), json(qemu(&line)), "{line}");
    }
}

#[test]
fn a_converted_image_has_the_same_content_in_every_form() {
    let sandbox = sandbox();
    let qemu = |line: &str| sandbox.tool("qemu-img").args(line.split_whitespace()).run();
    sandbox.file("a.raw", [vec![1; 70_000], vec![0; 3_000_000], vec![2; 5000], vec![0; 413_672]].concat());
    for line in [
        "-f raw -O qcow2 a.raw b.qcow2",
        "-f raw -O qcow2 -c a.raw c.qcow2",
        "-f raw -O qcow2 -c -o compression_type=zstd,cluster_size=4k a.raw d.qcow2",
        "-f qcow2 -O raw c.qcow2 e.raw",
        "-f raw -O qcow2 -o preallocation=metadata a.raw f.qcow2",
        "-f raw -O qcow2 -B e.raw -F raw a.raw g.qcow2",
        "-f raw -O raw -S 0 a.raw h.raw",
        "-f raw -O raw -o preallocation=full a.raw i.raw",
        "-f raw -O raw -S 64k a.raw j.raw",
    ] {
        sandbox.done(&format!("image convert {line}"));
        let copy = line.split_whitespace().last().unwrap();
        let format = copy.split('.').next_back().unwrap();
        qemu(&format!("compare -q -f raw -F {format} a.raw {copy}"));
        if format == "qcow2" {
            qemu(&format!("check -q -f qcow2 {copy}"));
        }
    }
    let stored = |name| fs::metadata(sandbox.path(name)).unwrap().blocks() * 512;
    for (name, whole) in [("e.raw", false), ("h.raw", true), ("i.raw", true), ("j.raw", false)] {
        assert_eq!(stored(name) >= fs::metadata(sandbox.path("a.raw")).unwrap().len(), whole, "{name}: {}", stored(name));
    }
    assert!(fs::metadata(sandbox.path("g.qcow2")).unwrap().len() < 262_145, "what the backing file has is not copied");
    assert!(fs::metadata(sandbox.path("c.qcow2")).unwrap().len() < fs::metadata(sandbox.path("b.qcow2")).unwrap().len());
}

#[test]
fn resize_grows_and_does_not_shrink_by_mistake() {
    let sandbox = sandbox();
    sandbox.done("image create -q -f qcow2 a.qcow2 1G");
    assert_eq!(sandbox.done("image resize -f qcow2 a.qcow2 +1G"), "Image resized.\n");
    assert!(sandbox.done("image info a.qcow2").contains("virtual size: 2 GiB (2147483648 bytes)"));
    insta::assert_snapshot!(sandbox.run("image resize -f qcow2 a.qcow2 1G"), @r"
    exit status 1
    --- stderr
    error: 1073741824 bytes are less than the 2147483648 that the disk has

    hint: `--shrink` allows it: what is behind the new end is lost
    ");
    sandbox.tool("qemu-img").args(["check", "-q", "a.qcow2"]).run();
}

#[test]
fn every_failure_has_qemu_imgs_exit_status_and_leaves_nothing() {
    let sandbox = sandbox();
    sandbox.file("a.raw", vec![0; 1 << 20]);
    for line in [
        "info nothing",
        "info",
        "create -f qcow2 x.qcow2",
        "create -f qcow2 x.qcow2 1Z",
        "create -f vmdk x.vmdk 1G",
        "create -f qcow2 -o nonsense=1 x.qcow2 1G",
        "create -f qcow2 -b a.raw x.qcow2",
        "create -f qcow2 -b missing.raw -F raw x.qcow2",
        "create -f qcow2 -o cluster_size=3 x.qcow2 1G",
        "convert -O qcow2 a.raw",
        "convert -O qcow2 nothing x.qcow2",
        "convert -c -O raw a.raw x.raw",
        "convert -O raw a.raw a.raw",
        "create -f qcow2 -b a.raw -F raw a.raw",
        "create -f raw -b a.raw -F raw x.raw",
        "create -f raw -o preallocation=metadata x.raw 1M",
        "create -f qcow2 -b nbd://localhost/x -F raw x.qcow2",
        "convert -O raw -B a.raw -F raw a.raw x.raw",
        "resize -f raw a.raw 0",
        "resize -f raw a.raw -- -2M",
        "resize -f raw --preallocation=metadata a.raw +1M",
    ] {
        let outcome = sandbox.run(&format!("image {line}"));
        assert_eq!(outcome.status, 1, "{line}\n{outcome}");
        assert!(outcome.stderr.starts_with("error: "), "{line}\n{outcome}");
    }
    assert_eq!(sandbox.names(), ["a.raw"]);
    assert_eq!(fs::metadata(sandbox.path("a.raw")).unwrap().len(), 1 << 20);
}

#[test]
fn an_external_data_file_is_made_where_qemu_looks_for_it() {
    let sandbox = sandbox();
    fs::create_dir(sandbox.path("pool")).unwrap();
    for tool in [false, true] {
        let line = "create -q -f qcow2 -o data_file=disk.data,data_file_raw=on pool/disk.qcow2 1000000";
        if tool {
            sandbox.tool("qemu-img").args(line.split_whitespace()).run();
        } else {
            sandbox.done(&format!("image {line}"));
        }
        // QEMU's ends with the cluster, ours with the disk.
        assert!(fs::metadata(sandbox.path("disk.data")).unwrap().len() >= 1_000_448);
        assert_eq!(sandbox.names(), ["disk.data", "pool"]);
        sandbox.tool("qemu-img").args(["check", "-q", "-f", "qcow2", "pool/disk.qcow2"]).run();
        sandbox.done("image convert -f qcow2 -O raw pool/disk.qcow2 copy.raw");
        fs::remove_file(sandbox.path("copy.raw")).unwrap();
        fs::remove_file(sandbox.path("disk.data")).unwrap();
    }
}

#[test]
fn a_chain_is_shown_as_far_as_it_may_be_followed() {
    let sandbox = sandbox();
    let qemu = |line: &str| sandbox.tool("qemu-img").args(line.split_whitespace()).run();
    qemu("create -q -f qcow2 -u -b json:{} -F raw a.qcow2 1M");
    let outcome = sandbox.run("image info --backing-chain a.qcow2");
    assert_eq!((outcome.status, outcome.stdout.as_str()), (1, ""), "{outcome}");
    assert!(outcome.stderr.contains("`json:{}`, which may not be opened: it is no plain path"), "{outcome}");
    qemu("create -q -f qcow2 -u -b c.qcow2 -F qcow2 b.qcow2 1M");
    qemu("create -q -f qcow2 -u -b b.qcow2 -F qcow2 c.qcow2 1M");
    let outcome = sandbox.run("image info --backing-chain b.qcow2");
    assert_eq!((outcome.status, outcome.stdout.as_str()), (1, ""), "{outcome}");
    assert!(outcome.stderr.starts_with("error: the backing chain comes back to `b.qcow2`"), "{outcome}");
}

#[test]
fn nothing_but_plain_files_is_followed_from_an_image() {
    let sandbox = sandbox();
    sandbox
        .tool("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-u", "-b", "nbd://localhost/x", "-F", "raw", "a.qcow2", "1M"])
        .run();
    insta::assert_snapshot!(sandbox.run("image convert -f qcow2 -O raw a.qcow2 b.raw"), @r"
    exit status 1
    --- stderr
    error: `[SANDBOX]/a.qcow2` refers to the backing file `nbd://localhost/x`, which may not be opened: it is no plain path
    ");
}

#[test]
fn a_signal_undoes_what_was_begun_and_ends_the_program() {
    use rand_core::{RngCore as _, SeedableRng as _};
    use std::os::unix::process::ExitStatusExt as _;
    let sandbox = sandbox();
    let mut noise = vec![0; 96 << 20];
    rand_chacha::ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut noise);
    sandbox.file("a.raw", noise);
    let convert = sandbox.program().args(["image", "convert", "-c", "-f", "raw", "-O", "qcow2", "a.raw", "b.qcow2"]);
    let mut convert = convert.spawn_with(std::process::Stdio::null());
    while sandbox.names().len() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(convert.try_wait().unwrap(), None, "it ended before it began to write");
    }
    sandbox.tool("kill").args(["-TERM", &convert.id().to_string()]).run();
    assert_eq!(convert.wait().unwrap().signal(), Some(15));
    assert_eq!(sandbox.names(), ["a.raw"]);
}

#[test]
fn rebase_ends_as_in_qemu_img_and_says_nothing() {
    let sandbox = sandbox();
    let qemu = |line: &str| sandbox.tool("qemu-img").args(line.split_whitespace()).run();
    qemu("create -q -f qcow2 base.qcow2 1M");
    qemu("create -q -f raw disk.raw 1M");
    for line in [
        "rebase -b base.qcow2 -F qcow2 top.qcow2",
        "rebase -f qcow2 -p -b disk.raw -F raw top.qcow2",
        "rebase -t none -T none -q -c -b base.qcow2 -F qcow2 top.qcow2",
        "rebase -u top.qcow2",
        "rebase -u -b elsewhere.qcow2 -F qcow2 top.qcow2",
        "rebase top.qcow2",
        "rebase -b base.qcow2 top.qcow2",
        "rebase -b missing.qcow2 -F qcow2 top.qcow2",
        "rebase -b base.qcow2 -F nonsense top.qcow2",
        "rebase -u -b base.qcow2 -F nonsense top.qcow2",
        "rebase -b top.qcow2 -F qcow2 top.qcow2",
        "rebase -f raw -b base.qcow2 -F qcow2 disk.raw",
        "rebase -b base.qcow2 -F qcow2 missing.qcow2",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let run = |tool: vmimg_tests::tool::Tool| {
            qemu("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
            let output = tool.output();
            let info = String::from_utf8(sandbox.tool("qemu-img").args(["info", "-U", "top.qcow2"]).output().stdout).unwrap();
            let backing = info.lines().filter(|line| line.contains("backing file")).collect::<Vec<_>>().join(" ");
            (output.status.code(), backing, output.stderr.is_empty())
        };
        let theirs = run(sandbox.tool("qemu-img").args(&words));
        let ours = run(sandbox.program().arg("image").args(&words));
        assert_eq!(ours, theirs, "{line}");
    }
}

#[test]
fn commit_says_and_ends_as_qemu_img_does() {
    let sandbox = sandbox();
    let qemu = |line: &str| sandbox.tool("qemu-img").args(line.split_whitespace()).run();
    for line in [
        "commit top.qcow2",
        "commit -f qcow2 -q -t none top.qcow2",
        "commit -b base.raw -d top.qcow2",
        "commit -b ./mid.qcow2 top.qcow2",
        "commit -r 1G top.qcow2",
        "commit -r nonsense top.qcow2",
        "commit -b missing.raw top.qcow2",
        "commit -b top.qcow2 top.qcow2",
        "commit -f raw base.raw",
        "commit missing.qcow2",
        "commit",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let run = |tool: vmimg_tests::tool::Tool| {
            qemu("create -q -f raw base.raw 3M");
            qemu("create -q -f qcow2 -b base.raw -F raw mid.qcow2");
            qemu("create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 4M");
            sandbox.tool("qemu-io").args(["-c", "write -P 5 1M 1M", "top.qcow2"]).run();
            let output = tool.output();
            let held = sandbox.tool("qemu-img").args(["map", "--output=json", "-U", "top.qcow2"]).run();
            let base = fs::read(sandbox.path("base.raw")).unwrap();
            (
                output.status.code(),
                output.stdout,
                output.stderr.is_empty(),
                held.contains("\"depth\": 0, \"present\": true"),
                base,
            )
        };
        let theirs = run(sandbox.tool("qemu-img").args(&words));
        let ours = run(sandbox.program().arg("image").args(&words));
        assert!(
            ours == theirs,
            "{line}: {:?} {:?}",
            (ours.0, String::from_utf8_lossy(&ours.1), ours.2, ours.3),
            (theirs.0, String::from_utf8_lossy(&theirs.1), theirs.2, theirs.3)
        );
    }
}

#[test]
fn images_are_named_as_qemu_img_names_them() {
    let sandbox = sandbox();
    sandbox.done("image create -q -f qcow2 a.qcow2 1M");
    for line in [
        "info file:a.qcow2",
        "info --image-opts driver=qcow2,file.filename=a.qcow2",
        "info --image-opts file.driver=file,file.filename=a.qcow2",
        "info --image-opts driver=raw,file.filename=a.qcow2",
        "info -U --output json --image-opts driver=qcow2,file.filename=a.qcow2,file.locking=off",
    ] {
        let line = line.replace("--output json ", "");
        assert_eq!(sandbox.done(&format!("image {line}")), sandbox.qemu_img(&line).stdout, "{line}");
    }
    sandbox.done("image resize -q --image-opts driver=qcow2,file.filename=a.qcow2 2M");
    assert!(sandbox.done("image info a.qcow2").contains("virtual size: 2 MiB"));
    insta::assert_snapshot!(sandbox.run("image info json:{}"), @r"
    exit status 1
    --- stderr
    error: `json:` is not supported: images are files and NBD exports

    hint: a file whose own name has a colon is `./NAME` or `file:NAME`
    hint: an NBD export is `nbd://HOST:PORT/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`
    ");
    for line in [
        "info nbd://localhost/x",
        "info --image-opts -f raw driver=raw,file.filename=a.qcow2",
        "info --image-opts driver=nbd,host=x",
        "info --image-opts a.qcow2",
        "resize --image-opts driver=qcow2,file.filename=a.qcow2,force-share=on 3M",
        "map -f luks a.qcow2",
    ] {
        let outcome = sandbox.run(&format!("image {line}"));
        assert_eq!((outcome.status, outcome.stdout.as_str()), (1, ""), "{line}\n{outcome}");
        assert!(outcome.stderr.starts_with("error: "), "{line}\n{outcome}");
    }
}

#[test]
fn an_image_that_is_not_trusted_must_be_what_it_seems_and_stand_alone() {
    let sandbox = sandbox();
    let qemu = |line: &str| assert_eq!(sandbox.qemu_img(line).status, 0, "{line}");
    sandbox.file("base.raw", vec![0; 1 << 20]);
    qemu("create -q -f qcow2 good.qcow2 1M");
    qemu("create -q -f qcow2 -b base.raw -F raw over.qcow2");
    qemu("create -q -f qcow2 -o data_file=data.raw data.qcow2 1M");
    for (name, at, byte) in [("compatible.qcow2", 87, 2), ("autoclear.qcow2", 95, 4), ("both.qcow2", 64, 0)] {
        let mut bytes = fs::read(sandbox.path("good.qcow2")).unwrap();
        bytes[at] |= byte;
        if byte == 0 {
            bytes[32_769..32_774].copy_from_slice(b"CD001");
        }
        sandbox.file(name, bytes);
    }
    let mut iso = vec![0; 1 << 20];
    iso[32_769..32_774].copy_from_slice(b"CD001");
    sandbox.file("disc.raw", &iso);
    let mut parted = vec![0; 1 << 20];
    parted[510..512].copy_from_slice(b"\x55\xaa");
    sandbox.file("parted.raw", &parted);
    for (image, sound) in [
        ("-f qcow2 good.qcow2", true),
        ("good.qcow2", true),
        ("parted.raw", true),
        ("-f raw parted.raw", true),
        ("over.qcow2", false),
        ("data.qcow2", false),
        ("compatible.qcow2", false),
        ("autoclear.qcow2", false),
        ("both.qcow2", false),
        ("disc.raw", false),
        ("-f raw disc.raw", false),
        ("-f raw good.qcow2", false),
        ("--image-opts driver=raw,file.filename=good.qcow2", false),
    ] {
        for line in
            [format!("--untrusted info {image}"), format!("map --untrusted {image}"), format!("measure --untrusted {image}")]
        {
            let outcome = sandbox.run(&format!("image {line}"));
            assert_eq!(outcome.status == 0, sound, "{line}\n{outcome}");
            assert_eq!(sandbox.run(&format!("image {}", line.replace("--untrusted", ""))).status, 0, "{line}");
        }
    }
    for line in ["resize --untrusted over.qcow2 2M", "--untrusted rebase -u -b '' over.qcow2", "--untrusted commit over.qcow2"]
    {
        let outcome = sandbox.run(&format!("image {line}"));
        assert_eq!((outcome.status, outcome.stdout.as_str()), (1, ""), "{line}\n{outcome}");
    }
    assert_eq!(sandbox.run("image --untrusted compare over.qcow2 base.raw").status, 2);
    assert_eq!(sandbox.run("image --untrusted create -q -f qcow2 -b over.qcow2 -F qcow2 new.qcow2").status, 1);
    sandbox.done("image --untrusted create -q -f qcow2 -b good.qcow2 -F qcow2 new.qcow2");
    insta::assert_snapshot!(sandbox.run("image --untrusted info both.qcow2"), @r"
    exit status 1
    --- stderr
    error: `[SANDBOX]/both.qcow2` cannot be trusted: its bytes are those of an ISO 9660 file system, and it was opened as qcow2
    ");
}

#[test]
fn images_of_other_formats_are_not_read_as_raw() {
    let sandbox = sandbox();
    for format in ["vmdk", "vpc", "vhdx", "vdi", "qed", "qcow", "parallels"] {
        let line = format!("create -q -f {format} disk.{format} 4M");
        assert_eq!(sandbox.qemu_img(&line).status, 0, "{line}");
        for line in [format!("info disk.{format}"), format!("map disk.{format}"), format!("convert disk.{format} copy.raw")] {
            let outcome = sandbox.run(&format!("image {line}"));
            assert_eq!((outcome.status, outcome.stdout.as_str()), (1, ""), "{line}\n{outcome}");
        }
        let outcome = sandbox.run(&format!("image map -f {format} disk.{format}"));
        assert_eq!(outcome.status, 1, "{outcome}");
        assert!(outcome.stderr.contains(&format!("the image format `{format}` is not supported")), "{outcome}");
        sandbox.done(&format!("image map -f raw disk.{format}"));
    }
    sandbox.file("secret", "passphrase");
    for (format, options) in [("luks", "key-secret=s"), ("qcow2", "encrypt.format=luks,encrypt.key-secret=s")] {
        let options = format!("{options},{}iter-time=10", if format == "luks" { "" } else { "encrypt." });
        sandbox
            .tool("qemu-img")
            .args(["create", "-q", "--object", "secret,id=s,file=secret", "-f", format, "-o", &options, "locked", "4M"])
            .run();
        for line in
            ["map locked", "compare locked locked", "measure locked", "convert -O raw locked copy.raw", "resize locked 8M"]
        {
            let outcome = sandbox.run(&format!("image {line}"));
            assert!(outcome.status > 0 && outcome.stdout.is_empty(), "{line}\n{outcome}");
            assert!(outcome.stderr.contains("LUKS"), "{line}\n{outcome}");
        }
    }
    assert!(!sandbox.names().contains(&"copy.raw".to_owned()));
}

#[test]
fn snapshots_are_listed_named_and_refused_as_in_qemu_img() {
    let sandbox = sandbox();
    let qemu = |line: &str| sandbox.tool("qemu-img").args(line.split_whitespace()).run();
    qemu("create -q -f raw disk.raw 1M");
    qemu("create -q -f qcow2 -o refcount_bits=1 narrow.qcow2 1M");
    sandbox.tool("qemu-io").args(["-c", "write 0 64k", "narrow.qcow2"]).run();
    for name in ["ours.qcow2", "theirs.qcow2"] {
        qemu(&format!("create -q -f qcow2 {name} 1M"));
    }
    // Names and ids that are mixed up, and all that is wrong.
    for line in [
        "-l IMG",
        "IMG",
        "-c one IMG",
        "-c one IMG",
        "-c 1 IMG",
        "-q -f qcow2 --list IMG",
        "-a one IMG",
        "-a 3 IMG",
        "-a 1 IMG",
        "-a none IMG",
        "-d none IMG",
        "-d 1 IMG",
        "-l -U IMG",
        "-c two -U IMG",
        "-c four -d one IMG",
        "-l -c four IMG",
        "-c four",
        "-c",
        "-d one IMG",
        "-d 2 IMG",
        "IMG IMG",
        "-c four -q IMG",
        "-c five -f raw IMG",
        "-l disk.raw",
        "-c one disk.raw",
        "-a one disk.raw",
        "-d one disk.raw",
        "-c one narrow.qcow2",
        "-l missing.qcow2",
        "-c one missing.qcow2",
        "-l IMG",
    ] {
        let words = |name: &str| {
            format!("snapshot {line}").replace("IMG", name).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        // The moments differ.
        let told = |bytes: Vec<u8>| {
            let words: Vec<String> = String::from_utf8(bytes).unwrap().split_whitespace().map(str::to_owned).collect();
            let moment = |word: &str| word.starts_with("20") || (word.matches(':').count() == 2 && !word.contains('.'));
            words.into_iter().filter(|word| !moment(word)).collect::<Vec<_>>()
        };
        let theirs = sandbox.tool("qemu-img").args(words("theirs.qcow2")).output();
        let ours = sandbox.program().arg("image").args(words("ours.qcow2")).output();
        assert_eq!((ours.status.code(), told(ours.stdout)), (theirs.status.code(), told(theirs.stdout)), "{line}");
        if line.ends_with("IMG") {
            let list = |name: &str| {
                String::from_utf8(sandbox.tool("qemu-img").args(["snapshot", "-l", name]).output().stdout).unwrap()
            };
            assert_eq!(sandbox.done("image snapshot -l ours.qcow2"), list("ours.qcow2"));
            assert_eq!(told(list("ours.qcow2").into_bytes()), told(list("theirs.qcow2").into_bytes()), "{line}");
            qemu("check -q ours.qcow2");
        }
    }
    // The long forms that qemu-img 10.0 documents, and does not give their arguments.
    for line in ["--create=long", "--apply long", "--delete long"] {
        sandbox.done(&format!("image snapshot {line} ours.qcow2"));
    }
    // A name of which qemu-img keeps a part.
    let long = "é".repeat(200);
    sandbox.done(&format!("image snapshot -c {long} ours.qcow2"));
    assert!(qemu("snapshot -l ours.qcow2").contains(&"é".repeat(127)));
}

#[test]
fn a_short_file_is_no_disk_that_takes_years_to_walk() {
    let sandbox = sandbox();
    // Each of 2^20 L1 entries names the same table, whose entries name clusters that do not follow each other.
    let (cluster, entries) = (65_536_u64, 1_u64 << 20);
    let mut bytes = vec![0; 0x88_0000];
    let word = |bytes: &mut Vec<u8>, at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[20..24].copy_from_slice(&16_u32.to_be_bytes());
    word(&mut bytes, 24, entries * (cluster / 8) * cluster);
    bytes[36..40].copy_from_slice(&(entries as u32).to_be_bytes());
    word(&mut bytes, 40, 4 * cluster);
    word(&mut bytes, 48, cluster);
    bytes[56..60].copy_from_slice(&1_u32.to_be_bytes());
    bytes[96..100].copy_from_slice(&4_u32.to_be_bytes());
    bytes[100..104].copy_from_slice(&104_u32.to_be_bytes());
    for entry in 0..entries as usize {
        word(&mut bytes, 4 * 65_536 + entry * 8, (1 << 63) | (2 * cluster));
    }
    for entry in 0..8192 {
        word(&mut bytes, 2 * 65_536 + entry * 8, (1 << 63) | (3 * cluster));
    }
    sandbox.file("bomb.qcow2", bytes);
    for line in ["map --output=json bomb.qcow2", "measure -O qcow2 bomb.qcow2", "compare bomb.qcow2 bomb.qcow2"] {
        let outcome = sandbox.run(&format!("image {line}"));
        assert!(outcome.status > 0 && outcome.stdout.is_empty(), "{line}\n{outcome}");
        assert!(outcome.stderr.contains("more L2 tables than the file has room for"), "{line}\n{outcome}");
    }
    sandbox.done("image info bomb.qcow2");
}

#[test]
fn the_version_has_the_words_that_scripts_look_for() {
    let version = sandbox().done("image --version");
    assert!(version.starts_with("vmimg ") && version.contains("qemu-img version 10."), "{version}");
    assert_eq!(sandbox().done("image -V"), version);
    assert!(sandbox().done("image --help").contains("Usage: vmimg image"));
}

#[test]
fn amend_takes_and_refuses_what_qemu_img_does() {
    let sandbox = sandbox();
    let qemu = |line: &str| sandbox.tool("qemu-img").args(line.split_whitespace()).run();
    qemu("create -q -f raw base.raw 1M");
    for name in ["ours.qcow2", "theirs.qcow2"] {
        qemu(&format!("create -q -f qcow2 -b base.raw -F raw {name}"));
    }
    for line in [
        "-o compat=0.10 IMG",
        "-o refcount_bits=8 IMG",
        "-o lazy_refcounts=on IMG",
        "-o compat=0.10,lazy_refcounts=off,refcount_bits=16 IMG",
        "-f qcow2 -o compat=1.1 -o lazy_refcounts=on IMG",
        "-o compat=v2,refcount_bits=8 IMG",
        "-q -p -t none --force -o compat=v3,refcount_bits=64 IMG",
        "-o compat=0.10 IMG",
        "-t nonsense -o refcount_bits=1 IMG",
        "-o refcount_bits=1 IMG",
        "-o refcount_bits=3 IMG",
        "-o refcount_bits=0 IMG",
        "-o refcount_bits=128 IMG",
        "-o lazy_refcounts=maybe IMG",
        "-o compat=2 IMG",
        "-o size=3M IMG",
        "-o size=2M IMG",
        "-o size=0 IMG",
        "-o size=1000 IMG",
        "-o size=-1 IMG",
        "-o cluster_size=65536 IMG",
        "-o preallocation=off IMG",
        "-o extended_l2=off IMG",
        "-o compression_type=zlib IMG",
        "-o encryption=off IMG",
        "-o nocow=off IMG",
        "-o encrypt.state=active IMG",
        "-o nonsense=1 IMG",
        "-o backing_file=base.raw IMG",
        "-o backing_fmt=raw IMG",
        "-o backing_file=base.raw,backing_fmt=raw IMG",
        "-o backing_file=other.raw,backing_fmt=raw IMG",
        "-o data_file=data IMG",
        "-o data_file_raw=on IMG",
        "-o data_file_raw=off IMG",
        "-o compat=0.10 -o refcount_bits=16 IMG",
        "-o lazy_refcounts=off missing.qcow2",
        "-f raw -o size=1M base.raw",
        "-o size=1M base.raw",
        "-o lazy_refcounts=off",
        "IMG",
    ] {
        let words =
            |name: &str| format!("amend {line}").replace("IMG", name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let theirs = sandbox.tool("qemu-img").args(words("theirs.qcow2")).output();
        let ours = sandbox.program().arg("image").args(words("ours.qcow2")).output();
        assert_eq!(ours.status.code(), theirs.status.code(), "{line}\n{}", String::from_utf8_lossy(&ours.stderr));
        let info = |name: &str| {
            qemu(&format!("info {name}"))
                .lines()
                .filter(|line| !line.contains(name) && !line.contains("length") && !line.contains("disk size"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(info("ours.qcow2"), info("theirs.qcow2"), "{line}");
        qemu("check -q ours.qcow2");
    }
    let list = |text: String| text.lines().filter(|line| !line.contains("encrypt.")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(list(sandbox.done("image amend -f qcow2 -o help")), list(qemu("amend -f qcow2 -o help")));
}

#[test]
fn of_what_is_said_twice_the_last_counts_as_with_qemu_img() {
    let sandbox = sandbox();
    sandbox.done("image create -q -q -f raw -f qcow2 -o compat=0.10 -o cluster_size=4k a.qcow2 8M");
    sandbox.done("image convert -p -p -O raw -O qcow2 a.qcow2 b.qcow2");
    let info = sandbox.done("image info -f raw -f qcow2 a.qcow2");
    assert!(info.contains("cluster_size: 4096") && info.contains("compat: 0.10"), "{info}");
}

#[test]
fn options_of_a_format_are_listed() {
    let sandbox = sandbox();
    for line in ["create -f FORMAT -o help", "create -f FORMAT -o help a 1M", "convert -O FORMAT -o size=1,help a b"] {
        for format in ["raw", "qcow2"] {
            let ours = sandbox.done(&format!("image {}", line.replace("FORMAT", format)));
            let theirs = sandbox.tool("qemu-img").args(["create", "-f", format, "-o", "help", "a"]).run();
            let listed =
                |line: &&str| line.starts_with("  ") && !line.contains("encrypt") && !line.contains("extent_size_hint");
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().filter(listed).map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&ours), sorted(&theirs), "{line}");
        }
    }
}
