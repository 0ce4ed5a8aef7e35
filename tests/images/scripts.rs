//! The scripts of the recipes and of the project.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use vmimg_tests::tool::Tool;

/// All files below a folder of the project.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The files that start with `#!`, with the program named there.
fn scripts() -> Vec<(PathBuf, String)> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let all = ["images", "scripts", ".ci"].iter().flat_map(|folder| files(&project.join(folder)));
    let with_first_line = all.filter_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
        Some((path, String::from_utf8_lossy(line).into_owned()))
    });
    with_first_line.collect()
}

#[test]
fn every_script_of_a_shell_parses() {
    let shells = scripts().into_iter().filter(|(_, program)| program.ends_with("sh"));
    let mut seen = 0;
    for (path, program) in shells {
        Tool::new(&program).arg("-n").arg(&path).run();
        seen += 1;
    }
    assert!(seen > 10, "the test no longer finds the scripts");
}

#[test]
fn every_script_says_what_it_is_for_and_can_be_run() {
    for (path, program) in scripts() {
        let text = fs::read_to_string(&path).unwrap();
        let second = text.lines().nth(1).unwrap_or_default();
        let explains = second.starts_with("# ") || second.starts_with("\"\"\"");
        assert!(explains, "{} says nothing about itself", path.display());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert!(mode & 0o111 != 0, "{} starts with {program} but is not executable", path.display());
    }
}
