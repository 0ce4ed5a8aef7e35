//! A change to a YAML map that keeps every other line: comments, order, and values as Salt's older YAML reads them.

use serde_json::{Map, Value};

use super::minion_config::{Config, yaml};

/// Returns `text` with the keys of `ours` set, or `None` when the result would not mean that.
pub(super) fn merged(text: &str, ours: &Map<String, Value>) -> Option<String> {
    let mut expected = Config::decode(text.as_bytes())?;
    expected.merge(ours);
    let mut kept = String::new();
    let mut dropping = false;
    for line in text.lines() {
        if let Some(key) = top_level_key(line) {
            dropping = ours.contains_key(key);
        } else if !is_continuation(line) {
            dropping = false;
        }
        if !dropping {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept.push_str(&String::from_utf8(yaml(ours).ok()?).ok()?);
    let understood = Config::decode(kept.as_bytes())?;
    (understood.values == expected.values).then_some(kept)
}

/// Returns the key of a line that begins an entry of the outermost map.
fn top_level_key(line: &str) -> Option<&str> {
    let (key, rest) = line.split_once(':')?;
    let starts = !line.starts_with([' ', '\t', '#', '-', '{', '[', '"', '\'']) || line.starts_with(['"', '\'']);
    (starts && (rest.is_empty() || rest.starts_with([' ', '\t']))).then(|| key.trim().trim_matches(['"', '\'']))
}

/// Returns whether a line belongs to the entry before it.
fn is_continuation(line: &str) -> bool {
    line.starts_with([' ', '\t', '-']) && !line.starts_with("---")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;
    use serde_json::json;

    use super::merged;

    #[test]
    fn other_lines_stay_as_they_are() {
        let ours = json!({"master": ["a"], "id": "web1"});
        let ours = ours.as_object().unwrap();
        let text = "# stock\n#master: salt\nfile_mode: 0644\nmaster:\n- old\n- older\n# tail\n\"id\": x\nlog: yes";
        assert_eq!(
            merged(text, ours).unwrap(),
            "# stock\n#master: salt\nfile_mode: 0644\n# tail\nlog: yes\nid: web1\nmaster:\n- a\n"
        );
        assert_eq!(merged("", ours).unwrap(), "id: web1\nmaster:\n- a\n");
    }

    #[test]
    fn what_cannot_be_changed_by_lines_is_left() {
        let ours = json!({"id": "web1"});
        for text in ["{id: old, a: b}", "? id\n: old\n", "- a\n", "a: b: [", "a: 1\n...\n"] {
            assert_eq!(merged(text, ours.as_object().unwrap()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_merge_means_what_it_should_or_is_none(text in "((id|a|b|\"id\"): ?[a-z0-9'|>-]{0,4}\n| {0,2}[-a]: ?x?\n|# c\n){0,6}") {
            let ours = json!({"id": "web1"});
            if let Some(text) = merged(&text, ours.as_object().unwrap()) {
                let config = super::Config::decode(text.as_bytes()).unwrap();
                assert_eq!(config.values["id"], json!("web1"));
            }
        }
    }
}
