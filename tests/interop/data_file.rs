//! External data files: what is written here, qemu-img reads, and the raw ones are the disk by themselves.

use imgcore::block::{BlockWrite, ByteRange, Hole, Resize};
use imgcore::image::{self, Format, RebaseOptions};

use crate::qcow2::{Bench, assert_clean, assert_same, cluster_size, content, read, trusting};
use crate::rebase::create;

const SIZE: u64 = 3_000_320;

fn image(bench: &mut Bench, options: &str, backing: bool) -> std::path::PathBuf {
    let options = format!("data_file={},{options}", bench.path("data.raw").display());
    let image = bench.path("image.qcow2");
    if backing {
        create(&bench.path("base.raw"), "", None, SIZE + 70_144);
        bench.scribble(&bench.path("base.raw"), "raw", SIZE + 70_144, 12);
        create(&image, &options, Some(("base.raw", "raw")), SIZE);
    } else {
        create(&image, &options, None, SIZE);
    }
    bench.scribble(&image, "qcow2", SIZE, 8);
    image
}

#[test]
fn what_is_written_through_an_image_is_in_its_data_file() {
    let kinds =
        ["data_file_raw=off", "data_file_raw=on", "data_file_raw=on,cluster_size=512", "cluster_size=16384,extended_l2=on"];
    for (seed, options) in kinds.into_iter().enumerate() {
        for backing in [false, true] {
            let raw = options.contains("raw=on");
            if raw && backing {
                continue;
            }
            println!("{options} {backing}");
            let mut bench = Bench::new(500 + seed as u64);
            let image = image(&mut bench, options, backing);
            let mut model = content(&image, &[]);
            let cluster = cluster_size(&image);
            let mut disk = image::open_writable(&image, &trusting(Format::Qcow2)).unwrap();
            for step in 0..30_u64 {
                let (start, len) = bench.run(model.len() as u64, cluster);
                let span = start as usize..(start + len) as usize;
                if bench.below(2) == 0 {
                    let hole = if step % 2 == 0 { Hole::Allow } else { Hole::Keep };
                    disk.write_zeroes_at(ByteRange::at(start, len).unwrap(), hole).unwrap();
                    model[span].fill(0);
                } else {
                    disk.write_all_at(&vec![step as u8 + 1; len as usize], start).unwrap();
                    model[span].fill(step as u8 + 1);
                }
            }
            for size in [SIZE + 3 * cluster + 512, SIZE - cluster - 512, SIZE + 70_656] {
                disk.resize(size).unwrap();
                model.resize(size as usize, 0);
                assert_same(&read(&disk), &model);
            }
            disk.close().unwrap();
            drop(disk);
            assert_clean(&image);
            assert_same(&content(&image, &[]), &model);
            let data = std::fs::read(bench.path("data.raw")).unwrap();
            assert_eq!(data.len(), model.len());
            if raw {
                assert_same(&data, &model);
            }
            // It still bears QEMU's own writes.
            bench.scribble(&image, "qcow2", model.len() as u64, 6);
            assert_clean(&image);
            if raw {
                assert_same(&std::fs::read(bench.path("data.raw")).unwrap(), &content(&image, &[]));
            }
        }
    }
}

#[test]
fn an_overlay_with_a_data_file_is_flattened_and_a_file_in_use_or_of_the_chain_is_refused() {
    let mut bench = Bench::new(510);
    let image = image(&mut bench, "data_file_raw=off", true);
    let model = content(&image, &[]);
    let options = trusting(Format::Qcow2);
    let reader = image::open(&image, &options).unwrap();
    image::open_writable(&image, &options).unwrap_err();
    drop(reader);
    let mut disk = image::open_writable(&image, &options).unwrap();
    image::rebase(&mut disk, None, &RebaseOptions { open: options, threads: 2, compress: false }, &|_| Ok(())).unwrap();
    drop(disk);
    std::fs::remove_file(bench.path("base.raw")).unwrap();
    assert_clean(&image);
    assert_same(&content(&image, &[]), &model);
    // An image that names itself as its data file would write over its own tables.
    let before = std::fs::read(&image).unwrap();
    std::fs::remove_file(bench.path("data.raw")).unwrap();
    std::fs::hard_link(&image, bench.path("data.raw")).unwrap();
    image::open_writable(&image, &image::OpenOptions { lock: false, ..options }).unwrap_err();
    assert!(std::fs::read(&image).unwrap() == before);
}
