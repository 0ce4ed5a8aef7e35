//! The image inside the program.

use std::fs;
use std::path::{Path, PathBuf};

use vmimg_tests::disk;
use vmimg_tests::tool::Tool;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/demo")
}

#[test]
fn the_committed_demo_image_is_sound_and_small() {
    let scratch = tempfile::tempdir().unwrap();
    let image = folder().join("demo.qcow2");
    assert!(fs::metadata(&image).unwrap().len() < 60_000);
    disk::assert_sound(&image, scratch.path());
}

#[test]
fn the_demo_recipe_run_twice_gives_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let digests = ["first", "second"].map(|name| {
        let out = scratch.path().join(name);
        Tool::new(folder().join("build")).arg(&out).run();
        disk::digest(&out.join("demo.qcow2"))
    });
    assert_eq!(digests[0], digests[1]);
}
