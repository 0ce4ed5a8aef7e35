use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use vmimg_tests::disk::{assert_sound, digest};
use vmimg_tests::host::Host;
use vmimg_tests::tool::Tool;

use crate::PROGRAM;

/// How often the program is started and killed at a random point of its run, and how often at most: on a machine that is busy
/// only now and then, some of them end before.
const ROUNDS: u32 = 200;
const MOST_ROUNDS: u32 = 2000;

#[test]
fn a_prepare_that_is_killed_leaves_no_half_machine_and_the_next_one_succeeds() {
    let host = Host::new(PROGRAM);
    let base = demo_image(&host);
    let before = digest(&base);
    let longest = time_of_one(&host, &base);
    let mut whole = longest;
    let machines = host.path("machines");
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (mut killed, mut finished) = (0, 0);
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && killed >= ROUNDS / 4 {
            break;
        }
        let name = format!("m{round}");
        let mut prepare = prepare(&host, &base, &name).log_to(&host.path("log"));
        let mut child = prepare.spawn();
        // Up to a little more than a whole run, so that every phase is hit and some runs end.
        let wait = whole.as_nanos() as u64 * u64::from(random.next_u32() % 110) / 100;
        sleep(Duration::from_nanos(wait));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if machines.join(&name).exists() {
            assert_complete(&host, &name);
            finished += 1;
            whole = whole * 95 / 100;
        } else {
            assert!(!status.success(), "a prepare that succeeded left no machine");
            killed += 1;
            whole = longest.min(whole * 102 / 100);
        }
    }
    assert!(killed >= ROUNDS / 4, "only {killed} runs were stopped before their end ({finished} ended)");
    prepare(&host, &base, "after").run();
    assert_complete(&host, "after");
    assert_eq!(hidden(&machines), Vec::<PathBuf>::new(), "the next run removes what killed ones left");
    assert_eq!(digest(&base), before, "the base is never changed");
}

#[test]
fn the_second_interrupt_ends_a_program_that_waits_for_what_never_comes() {
    let host = Host::new(PROGRAM);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let export = format!("nbd://{}/", listener.local_addr().unwrap());
    let mut child = host.vmimg().args(["image", "info", &export]).log_to(&host.path("log")).spawn();
    // It waits for the greeting now.
    let _peer = listener.accept().unwrap();
    let interrupt = || Tool::new("kill").args(["-INT", &child.id().to_string()]).run();
    interrupt();
    // Two that wait are one.
    while is_waiting(child.id(), 2) {
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_millis(100));
    interrupt();
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            // The first alone ends it two seconds after it began to wait.
            None => assert!(begun.elapsed() < Duration::from_millis(1300), "it still waits"),
        }
        sleep(Duration::from_millis(10));
    };
    assert_eq!(status.signal(), Some(2));
}

/// Whether a process has yet to take a signal.
fn is_waiting(pid: u32, signal: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    pending.map(|mask| u64::from_str_radix(mask.trim(), 16).unwrap()).any(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The demo image as a file of the host that the ordinary user may only read.
fn demo_image(host: &Host) -> PathBuf {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/demo/demo.qcow2");
    host.file("base.qcow2", fs::read(image).unwrap())
}

fn prepare(host: &Host, base: &Path, name: &str) -> Tool {
    host.vmimg().arg("prepare").arg(name).arg("--image").arg(base).args(["--size", "1G", "--hostname", name, "--config-drive"])
}

/// How long one whole run takes here: the middle of five.
fn time_of_one(host: &Host, base: &Path) -> Duration {
    let mut times: Vec<Duration> = (0..5)
        .map(|run| {
            let start = Instant::now();
            prepare(host, base, &format!("timed{run}")).run();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[2]
}

/// Asserts that a published machine is whole: to vmimg, and to qemu-img, sgdisk and e2fsck.
fn assert_complete(host: &Host, name: &str) {
    host.vmimg().args(["verify", name]).run();
    assert_sound(&host.path("machines").join(name).join("disk.qcow2"), &host.path(""));
}

fn hidden(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
}
