//! `vmimg store`.

use crate::sandbox;

#[test]
fn an_image_is_added_listed_verified_and_removed() {
    let sandbox = sandbox();
    sandbox.tool("qemu-img").args(["create", "-q", "-f", "qcow2", "debian.qcow2", "3G"]).run();
    insta::assert_snapshot!(sandbox.done("store add debian.qcow2 --root r"), @"debian: qcow2, 3 GiB");
    let listed = sandbox.done("store list --root r");
    assert!(listed.starts_with("NAME    FORMAT     FILE   DISK  FROM\ndebian  qcow2   192 KiB  3 GiB  "), "{listed}");
    insta::assert_snapshot!(sandbox.done("store verify --root r"), @"debian: ok");
    insta::assert_snapshot!(sandbox.done("store verify debian --root r --json"), @r#"
    [
      {
        "name": "debian",
        "ok": true
      }
    ]
    "#);
    sandbox.done("store remove debian --root r");
    assert_eq!(sandbox.done("store list --root r"), "");
    insta::assert_snapshot!(sandbox.run("store verify debian --root r"), @r"
    exit status 3
    --- stderr
    error: there is no image `debian` in the store
    ");
}

#[test]
fn an_image_on_another_one_is_refused() {
    let sandbox = sandbox();
    sandbox.tool("qemu-img").args(["create", "-q", "-f", "raw", "base", "1M"]).run();
    sandbox.tool("qemu-img").args(["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "overlay.qcow2"]).run();
    insta::assert_snapshot!(sandbox.run("store add overlay.qcow2 --root r"), @r"
    exit status 6
    --- stderr
    error: `[SANDBOX]/overlay.qcow2` cannot be added
    caused by: it needs the backing file `base`

    hint: `vmimg image convert -O qcow2` makes one image of all files
    ");
    assert_eq!(sandbox.done("store list --root r"), "");
}

#[test]
fn a_wrong_digest_is_found_before_the_image_is_there() {
    let sandbox = sandbox();
    sandbox.file("base.raw", [1; 512]);
    let wrong = "0".repeat(64);
    let outcome = sandbox.run(&format!("store add base.raw --root r --sha256 {wrong}"));
    insta::assert_snapshot!(outcome, @r"
    exit status 4
    --- stderr
    error: `[SANDBOX]/base.raw` is not what its publisher made: its SHA-256 is 6caf38d537984e261527b8caef5f990fb91415a1db917198821a79ed28997973

    hint: download it again
    ");
    insta::assert_snapshot!(sandbox.run("store add base.raw --root r --sha256 123"), @r"
    exit status 2
    --- stderr
    error: a SHA-256 has 64 hexadecimal digits
    ");
    assert_eq!(sandbox.done("store list --root r"), "");
}

#[test]
fn the_catalog_says_where_images_are() {
    let catalog = sandbox().done("store list --catalog");
    let debian = catalog.lines().find(|line| line.starts_with("debian-12 ") && line.contains("amd64")).unwrap();
    assert!(debian.contains(" debian ") && debian.contains("https://"), "{debian}");
}
