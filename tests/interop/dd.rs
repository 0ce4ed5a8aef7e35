//! Parts of disks: what `dd` copies, and how fast `bench` says that it works.

use std::fs;

use vmimg_tests::sandbox::Sandbox;

use crate::qcow2::Bench;

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_vmimg-program"))
}

#[test]
fn a_part_is_what_qemu_img_copies() {
    let sandbox = sandbox();
    let mut bench = Bench::new(4);
    let image = bench.foreign("cluster_size=4k,extended_l2=off", 2_000_384, Some("qcow2"));
    sandbox.file("odd.raw", (0..10_100_u32).map(|byte| (byte % 251) as u8).collect::<Vec<u8>>());
    for input in [format!("-f qcow2 if={}", image.display()), "-f raw if=odd.raw".to_owned()] {
        for blocks in [
            "",
            "bs=64k",
            "bs=1000",
            "bs=1000 count=3",
            "bs=1000 count=3 skip=1",
            "bs=1k skip=2",
            "bs=1.5k count=2",
            "bs=4k count=100000",
            "bs=4k count=3 skip=3",
            "bs=1M skip=100",
            "count=0",
            "skip=1",
        ] {
            for format in ["raw", "qcow2"] {
                let line = |copy: &str| format!("dd -O {format} {input} {blocks} of={copy}");
                let (theirs, ours) = (sandbox.qemu_img(&line("theirs")), sandbox.run(&format!("image {}", line("ours"))));
                assert_eq!((ours.status, &ours.stdout), (theirs.status, &theirs.stdout), "{input} {blocks}\n{theirs}\n{ours}");
                let same = sandbox.qemu_img(&format!("compare -s -f {format} -F {format} theirs theirs"));
                assert_eq!(same.status, 0, "{same}");
                let same = sandbox.qemu_img(&format!("compare -f {format} -F {format} theirs ours"));
                assert_eq!((same.status, same.stdout.as_str()), (0, "Images are identical.\n"), "{input} {blocks}");
                fs::remove_file(sandbox.path("ours")).unwrap();
            }
        }
    }
    for wrong in [
        "dd if=odd.raw",
        "dd of=ours",
        "dd if=odd.raw of=ours bs=0",
        "dd if=odd.raw of=ours count=1k",
        "dd if=odd.raw of=ours isize=1",
        "dd if=odd.raw of=ours word",
        "dd if=nothing of=ours",
        "dd if=odd.raw of=none/ours",
        "dd -O vmdkx if=odd.raw of=ours",
    ] {
        let (theirs, ours) = (sandbox.qemu_img(wrong), sandbox.run(&format!("image {wrong}")));
        assert_eq!((ours.status, &ours.stdout), (theirs.status, &theirs.stdout), "{wrong}\n{theirs}\n{ours}");
        assert!(!sandbox.path("ours").exists(), "{wrong}");
    }
    assert_eq!(sandbox.run("image dd -f raw if=odd.raw of=odd.raw").status, 1);
    assert_eq!(fs::metadata(sandbox.path("odd.raw")).unwrap().len(), 10_100);
}

#[test]
fn bench_says_what_qemu_img_says_but_for_the_time() {
    let sandbox = sandbox();
    sandbox.file("a.raw", vec![1; 1 << 20]);
    assert_eq!(sandbox.qemu_img("create -q -f qcow2 empty.qcow2 0").status, 0);
    let untimed = |text: &str| -> String {
        let line = |line: &str| match line.strip_prefix("Run completed in ") {
            Some(rest) => {
                let seconds = rest.strip_suffix(" seconds.").unwrap();
                assert!(seconds.parse::<f64>().is_ok() && seconds.split_once('.').unwrap().1.len() == 3, "{line}");
                "Run completed\n".to_owned()
            }
            None => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    };
    for line in [
        "bench -f raw -c 1000 a.raw",
        "bench -f raw -c 100 -s 64k -d 4 -S 128k -o 100k a.raw",
        "bench -f raw -q -c 10 a.raw",
        "bench -f raw -c 0x10 a.raw",
        "bench -f raw -c 3 -o 1M a.raw",
        "bench -f raw -c 3 -s 300k a.raw",
        "bench -f raw -c 30 -s 300k a.raw",
        "bench -f raw -c 100 -w a.raw",
        "bench -f raw -c 100 -w --pattern 0x7 --flush-interval 64 --no-drain a.raw",
        "bench -f raw -c 100 -w --flush-interval 10 a.raw",
        "bench -f raw -c 100 --flush-interval 100 a.raw",
        "bench -f raw -c 4 -w -d 1 --flush-interval 1 -t writethrough a.raw",
        "bench -f raw -c 0 a.raw",
        "bench -f raw -d 0 a.raw",
        "bench -f raw -c 1 -s 0 a.raw",
        "bench -f raw -c 1 -w -U a.raw",
        "bench -f raw -c 1 -i nonsense a.raw",
        "bench -f raw -c 1 -t nonsense a.raw",
        "bench -f raw -c 1 -w --pattern 256 a.raw",
        "bench -c 1 empty.qcow2",
        "bench -c 1 --image-opts driver=raw,file.filename=a.raw",
        "bench nothing",
        "bench",
    ] {
        let (theirs, ours) = (sandbox.qemu_img(line), sandbox.run(&format!("image {line}")));
        let (theirs_say, ours_say) = (untimed(&theirs.stdout), untimed(&ours.stdout));
        assert_eq!((ours.status, ours_say), (theirs.status, theirs_say), "{line}\n{theirs}\n{ours}");
    }
    let written = |line: &str| {
        sandbox.file("b.raw", vec![1; 1 << 20]);
        sandbox.done(&format!("image bench -f raw -w --pattern 9 {line} b.raw"));
        fs::read(sandbox.path("b.raw")).unwrap()
    };
    let expected = |ranges: &[(usize, usize)]| {
        let mut bytes = vec![1; 1 << 20];
        ranges.iter().for_each(|(start, len)| bytes[*start..start + len].fill(9));
        bytes
    };
    assert!(written("-c 2 -s 4k -S 8k -o 1k") == expected(&[(1024, 4096), (9216, 4096)]));
    assert!(written("-c 2 -s 64k -o 960k") == expected(&[(960 << 10, 64 << 10), (0, 64 << 10)]));
}
