//! Hostile images: the bodies of the fuzz targets on damaged images, for some seconds; `VMIMG_FUZZ_SECONDS` says for how many,
//! and `VMIMG_FUZZ_SEED` with which to begin.

mod ext4;
mod ext4_structures;

use std::time::{Duration, Instant};

use vmimg_tests::{fuzz, fuzz_client, fuzz_server};

#[expect(clippy::disallowed_methods, reason = "who runs the tests says for how long")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn run(name: &str, target: fn(&[u8])) {
    run_on(name, target, &fuzz::seeds(), fuzz::mutate);
}

/// Runs a target on damaged copies of `seeds`.
fn run_on(name: &str, target: fn(&[u8]), seeds: &[Vec<u8>], mutate: fn(&mut Vec<u8>, u64)) {
    let time = Duration::from_secs(number("VMIMG_FUZZ_SECONDS").unwrap_or(3));
    let images = fuzz::run(name, target, seeds, mutate, number("VMIMG_FUZZ_SEED").unwrap_or(1), time);
    println!("{name}: {images} images");
    assert_small();
}

/// Asserts that the whole process never took more than 512 MiB.
fn assert_small() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak <= 512 << 10, "{peak} KiB at the peak");
}

#[test]
fn no_image_that_is_read_is_a_panic_or_takes_long_or_much_memory() {
    run("read", fuzz::read);
}

#[test]
fn no_image_that_is_changed_is_a_panic_or_takes_long_or_much_memory() {
    run("write", fuzz::write);
}

#[test]
fn no_image_that_is_checked_and_repaired_is_a_panic_or_takes_long_or_much_memory_or_gets_worse() {
    run("check", fuzz::check);
}

#[test]
fn no_server_of_a_client_is_a_panic_or_takes_long_or_much_memory() {
    let time = Duration::from_secs(number("VMIMG_FUZZ_SECONDS").unwrap_or(3));
    let (begun, mut seed) = (Instant::now(), number("VMIMG_FUZZ_SEED").unwrap_or(1));
    while begun.elapsed() < time {
        let start = Instant::now();
        let outcome = std::panic::catch_unwind(|| fuzz_client::talk(&fuzz_client::conversation(seed)));
        assert!(outcome.is_ok() && start.elapsed() < Duration::from_secs(10), "conversation {seed}: {:?}", start.elapsed());
        seed += 1;
    }
    assert_small();
}

#[test]
fn no_client_of_a_server_is_a_panic_or_takes_long_or_much_memory() {
    let time = Duration::from_secs(number("VMIMG_FUZZ_SECONDS").unwrap_or(3));
    let (begun, mut seed) = (Instant::now(), number("VMIMG_FUZZ_SEED").unwrap_or(1));
    while begun.elapsed() < time {
        let start = Instant::now();
        let outcome = std::panic::catch_unwind(|| fuzz_server::serve(&fuzz_server::conversation(seed)));
        assert!(outcome.is_ok() && start.elapsed() < Duration::from_secs(10), "conversation {seed}: {:?}", start.elapsed());
        seed += 1;
    }
    assert_small();
}

#[test]
fn what_a_fuzzer_is_given_to_begin_with_becomes_an_image() {
    let mut bytes = vec![0; 1 << 20];
    for seed in 0..50 {
        let len = fuzz::mutate_within(&mut bytes, 3, seed);
        let again = fuzz::mutate_within(&mut bytes, len, seed);
        assert!(len > 512 && again > 0, "{seed}");
        fuzz::read(&bytes[..again]);
    }
}

#[test]
fn sound_images_are_read_and_changed_without_an_error() {
    for seed in fuzz::seeds() {
        let image = imgcore::qcow2::Image::open(imgcore::block::MemoryDisk::new(seed.clone())).unwrap();
        image.snapshots().unwrap();
        for bitmap in image.bitmaps().unwrap() {
            image.bitmap_bits(&bitmap.name).unwrap();
        }
        image.check_writable().unwrap();
        fuzz::write(&seed);
    }
}
