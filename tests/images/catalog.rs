//! The catalog of cloud images.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use toml::{Table, Value};

const KEYS: &[&str] =
    &["name", "arch", "os", "version", "url", "checksums", "algorithm", "sha256", "format", "login", "root_fs"];

fn images() -> Vec<Table> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/catalog.toml");
    let catalog: Table = fs::read_to_string(file).unwrap().parse().unwrap();
    let Some(Value::Array(images)) = catalog.get("image") else { panic!("the catalog lists no [[image]]") };
    images.iter().map(|image| image.as_table().unwrap().clone()).collect()
}

fn text<'a>(image: &'a Table, key: &str) -> &'a str {
    image.get(key).and_then(Value::as_str).unwrap_or_else(|| panic!("no {key} in {image:?}"))
}

#[test]
fn a_name_and_an_architecture_name_one_image() {
    let images = images();
    let names: HashSet<_> = images.iter().map(|image| (text(image, "name"), text(image, "arch"))).collect();
    assert_eq!(names.len(), images.len());
    assert!(images.len() > 20, "the usual cloud images are there");
}

#[test]
fn every_image_has_the_documented_keys_and_no_others() {
    for image in images() {
        for key in image.keys() {
            assert!(KEYS.contains(&key.as_str()), "{key} is not documented in images/README.md");
        }
        for key in ["name", "arch", "os", "url", "format", "login"] {
            assert!(!text(&image, key).is_empty());
        }
        assert!(["amd64", "arm64"].contains(&text(&image, "arch")), "{image:?}");
        assert!(["qcow2", "raw"].contains(&text(&image, "format")), "{image:?}");
    }
}

#[test]
fn every_image_can_be_checked_after_its_download() {
    for image in images() {
        assert!(text(&image, "url").starts_with("https://"), "{image:?}");
        if image.contains_key("sha256") {
            let digest = text(&image, "sha256");
            assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{image:?}");
        } else {
            assert!(text(&image, "checksums").starts_with("https://"), "{image:?}");
            assert!(["sha256", "sha512"].contains(&text(&image, "algorithm")), "{image:?}");
        }
    }
}
