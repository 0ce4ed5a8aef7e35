//! The store from the outside.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use imgcore::qcow2::{CreateOptions, NewBacking, create};
use imgcore::storage::FileDisk;
use tempfile::TempDir;

use super::{Addition, Origin, add, list, load, remove, resolve, verify};
use crate::context::Context;
use crate::domain::DiskFormat;
use crate::error::{CommandError, ErrorKind};
use crate::machine::Root;
use crate::store::StoredImage;

struct Host {
    folder: TempDir,
    root: Root,
    context: Context,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path().join("root"));
        let context = Context::detached(folder.path().to_owned(), Box::new(std::io::sink()), Box::new(std::io::sink()));
        Self { folder, root, context }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn add(&self, source: &Path, sha256: Option<&str>) -> Result<StoredImage, CommandError> {
        let sha256 = sha256.map(str::to_owned);
        let addition = Addition { source: source.to_owned(), name: "base".parse().unwrap(), format: None, sha256 };
        add(&self.context, &self.root, &addition)
    }

    fn resolve(&self, reference: &str) -> Result<super::BaseImage, CommandError> {
        resolve(&self.context, &self.root, reference, None)
    }

    fn entries(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.store()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn an_added_image_is_whole_read_only_and_found_by_its_name() {
    let host = Host::new();
    let mut bytes = vec![0; 3 << 20];
    bytes.extend([7; 100]);
    let image = host.add(&host.file("disk.raw", &bytes), None).unwrap();
    let path = image.path(&host.root.store());
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!((image.format, image.virtual_size), (DiskFormat::Raw, (3 << 20) + 100));
    verify(&host.context, &host.root.store(), &image).unwrap();
    assert!(list(&host.root).unwrap().iter().eq([&image]));
    let base = host.resolve("base").unwrap();
    assert_eq!((base.origin, base.sha256), (Origin::Store, Some(image.sha256)));
}

#[test]
fn a_wrong_digest_a_taken_name_and_a_backing_file_leave_nothing() {
    let host = Host::new();
    let source = host.file("disk.raw", &[1; 1000]);
    assert_eq!(host.add(&source, Some(&"0".repeat(64))).unwrap_err().kind(), ErrorKind::Corrupt);
    let backing = Some(NewBacking { name: b"disk.raw".to_vec(), format: "raw".to_owned() });
    let overlay = host.folder.path().join("overlay.qcow2");
    let options = CreateOptions { backing, ..CreateOptions::new(1000) };
    create(&mut FileDisk::create_new(&overlay).unwrap(), &options).unwrap();
    assert_eq!(host.add(&overlay, None).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(host.entries(), Vec::<String>::new());
    host.add(&source, None).unwrap();
    assert_eq!(host.add(&source, None).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(host.entries(), ["base"]);
}

#[test]
fn the_trace_of_a_killed_addition_goes_with_the_next_one() {
    let host = Host::new();
    std::fs::create_dir_all(host.root.store().join(".add.killed")).unwrap();
    host.add(&host.file("disk.raw", &[1; 1000]), None).unwrap();
    assert_eq!(host.entries(), ["base"]);
}

#[test]
fn a_changed_image_is_noticed() {
    let host = Host::new();
    let image = host.add(&host.file("disk.raw", &[1; 1000]), None).unwrap();
    let path = image.path(&host.root.store());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&path, [2; 1000]).unwrap();
    assert_eq!(verify(&host.context, &host.root.store(), &image).unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::write(&path, [2; 999]).unwrap();
    assert_eq!(host.resolve("base").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_removed_image_is_gone() {
    let host = Host::new();
    let image = host.add(&host.file("disk.raw", &[1; 1000]), None).unwrap();
    remove(&host.root, &image.name).unwrap();
    assert_eq!(host.entries(), Vec::<String>::new());
    assert_eq!(load(&host.root, &image.name).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_builtin_image_is_put_into_the_store_once() {
    let host = Host::new();
    let first = host.resolve("builtin:demo").unwrap();
    let second = host.resolve("builtin:demo").unwrap();
    assert_eq!(first, second);
    assert_eq!((first.origin, first.format), (Origin::Builtin, DiskFormat::Qcow2));
    let image = list(&host.root).unwrap().remove(0);
    verify(&host.context, &host.root.store(), &image).unwrap();
}

#[test]
fn references_are_paths_or_names_and_an_unknown_one_comes_with_a_hint() {
    let host = Host::new();
    let path = host.file("disk.raw", &[1; 1000]);
    assert_eq!(host.resolve("./disk.raw").unwrap().path, path);
    assert_eq!(host.resolve("disk.raw").unwrap().origin, Origin::File);
    assert_eq!(host.resolve("./nothing").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(host.resolve("debian-12").unwrap_err().hints()[0].starts_with("the catalog knows it: download https://"));
    host.add(&path, None).unwrap();
    assert_eq!(host.resolve("bsae").unwrap_err().hints(), ["did you mean `base`?"]);
}
