//! Long random plans on small file systems of every shape: beside a model in memory, and beside Linux.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Edit, Error};
use vmimg_tests::fuzz::Random;

use super::model::{Node, Step, model, walk};
use super::{Image, SHAPES};

/// How many operations there are: some hundreds, or `VMIMG_MODEL_OPERATIONS`.
#[expect(clippy::disallowed_methods, reason = "who runs the tests says how long they may take")]
pub(super) fn operations() -> usize {
    std::env::var("VMIMG_MODEL_OPERATIONS").map_or(240, |text| text.parse().unwrap())
}

/// Operations on one file system, and those of one plan.
const ON_ONE: usize = 400;
const IN_PLAN: usize = 40;

/// Paths of few names, short and long, so that operations meet.
fn name(random: &mut Random) -> String {
    let part = |random: &mut Random| match random.below(12) {
        0 => format!("/{}", "\u{6587}".repeat(85)),
        kind @ 1..=7 => format!("/{kind}"),
        kind => format!("/{}{}", "n".repeat(kind * 20), random.below(40)),
    };
    (0..=random.below(3)).map(|_| part(random)).collect()
}

pub(super) fn step(random: &mut Random, largest: usize) -> Step {
    let name = name(random);
    let mode = u32::try_from(random.below(0o10000)).unwrap() & !0o2000;
    match random.below(14) {
        0..=1 => Step::Mkdir(name, mode | 0o700),
        2 => Step::Link(name, 1 + random.below(200)),
        3..=5 => Step::Remove(name),
        6 => Step::Chmod(name, mode),
        7 => Step::Write(name, random.below(largest), random.word() as u8),
        8..=9 => Step::Write(name, random.below(200), random.word() as u8),
        _ => Step::Write(name, random.below(6000), random.word() as u8),
    }
}

pub(super) fn tree(image: &Image) -> BTreeMap<String, Node> {
    let mut found = BTreeMap::new();
    walk(&Ext4::open(image.disk()).unwrap(), "", &mut found);
    found
}

#[track_caller]
pub(super) fn assert_same(found: &BTreeMap<String, Node>, expected: &BTreeMap<String, Node>, note: &str) {
    let names = |tree: &BTreeMap<String, Node>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{note}");
    let differs = expected.iter().find(|(name, node)| &found[*name] != *node).map(|(name, _)| name);
    assert_eq!(differs, None, "{note}");
}

pub(super) fn small(shape: usize, half_mib: u64) -> Image {
    let (_, mib, arguments) = SHAPES[shape];
    let has_journal = !arguments.contains("^has_journal") && !arguments.contains("ext2");
    Image::with((mib * half_mib) << 18, &format!("{arguments}{}", if has_journal { " -J size=4" } else { "" }), None)
}

/// Random edits of an image, that a model says are possible.
pub(super) fn edits(image: &Image, random: &mut Random, count: usize) -> Vec<Edit> {
    let mut expected = tree(image);
    (0..count).filter_map(|_| model(&mut expected, &step(random, 30_000))).collect()
}

#[test]
fn long_random_plans_leave_clean_file_systems_with_what_a_model_holds() {
    for run in 0..operations().div_ceil(ON_ONE.min(60).max(operations() / 25)) {
        let (shape, note) = (run * 7 % SHAPES.len(), SHAPES[run * 7 % SHAPES.len()].0);
        let mut random = Random::new(run as u64);
        // Half of them are so small that they are full soon.
        let image = small(shape, if run % 2 == 0 { 2 } else { 4 });
        let mut expected = tree(&image);
        for plan in 0..(operations() / 4).clamp(60, ON_ONE) / IN_PLAN {
            let before = expected.clone();
            let steps: Vec<Step> = (0..IN_PLAN).map(|_| step(&mut random, 300_000)).collect();
            let edits: Vec<Edit> = steps.iter().filter_map(|step| model(&mut expected, step)).collect();
            match image.apply(edits) {
                Ok(()) => {}
                Err(Error::NoSpace(_)) => expected = before,
                Err(error) => panic!("{note}, run {run}: {error}: {error:?}"),
            }
            if plan % 3 == 0 {
                image.assert_clean();
            }
        }
        image.assert_clean();
        assert_same(&tree(&image), &expected, note);
    }
}

/// Does with Linux what a step says, where it makes sense.
fn do_with_linux(root: &Path, tree: &BTreeMap<String, Node>, step: &Step) {
    let (Step::Write(name, ..) | Step::Mkdir(name, _) | Step::Link(name, _) | Step::Remove(name) | Step::Chmod(name, _)) = step;
    let path = root.join(&name[1..]);
    let make_parent = || fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mode = |mode: u32| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    match step {
        Step::Write(_, len, byte) => {
            make_parent();
            fs::write(&path, vec![*byte; *len]).unwrap();
        }
        Step::Mkdir(_, bits) => {
            fs::create_dir_all(&path).unwrap();
            mode(*bits);
        }
        Step::Link(_, len) => {
            make_parent();
            let _none = fs::remove_file(&path);
            symlink(format!("/none/{}", "t".repeat(*len)), &path).unwrap();
        }
        Step::Remove(_) => match tree.get(name) {
            Some(Node::Folder(_)) => fs::remove_dir_all(&path).unwrap(),
            Some(_) => fs::remove_file(&path).unwrap(),
            None => {}
        },
        Step::Chmod(_, bits) if !matches!(tree.get(name), Some(Node::Link(_))) => mode(*bits),
        Step::Chmod(..) => {}
    }
}

#[test]
fn linux_and_the_editor_make_the_same_of_a_plan() {
    // Linux takes blocks no larger than its pages, and the one that runs the tests may not know quota.
    let is_mountable = |shape: &usize| !["-b 65536", "-b 16384", "quota"].iter().any(|word| SHAPES[*shape].2.contains(word));
    let mountable: Vec<usize> = (0..SHAPES.len()).filter(is_mountable).collect();
    for run in 0..operations().div_ceil(60) {
        let shape = mountable[run * 5 % mountable.len()];
        let note = SHAPES[shape].0;
        let mut random = Random::new(1000 + run as u64);
        let (ours, theirs) = (small(shape, 4), small(shape, 4));
        let mut expected = tree(&ours);
        let mut edits = Vec::new();
        theirs.mounted(|root| {
            for _ in 0..60 {
                let step = step(&mut random, 30_000);
                let before = expected.clone();
                if let Some(edit) = model(&mut expected, &step) {
                    do_with_linux(root, &before, &step);
                    edits.push(edit);
                }
            }
        });
        ours.apply(edits).unwrap_or_else(|error| panic!("{note}: {error}"));
        ours.assert_clean();
        let (ours, theirs) = (tree(&ours), tree(&theirs));
        assert_same(&ours, &theirs, note);
        assert_same(&ours, &expected, note);
    }
}
