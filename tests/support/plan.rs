//! What `vmimg prepare --dry-run --json` says will be done to a guest's files.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::facts::Facts;

/// The planned steps of one machine.
#[derive(Debug)]
pub struct Plan(Vec<Value>);

impl Plan {
    /// Reads what `--dry-run --json` printed for one machine.
    ///
    /// # Panics
    ///
    /// When it is something else.
    #[track_caller]
    pub fn read(printed: &str) -> Self {
        let plans: Value = serde_json::from_str(printed).unwrap();
        let steps = plans.pointer("/0/edits").unwrap_or_else(|| panic!("a plan has edits: {plans:#}"));
        Self(steps.as_array().unwrap().clone())
    }

    /// The paths that the plan touches, sorted, each once.
    pub fn paths(&self) -> Vec<String> {
        self.outcomes().into_keys().collect()
    }

    /// Asserts that the guest reports each path as the plan leaves it. The guest must have been told of [`Plan::paths`].
    ///
    /// # Panics
    ///
    /// When it reports something else.
    #[track_caller]
    pub fn assert_reported(&self, facts: &Facts) {
        for (path, step) in self.outcomes() {
            let path = path.as_str();
            let op = step["op"].as_str().unwrap();
            let line = match op {
                "write" | "append_line" => facts.about("file", path),
                "create_dir" => facts.about("dir", path),
                "symlink" => facts.about("link", path),
                "remove" => facts.about("missing", path),
                "set_attributes" => facts.about_path(path),
                _ => panic!("the plan has an unknown step: {step}"),
            };
            if let Some(mode) = step["mode"].as_str() {
                assert_eq!(octal(&line["mode"]), octal(mode), "mode of {path}: {step}");
            }
            if let (Some(uid), Some(gid)) = (step["uid"].as_u64(), step["gid"].as_u64()) {
                assert_eq!(line["owner"], format!("{uid}:{gid}"), "owner of {path}: {step}");
            }
            if let Some(target) = step["target"].as_str() {
                assert_eq!(line["target"], target, "target of {path}");
            }
            if let (Some(sha256), "write") = (step["sha256"].as_str(), op) {
                assert_eq!(line["sha256"], sha256, "content of {path}");
            }
        }
    }

    /// For each path the one step that would do what all of its steps do.
    fn outcomes(&self) -> BTreeMap<String, Value> {
        let mut outcomes: BTreeMap<String, Value> = BTreeMap::new();
        for step in &self.0 {
            let path = step["path"].as_str().unwrap().to_owned();
            match (step["op"].as_str().unwrap(), outcomes.get_mut(&path)) {
                ("set_attributes", Some(outcome)) => {
                    for key in ["mode", "uid", "gid"] {
                        if let Some(value) = step.get(key) {
                            outcome[key] = value.clone();
                        }
                    }
                }
                // What the whole file holds then, the plan does not say.
                ("append_line", Some(outcome)) => outcome["sha256"] = Value::Null,
                _ => drop(outcomes.insert(path, step.clone())),
            }
        }
        outcomes
    }
}

fn octal(text: &str) -> u32 {
    u32::from_str_radix(text, 8).unwrap_or_else(|_| panic!("{text:?} is no mode"))
}
