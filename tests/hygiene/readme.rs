//! What the documents tell people to type is what the program takes.

use std::fs;
use std::path::Path;

use vmimg::commands::clap_command;

use crate::help::invocations;

#[test]
fn every_command_of_the_documents_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seen = 0;
    for name in ["README.md", "images/README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root.join(name)).unwrap();
        for line in shell_lines(&text) {
            // What follows `cargo run … --` are arguments of the program as well.
            let line = line.replace("cargo run --release -- ", "vmimg ");
            for run in invocations(&line) {
                seen += 1;
                let parsed = clap_command().try_get_matches_from(&run);
                assert!(parsed.is_ok(), "{name}: `{line}`: {}", parsed.unwrap_err());
            }
        }
    }
    assert!(seen >= 10, "the test no longer finds the commands that it judges");
}

/// The lines of the document's shell blocks, continued ones joined.
fn shell_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    let mut line = String::new();
    for part in text.lines() {
        if part.starts_with("```") {
            inside = !inside && matches!(part, "```sh" | "```shell" | "```bash" | "```console" | "```");
            continue;
        }
        if inside {
            line.push_str(part.trim_start_matches("$ ").trim_end_matches('\\'));
            if !part.ends_with('\\') {
                lines.push(std::mem::take(&mut line));
            }
        }
    }
    lines
}
