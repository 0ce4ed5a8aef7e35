//! Random plans about few files with many names: what a model of files and names says is there, and the verifier agrees with it.

use std::collections::BTreeMap;

use imgcore::block::{MemoryDisk, Staged};
use imgcore::fs::ext4::{Editor, Ext4, verify};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, Error, FileSystem};
use vmimg_tests::fuzz::Random;

use super::random::operations;
use super::{Image, NOW, path};

const NAMES: [&str; 7] = ["/a", "/b", "/c", "/d/a", "/d/b", "/d/e/a", "/d/e/b"];

/// Files by number, with contents and mode; names with the files that they are of.
#[derive(Clone, Debug, Default)]
struct Model {
    files: Vec<(Vec<u8>, u32)>,
    names: BTreeMap<&'static str, usize>,
}

impl Model {
    /// Returns the file of a name, and makes one where there is none.
    fn at(&mut self, name: &'static str) -> &mut (Vec<u8>, u32) {
        let new = self.files.len();
        let number = *self.names.entry(name).or_insert(new);
        if number == new {
            self.files.push((Vec::new(), 0o644));
        }
        &mut self.files[number]
    }

    fn remove(&mut self, path: &str) {
        self.names.retain(|name, _| *name != path && !name.starts_with(&format!("{path}/")));
    }

    /// Does a random step, or returns `None` where it makes no sense.
    fn step(&mut self, random: &mut Random) -> Option<Edit> {
        let mut name = || NAMES[random.below(NAMES.len())];
        let (name, other) = (name(), name());
        let bytes = vec![random.word() as u8; 1 + random.below(90)];
        let content = Content::from(bytes.clone());
        let mode = 0o400 + random.below(0o400) as u32;
        let attributes = Attributes { mode: Some(mode).filter(|mode| mode % 3 == 0), ..Attributes::default() };
        let path = path(name);
        match random.below(11) {
            0..=2 => {
                let file = self.at(name);
                *file = (bytes, attributes.mode.unwrap_or(file.1));
                Some(Edit::Write { path, content, attributes })
            }
            3 => {
                let file = self.at(name);
                file.0.extend(&bytes);
                file.1 = attributes.mode.unwrap_or(file.1);
                Some(Edit::Append { path, content, attributes })
            }
            4 => {
                self.remove(name);
                *self.at(name) = (bytes, attributes.mode.unwrap_or(0o644));
                Some(Edit::CreateFile { path, content, attributes })
            }
            5..=6 => {
                let file = *self.names.get(other)?;
                self.names.insert(name, file);
                Some(Edit::HardLink { path, target: super::path(other) })
            }
            7 => {
                let file = *self.names.get(other)?;
                // Of two names of one file, the old one goes.
                if name != other {
                    self.names.remove(other);
                    self.names.insert(name, file);
                }
                Some(Edit::Rename { path, from: super::path(other) })
            }
            8 => {
                self.names.get(name)?;
                self.at(name).1 = mode;
                Some(Edit::SetAttributes { path, attributes: Attributes { mode: Some(mode), ..Attributes::default() } })
            }
            9 => {
                self.remove(name);
                Some(Edit::Remove { path })
            }
            _ => {
                let folder = ["/d", "/d/e"][random.below(2)];
                self.remove(folder);
                Some(Edit::Remove { path: super::path(folder) })
            }
        }
    }
}

fn assert_holds(disk: &dyn imgcore::block::BlockRead, model: &Model, note: &str) {
    let files = Ext4::open(disk).unwrap();
    for name in NAMES {
        let Some(number) = model.names.get(name) else {
            assert!(matches!(files.metadata(&path(name)), Err(Error::NotFound(_))), "{note}: {name}");
            continue;
        };
        let (bytes, mode) = &model.files[*number];
        let found = files.metadata(&path(name)).unwrap();
        let links = model.names.values().filter(|other| *other == number).count();
        assert_eq!((found.mode, found.links as usize), (*mode, links), "{note}: {name}");
        assert!(files.read(&path(name), 10_000).unwrap() == *bytes, "{note}: {name}");
    }
}

#[test]
fn a_plan_about_files_with_many_names_is_verified_by_what_the_files_are() {
    let images = ["-b 1024 -O ^has_journal", "-t ext2 -b 1024 -I 128"].map(|shape| Image::with(2 << 20, shape, None).disk());
    for seed in 0..operations() as u64 {
        let mut random = Random::new(seed);
        let mut disk = MemoryDisk::new(images[seed as usize % images.len()].clone().into_bytes());
        let mut model = Model::default();
        // The second plan finds files that have several names already.
        for plan in 0..2 {
            let edits: Vec<Edit> = (0..4 + random.below(14)).filter_map(|_| model.step(&mut random)).collect();
            let plan = (EditPlan { edits }, format!("seed {seed}, plan {plan}"));
            let mut editor = Editor::open(Staged::new(disk), NOW).unwrap();
            editor.apply(&plan.0).unwrap_or_else(|error| panic!("{}: {error}\n{:#?}", plan.1, plan.0));
            let staged = editor.finish().unwrap();
            verify(&staged, &plan.0).unwrap_or_else(|error| panic!("{}: {error}\n{:#?}", plan.1, plan.0));
            assert_holds(&staged, &model, &plan.1);
            disk = super::kept(&staged);
        }
    }
}
