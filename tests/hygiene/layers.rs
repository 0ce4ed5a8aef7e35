//! Inside imgcore, arrows point down only and siblings never meet.

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer with what it may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("block", &[]),
    ("storage", &["block"]),
    ("qcow2", &["block"]),
    ("partition", &["block"]),
    ("lvm", &["block"]),
    ("fs", &["block"]),
    ("nbd", &["block"]),
    ("image", &["block", "storage", "qcow2", "partition", "fs", "nbd"]),
];

#[test]
fn no_layer_of_imgcore_uses_one_beside_or_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/imgcore/src");
    let mut seen = 0;
    for (layer, below) in LAYERS {
        for file in rust_files(&source.join(layer)) {
            let text = fs::read_to_string(&file).unwrap();
            for used in crate_paths(&text) {
                seen += 1;
                let allowed = used == *layer || below.contains(&used.as_str());
                assert!(allowed, "{} uses `crate::{used}`, which is not below `{layer}`", file.display());
            }
        }
    }
    assert!(seen >= 3, "the test no longer finds the paths that it judges");
}

#[test]
fn every_module_of_imgcore_has_its_place_in_the_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/imgcore/src/lib.rs");
    for line in fs::read_to_string(root).unwrap().lines() {
        if let Some(module) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            assert!(LAYERS.iter().any(|(layer, _)| *layer == module), "`{module}` has no layer");
        }
    }
}

#[test]
fn seed_does_not_know_the_program_and_imgcore_knows_neither() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    for (package, foreign) in [("imgcore", &["seed::", "vmimg::"][..]), ("seed", &["vmimg::"][..])] {
        for file in rust_files(&crates.join(package).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            for path in foreign {
                let used = text.lines().any(|line| line.trim_start().starts_with(&format!("use {path}")));
                assert!(!used, "{} uses `{path}`", file.display());
            }
        }
    }
}

/// The first names of all `crate::NAME` paths, those inside braces as well.
fn crate_paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default().split(',').map(first_name).collect(),
            None => vec![first_name(rest)],
        };
        paths.extend(names.into_iter().filter(|name| !name.is_empty()));
    }
    paths
}

fn first_name(path: &str) -> String {
    path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
