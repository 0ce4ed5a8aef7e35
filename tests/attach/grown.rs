//! File systems that were grown here grow on while the guest has them mounted: Linux takes our layout for its own.

use imgcore::block::Resize as _;
use imgcore::fs::ext4::grow;
use imgcore::storage::{Access, FileDisk};
use vmimg_tests::random_ext4::RandomFileSystem;
use vmimg_tests::tool::Tool;

use super::COMMON;
use super::guest::Guest;

/// Grows file systems of mke2fs and puts each into an image that is larger still.
fn grown(guest: &Guest, seeds: std::ops::Range<u64>) {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("fs.raw");
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("hostname"), "web1\n").unwrap();
    std::fs::write(tree.join("data"), [b'd'; 100_000]).unwrap();
    for seed in seeds {
        let RandomFileSystem { options, size, larger } = RandomFileSystem::new(seed);
        let _old = std::fs::remove_file(&raw);
        FileDisk::create_new(&raw).unwrap().resize(size).unwrap();
        Tool::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).args(&options).arg(&raw).run();
        let mut disk = FileDisk::open(&raw, Access::ReadWrite).unwrap();
        disk.resize(larger).unwrap();
        grow(&mut disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // A group or two, or many.
        disk.resize(larger + (((seed * 37) % 200 + 20) << 20)).unwrap();
        drop(disk);
        let image = guest.file(&format!("fs{seed}.qcow2"));
        Tool::new("qemu-img").args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&image).run();
    }
}

/// How many file systems are tried: `VMIMG_EXT4_GROWS` says so, for more than a test has time for.
#[expect(clippy::disallowed_methods, reason = "how long a test may take is asked of the environment")]
fn count() -> u64 {
    std::env::var("VMIMG_EXT4_GROWS").map_or(6, |text| text.parse().unwrap())
}

#[test]
fn what_was_grown_here_is_grown_by_linux_while_it_is_mounted() {
    let (count, mut kept, mut spoilt) = (count(), 0, 0);
    for first in (0..count).step_by(AT_ONCE) {
        let guest = Guest::new();
        grown(&guest, first..count.min(first + AT_ONCE as u64));
        let said = guest.run(COMMON, include_str!("grown.sh"));
        assert!(said.contains("ALL GOOD"), "{said}");
        kept += said.matches("KEPT").count() as u64;
        spoilt += said.matches("SPOILT").count() as u64;
        println!(
            "to seed {}: {kept} have no blocks reserved for descriptors, {spoilt} spoilt",
            count.min(first + AT_ONCE as u64)
        );
    }
    println!("{} of {count} grown by Linux, the others have no blocks reserved for that", count - kept - spoilt);
    assert!(kept <= count / 2, "{kept} of {count} did not grow");
    assert!(spoilt <= count / 20, "Linux spoilt {spoilt} of {count}");
}

/// File systems of one guest.
const AT_ONCE: usize = 20;
