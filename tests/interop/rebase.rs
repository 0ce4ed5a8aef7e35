//! Rebase: qemu-img makes the chains, and says whether the disk has stayed the same and the image is sound.

use std::path::Path;

use imgcore::block::ErrorKind;
use imgcore::image::{self, Format, RebaseOptions};
use imgcore::qcow2::NewBacking;
use vmimg_tests::tool::Tool;

use crate::qcow2::{Bench, assert_clean, assert_same, content, trusting};

pub(crate) const GEOMETRIES: &[(&str, u64)] = &[
    ("compat=0.10", 3_000_320),
    ("compat=0.10,cluster_size=512", 200_192),
    ("compat=1.1", 5_000_192),
    ("cluster_size=512,refcount_bits=1", 300_544),
    ("cluster_size=1024,refcount_bits=64,compression_type=zstd", 700_416),
    ("cluster_size=16384,extended_l2=on", 3_000_320),
    ("cluster_size=2097152,extended_l2=on", 9_437_696),
];

pub(crate) fn create(image: &Path, options: &str, backing: Option<(&str, &str)>, size: u64) {
    let format = if image.extension().is_some_and(|end| end == "raw") { "raw" } else { "qcow2" };
    let mut create = Tool::new("qemu-img").args(["create", "-q", "-f", format]);
    if !options.is_empty() {
        create = create.args(["-o", options]);
    }
    if let Some((name, format)) = backing {
        create = create.args(["-b", name, "-F", format]);
    }
    create.arg(image).arg(size.to_string()).run();
}

/// A chain `base`, `mid.qcow2`, `top.qcow2` of different sizes.
pub(crate) fn chain(bench: &mut Bench, options: &str, size: u64, base: &str) {
    let format = base.split_once('.').unwrap().1;
    let sizes = [[size / 2, size, size + 70_144], [size + 10_752, size / 3, size / 2], [size, size, size]];
    let [base_size, mid_size, _] = sizes[(bench.below(3)) as usize].map(|size| size / 512 * 512);
    create(&bench.path(base), "", None, base_size);
    bench.scribble(&bench.path(base), format, base_size, 14);
    create(&bench.path("mid.qcow2"), options, Some((base, format)), mid_size);
    bench.scribble(&bench.path("mid.qcow2"), "qcow2", mid_size, 10);
    create(&bench.path("top.qcow2"), options, Some(("mid.qcow2", "qcow2")), size);
    bench.scribble(&bench.path("top.qcow2"), "qcow2", size, 6);
}

fn rebase(image: &Path, backing: Option<(&str, &str)>, compress: bool) -> Result<(), image::Error> {
    let backing = backing.map(|(name, format)| NewBacking { name: name.as_bytes().to_vec(), format: format.to_owned() });
    let open = trusting(Format::Qcow2);
    let mut disk = image::open_writable(image, &open)?;
    image::rebase(&mut disk, backing.as_ref(), &RebaseOptions { open, threads: 2, compress }, &|_| Ok(()))
}

#[test]
fn the_disk_stays_what_it_was_on_any_new_chain_and_no_longer_needs_the_old_one() {
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        for (round, base) in ["base.raw", "base.qcow2"].into_iter().enumerate() {
            let mut bench = Bench::new((seed * 2 + round) as u64);
            chain(&mut bench, options, *size, base);
            let format = base.split_once('.').unwrap().1;
            // Other disks: one of another content, one that shares the chain's base, one that is empty.
            create(&bench.path("other.raw"), "", None, size / 2 / 512 * 512);
            bench.scribble(&bench.path("other.raw"), "raw", size / 2 / 512 * 512, 10);
            create(&bench.path("sibling.qcow2"), options, Some((base, format)), size + 20_480);
            bench.scribble(&bench.path("sibling.qcow2"), "qcow2", size + 20_480, 6);
            create(&bench.path("empty.qcow2"), "", None, *size);
            let model = content(&bench.path("top.qcow2"), &[]);
            let targets = [
                None,
                Some((base, format)),
                Some(("other.raw", "raw")),
                Some(("sibling.qcow2", "qcow2")),
                Some(("empty.qcow2", "qcow2")),
            ];
            for (index, target) in targets.into_iter().enumerate() {
                println!("{options} {base} onto {target:?}");
                let copy = bench.path("copy.qcow2");
                std::fs::copy(bench.path("top.qcow2"), &copy).unwrap();
                rebase(&copy, target, (index + seed) % 2 == 1).unwrap();
                assert_clean(&copy);
                let hidden = bench.path("hidden");
                std::fs::rename(bench.path("mid.qcow2"), &hidden).unwrap();
                assert_same(&content(&copy, &[]), &model);
                std::fs::rename(hidden, bench.path("mid.qcow2")).unwrap();
                let info = image::Info::read(&image::open(&copy, &trusting(Format::Qcow2)).unwrap(), &copy).unwrap();
                assert_eq!(info.backing_filename.as_deref(), target.map(|(name, _)| name));
                assert_eq!(info.backing_filename_format.as_deref(), target.map(|(_, format)| format));
            }
        }
    }
}

#[test]
fn what_two_chains_share_is_not_copied() {
    let bench = Bench::new(1);
    create(&bench.path("base.raw"), "", None, 64 << 20);
    Tool::new("qemu-io").args(["-f", "raw", "-c", "write -P 1 0 64M"]).arg(bench.path("base.raw")).run();
    create(&bench.path("mid.qcow2"), "", Some(("base.raw", "raw")), 64 << 20);
    Tool::new("qemu-io").args(["-c", "write -P 2 1M 64k"]).arg(bench.path("mid.qcow2")).run();
    create(&bench.path("top.qcow2"), "", Some(("mid.qcow2", "qcow2")), 64 << 20);
    let model = content(&bench.path("top.qcow2"), &[]);
    let top = bench.path("top.qcow2");
    rebase(&top, Some(("base.raw", "raw")), false).unwrap();
    assert_same(&content(&top, &[]), &model);
    let stored = image::open(&top, &trusting(Format::Qcow2)).unwrap().stored().unwrap();
    assert_eq!(stored.iter().map(|run| (run.start(), run.len())).collect::<Vec<_>>(), [(1 << 20, 65536)]);
    // And back again: there is nothing to copy at all.
    rebase(&top, Some(("mid.qcow2", "qcow2")), false).unwrap();
    assert_eq!(image::open(&top, &trusting(Format::Qcow2)).unwrap().stored().unwrap(), stored);
    assert_same(&content(&top, &[]), &model);
}

#[test]
fn an_image_never_comes_to_lie_below_itself_and_stays_as_it_is() {
    let bench = Bench::new(1);
    create(&bench.path("base.qcow2"), "", None, 1 << 20);
    create(&bench.path("top.qcow2"), "", Some(("base.qcow2", "qcow2")), 1 << 20);
    for (image, below) in [("base.qcow2", "top.qcow2"), ("top.qcow2", "top.qcow2"), ("top.qcow2", "./top.qcow2")] {
        let before = std::fs::read(bench.path(image)).unwrap();
        let error = rebase(&bench.path(image), Some((below, "qcow2")), false).unwrap_err();
        assert!(matches!(error, image::Error::Loop(_)), "{error:?}");
        assert_eq!(std::fs::read(bench.path(image)).unwrap(), before);
    }
    let error = rebase(&bench.path("top.qcow2"), Some(("none.qcow2", "qcow2")), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
