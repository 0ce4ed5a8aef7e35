//! New space with places or space from the beginning, as qemu-img resizes.

use imgcore::block::BlockRead as _;
use imgcore::image::{self, Format, ResizeOptions};
use imgcore::qcow2::Preallocation;
use std::os::unix::fs::MetadataExt as _;

use crate::qcow2::{Bench, assert_clean, assert_same, cluster_size, content, trusting};
use crate::rebase::{GEOMETRIES, create};

#[test]
fn new_space_is_zeros_and_has_a_place_where_qemu_img_gives_it_one() {
    for (seed, (options, size)) in GEOMETRIES.iter().enumerate() {
        for (preallocation, word) in
            [(Preallocation::Metadata, "metadata"), (Preallocation::Falloc, "falloc"), (Preallocation::Full, "full")]
        {
            for backing in [false, true] {
                println!("{options} {word} over a longer base: {backing}");
                let mut bench = Bench::new(600 + seed as u64);
                let larger = size + 700_416;
                let image = bench.path("image.qcow2");
                create(&bench.path("base.raw"), "", None, size + 200_192);
                bench.scribble(&bench.path("base.raw"), "raw", size + 200_192, 12);
                create(&image, options, backing.then_some(("base.raw", "raw")), *size);
                bench.scribble(&image, "qcow2", *size, 8);
                let mut model = content(&image, &[]);
                let reference = bench.path("reference.qcow2");
                std::fs::copy(&image, &reference).unwrap();
                let theirs = vmimg_tests::tool::Tool::new("qemu-img")
                    .args(["resize", "-q", "--preallocation", word, "-f", "qcow2"])
                    .arg(&reference)
                    .arg(larger.to_string())
                    .output();
                let mut disk = image::open_writable(&image, &trusting(Format::Qcow2)).unwrap();
                let ours = image::resize(&mut disk, larger, &ResizeOptions { shrink: false, preallocation });
                drop(disk);
                assert_eq!(ours.is_ok(), theirs.status.success(), "{ours:?}");
                if ours.is_ok() {
                    model.resize(larger as usize, 0);
                    let stored = |path| image::open(path, &trusting(Format::Qcow2)).unwrap().stored().unwrap();
                    let behind = |path| stored(path).last().map_or(0, |run| run.end().min(larger));
                    // In parts of clusters, QEMU sets the place alone aside and says nothing about the bytes.
                    let places_alone = options.contains("extended") && !backing;
                    let new_clusters =
                        larger.next_multiple_of(cluster_size(&image)) > size.next_multiple_of(cluster_size(&image));
                    if new_clusters {
                        assert_eq!(behind(&image), if places_alone { larger } else { behind(&reference) });
                    }
                    let blocks = std::fs::metadata(&image).unwrap().blocks() * 512;
                    assert!(preallocation == Preallocation::Metadata || !new_clusters || blocks >= 700_416 / 2, "{blocks}");
                }
                assert_clean(&image);
                assert_same(&content(&image, &[]), &model);
            }
        }
    }
}

#[test]
fn places_that_were_in_use_before_read_as_zeros_again_and_shrinking_takes_no_preallocation() {
    let bench = Bench::new(9);
    let image = bench.path("image.qcow2");
    create(&image, "", None, 4 << 20);
    let qemu_io =
        vmimg_tests::tool::Tool::new("qemu-io").args(["-d", "ignore", "-c", "write -P 9 0 4M", "-c", "write -z -u 0 4M"]);
    qemu_io.arg(&image).run();
    let mut disk = image::open_writable(&image, &trusting(Format::Qcow2)).unwrap();
    for preallocation in [Preallocation::Metadata, Preallocation::Full] {
        let size = disk.size();
        image::resize(&mut disk, size + (1 << 20), &ResizeOptions { shrink: true, preallocation }).unwrap();
        for wrong in [size, size + (1 << 20)] {
            image::resize(&mut disk, wrong, &ResizeOptions { shrink: true, preallocation }).unwrap_err();
        }
    }
    drop(disk);
    assert_clean(&image);
    assert_same(&content(&image, &[]), &vec![0; 6 << 20]);
}
