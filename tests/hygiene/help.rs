//! The help teaches by example and fits a terminal.

use vmimg::commands::clap_command;

/// Calls `look` with every command that people see, and its name as in `vmimg disk ls`.
fn each(command: &clap::Command, name: &str, look: &mut impl FnMut(&clap::Command, &str)) {
    look(command, name);
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        each(below, &format!("{name} {}", below.get_name()), look);
    }
}

fn built() -> clap::Command {
    let mut command = clap_command();
    command.build();
    command
}

#[test]
fn no_line_of_any_help_is_wider_than_80_columns() {
    each(&built(), "vmimg", &mut |command, name| {
        for help in [command.clone().render_help(), command.clone().render_long_help()] {
            for line in help.to_string().lines() {
                assert!(line.chars().count() <= 80, "{name} --help: {} columns: {line}", line.chars().count());
            }
        }
    });
}

#[test]
fn every_command_shows_examples_that_its_own_parser_takes() {
    let mut seen = 0;
    each(&built(), "vmimg", &mut |command, name| {
        if command.has_subcommands() {
            return;
        }
        // A line that ends in a backslash goes on in the next one.
        let help = command.clone().render_long_help().to_string().replace("\\\n", " ");
        let own = help.split_once("Examples:\n").map(|(_, examples)| examples);
        let own = own.unwrap_or_else(|| panic!("{name} has no examples"));
        let own = own.replace("\\\n", " ");
        let examples: Vec<&str> = own.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert!(examples.iter().any(|line| line.contains(name)), "{name}: no example shows it: {examples:?}");
        for line in examples {
            for part in invocations(line) {
                seen += 1;
                let parsed = clap_command().try_get_matches_from(&part);
                assert!(parsed.is_ok(), "{name}: `{line}`: {}", parsed.unwrap_err());
            }
        }
    });
    assert!(seen >= 4, "the test no longer finds the examples that it judges");
}

/// The runs of vmimg in a line of shell.
pub(crate) fn invocations(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let ends = |word: &&str| ["&&", "|", ">", "2>", ";", "<"].contains(word);
    let mut runs = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if word.trim_start_matches("<(") == "vmimg" {
            let rest = words[at + 1..].iter().take_while(|word| !ends(word));
            let rest = rest.map(|word| word.trim_matches(['\'', '"', ')']).to_owned());
            runs.push(std::iter::once("vmimg".to_owned()).chain(rest).collect());
        }
    }
    runs
}
