//! Random plans beside `rust-fs-ext4`, a driver of other authors: both make the same of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs_ext4::Filesystem;
use fs_ext4::block_io::FileDevice;
use imgcore::fs::Edit;
use vmimg_tests::fuzz::Random;

use super::Image;
use super::model::{Node, Step, model};
use super::random::{assert_same, operations, small, step, tree};

/// What it writes as well as we do: it has no writer for clusters, quota and meta_bg, nor for files without extents.
const PEERS_SHAPES: &[&str] =
    &["debian-12", "one-kilobyte", "two-kilobytes", "alpine", "no-checksums", "large-inodes", "tea", "small-boot"];

struct Peer(Filesystem);

impl Peer {
    fn open(image: &Image) -> Self {
        Self(Filesystem::mount(Arc::new(FileDevice::open_path_rw(&image.path).unwrap())).unwrap())
    }

    /// Makes the folders above a path that the model has and the disk has not.
    fn parents(&self, tree: &BTreeMap<String, Node>, name: &str) {
        for (at, _) in name.match_indices('/').skip(1) {
            if !tree.contains_key(&name[..at]) {
                self.0.apply_mkdir(&name[..at], 0o755).unwrap();
            }
        }
    }

    fn remove(&self, tree: &BTreeMap<String, Node>, name: &str) {
        let below = format!("{name}/");
        let inside: Vec<&String> = tree.keys().filter(|path| path.starts_with(&below)).collect();
        // What is in a folder stands behind it in the order of the tree.
        for path in inside.into_iter().rev().map(String::as_str).chain([name]) {
            match tree.get(path) {
                Some(Node::Folder(_)) => self.0.apply_rmdir(path).unwrap(),
                Some(_) => self.0.apply_unlink(path).unwrap(),
                None => {}
            }
        }
    }

    /// Does a step that the model says is possible.
    fn take(&self, tree: &BTreeMap<String, Node>, step: &Step) {
        match step {
            Step::Write(name, len, byte) => {
                self.parents(tree, name);
                if !tree.contains_key(name) {
                    self.0.apply_create(name, 0o644).unwrap();
                }
                self.0.apply_replace_file_content(name, &vec![*byte; *len]).unwrap();
            }
            Step::Mkdir(name, mode) => {
                self.parents(tree, name);
                if !tree.contains_key(name) {
                    self.0.apply_mkdir(name, 0o755).unwrap();
                }
                self.0.apply_chmod(name, u16::try_from(*mode).unwrap()).unwrap();
            }
            Step::Link(name, len) => {
                self.parents(tree, name);
                self.remove(tree, name);
                self.0.apply_symlink(&format!("/none/{}", "t".repeat(*len)), name).unwrap();
            }
            Step::Remove(name) => self.remove(tree, name),
            Step::Chmod(name, mode) if !matches!(tree.get(name), Some(Node::Link(_))) => {
                self.0.apply_chmod(name, u16::try_from(*mode).unwrap()).unwrap();
            }
            Step::Chmod(..) => {}
        }
    }
}

#[test]
fn another_driver_and_the_editor_make_the_same_of_a_plan() {
    for (run, shape) in (0..operations().div_ceil(30)).zip(PEERS_SHAPES.iter().cycle()) {
        let shape = super::SHAPES.iter().position(|(name, ..)| name == shape).unwrap();
        let note = format!("{}, run {run}", super::SHAPES[shape].0);
        let mut random = Random::new(2000 + run as u64);
        let (ours, theirs) = (small(shape, 4), small(shape, 4));
        let (mut expected, mut edits) = (tree(&ours), Vec::<Edit>::new());
        let peer = Peer::open(&theirs);
        for _ in 0..30 {
            let step = step(&mut random, 30_000);
            let before = expected.clone();
            if let Some(edit) = model(&mut expected, &step) {
                peer.take(&before, &step);
                edits.push(edit);
            }
        }
        peer.0.finish().unwrap();
        ours.apply(edits).unwrap_or_else(|error| panic!("{note}: {error}"));
        ours.assert_clean();
        let (ours, theirs) = (tree(&ours), tree(&theirs));
        assert_same(&ours, &theirs, &note);
        assert_same(&ours, &expected, &note);
    }
}
