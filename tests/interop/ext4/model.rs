use std::collections::BTreeMap;

use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Attributes, Content, Edit, Error, FileKind, FileSystem};
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::{Image, SHAPES, path};

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Node {
    File(Vec<u8>, u32),
    Folder(u32),
    Link(String),
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Write(String, usize, u8),
    Mkdir(String, u32),
    Link(String, usize),
    Remove(String),
    Chmod(String, u32),
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(0_u8..5, 1..4)
        .prop_map(|parts| parts.iter().map(|part| format!("/{}{part}", "n".repeat(usize::from(*part) * 40 + 1))).collect())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (name(), 0_usize..40_000, any::<u8>()).prop_map(|(name, len, byte)| Step::Write(name, len, byte)),
        2 => (name(), (0_u32..0o10000).prop_map(|mode| mode & !0o2000)).prop_map(|(name, mode)| Step::Mkdir(name, mode)),
        1 => (name(), 1_usize..200).prop_map(|(name, len)| Step::Link(name, len)),
        2 => name().prop_map(Step::Remove),
        1 => (name(), (0_u32..0o10000).prop_map(|mode| mode & !0o2000)).prop_map(|(name, mode)| Step::Chmod(name, mode)),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Does to the model what the step says; returns `None` when the step must fail.
pub(super) fn model(tree: &mut BTreeMap<String, Node>, step: &Step) -> Option<Edit> {
    let (Step::Write(name, ..) | Step::Mkdir(name, _) | Step::Link(name, _) | Step::Remove(name) | Step::Chmod(name, _)) = step;
    let parents: Vec<&str> = name.match_indices('/').skip(1).map(|(at, _)| &name[..at]).collect();
    // A dangling link or a file on the way.
    if parents.iter().any(|parent| matches!(tree.get(*parent), Some(Node::File(..) | Node::Link(_)))) {
        return None;
    }
    let missing = parents.iter().any(|parent| !tree.contains_key(*parent));
    let there = tree.get(name).cloned();
    let attributes = |mode| Attributes { mode, ..Attributes::default() };
    let edit = match (step, there) {
        (Step::Write(_, len, byte), None | Some(Node::File(..))) => {
            let mode = if let Some(Node::File(_, mode)) = tree.get(name) { *mode } else { 0o644 };
            tree.insert(name.clone(), Node::File(vec![*byte; *len], mode));
            Edit::Write { path: path(name), content: Content::from(vec![*byte; *len]), attributes: attributes(None) }
        }
        (Step::Mkdir(_, mode), None | Some(Node::Folder(_))) => {
            tree.insert(name.clone(), Node::Folder(*mode));
            Edit::CreateDir { path: path(name), attributes: attributes(Some(*mode)) }
        }
        (Step::Link(_, len), None | Some(Node::File(..) | Node::Link(_))) => {
            let target = format!("/none/{}", "t".repeat(*len));
            tree.insert(name.clone(), Node::Link(target.clone()));
            Edit::Symlink { path: path(name), target, attributes: attributes(None) }
        }
        (Step::Remove(_), _) => {
            tree.retain(|old, _| old != name && !old.starts_with(&format!("{name}/")));
            return Some(Edit::Remove { path: path(name) });
        }
        (Step::Chmod(_, mode), Some(there)) => {
            match there {
                Node::File(content, _) => tree.insert(name.clone(), Node::File(content, *mode)),
                Node::Folder(_) => tree.insert(name.clone(), Node::Folder(*mode)),
                Node::Link(_) => None,
            };
            return Some(Edit::SetAttributes { path: path(name), attributes: attributes(Some(*mode)) });
        }
        _ => return None,
    };
    if missing {
        for parent in parents {
            tree.entry(parent.to_owned()).or_insert(Node::Folder(0o755));
        }
    }
    Some(edit)
}

pub(super) fn walk(ext4: &dyn FileSystem, folder: &str, tree: &mut BTreeMap<String, Node>) {
    for entry in ext4.read_dir(&path(if folder.is_empty() { "/" } else { folder })).unwrap() {
        let name = format!("{folder}/{}", String::from_utf8(entry.name).unwrap());
        if name == "/lost+found" {
            continue;
        }
        let mode = ext4.symlink_metadata(&path(&name)).unwrap().mode;
        let node = match entry.kind {
            FileKind::Directory => {
                walk(ext4, &name, tree);
                Node::Folder(mode)
            }
            FileKind::Symlink => Node::Link(String::from_utf8(ext4.read_link(&path(&name)).unwrap()).unwrap()),
            _ => Node::File(ext4.read(&path(&name), 1 << 20).unwrap(), mode),
        };
        tree.insert(name, node);
    }
}

proptest! {
    #![proptest_config(Config { cases: 8, max_shrink_iters: 40, ..Config::default() })]
    #[test]
    fn any_edits_leave_a_clean_file_system_with_what_a_model_holds(shape in 0..SHAPES.len(), all in steps(), fragment in any::<bool>()) {
        let (_, mib, arguments) = SHAPES[shape];
        let has_journal = !arguments.contains("^has_journal") && !arguments.contains("ext2");
        let image = Image::with(mib << 19, &format!("{arguments}{}", if has_journal { " -J size=4" } else { "" }), None);
        if fragment {
            let write = |at: usize| Edit::Write { path: path(&format!("/f/{at}")), content: Content::from(vec![1; 900]), attributes: Attributes::default() };
            image.apply((0..150).map(write).collect()).unwrap();
            image.apply((0..150).step_by(2).map(|at| Edit::Remove { path: path(&format!("/f/{at}")) }).collect()).unwrap();
            image.apply((1..150).step_by(4).map(|at| Edit::Remove { path: path(&format!("/f/{at}")) }).collect()).unwrap();
        }
        let mut expected = BTreeMap::new();
        walk(&Ext4::open(image.disk()).unwrap(), "", &mut expected);
        let edits: Vec<Edit> = all.iter().filter_map(|step| model(&mut expected, step)).collect();
        match image.apply(edits) {
            Ok(()) => {}
            Err(Error::NoSpace(_)) => return Ok(()),
            Err(error) => panic!("{error}"),
        }
        image.assert_clean();
        let mut found = BTreeMap::new();
        walk(&Ext4::open(image.disk()).unwrap(), "", &mut found);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, node) in expected {
            assert!(found[&name] == node, "{name}");
        }
    }
}
