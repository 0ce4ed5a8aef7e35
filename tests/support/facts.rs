//! What a tiny guest reports about itself on its console.

use std::collections::BTreeMap;

/// The `FACT` lines of a console log.
#[derive(Clone, Debug, Default)]
pub struct Facts(Vec<BTreeMap<String, String>>);

impl Facts {
    /// Reads the `FACT key=value…` lines of a console log. Values of single-key lines may hold spaces.
    pub fn read(console: &str) -> Self {
        Self(console.lines().filter_map(|line| line.trim_end().strip_prefix("FACT ")).map(fields).collect())
    }

    /// The value of a fact that stands alone on its line, or "" where there is none.
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find_map(|line| line.get(key)).map_or("", String::as_str)
    }

    /// A fact as a number.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key} is {:?}", self.get(key)))
    }

    /// The line whose first key is `kind` with value `name`: `about("file", "/etc/hosts")`.
    ///
    /// # Panics
    ///
    /// When the guest says nothing about it.
    #[track_caller]
    pub fn about(&self, kind: &str, name: &str) -> &BTreeMap<String, String> {
        match self.0.iter().find(|line| line.get(kind).is_some_and(|value| value == name)) {
            Some(line) => line,
            None => panic!("the guest reports no {kind} {name}, but\n{}", self.lines()),
        }
    }

    /// The line about a path, whatever is there.
    ///
    /// # Panics
    ///
    /// When the guest says nothing about it.
    #[track_caller]
    pub fn about_path(&self, path: &str) -> &BTreeMap<String, String> {
        let is_about = |line: &&BTreeMap<String, String>| {
            ["file", "dir", "link"].iter().any(|kind| line.get(*kind).is_some_and(|value| value == path))
        };
        self.0.iter().find(is_about).unwrap_or_else(|| panic!("the guest reports no {path}, but\n{}", self.lines()))
    }

    /// The report, a line per fact.
    fn lines(&self) -> String {
        self.0.iter().map(|line| format!("{line:?}\n")).collect()
    }

    /// All values of a key, in the order of the report.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter_map(|line| line.get(key)).map(String::as_str).collect()
    }
}

/// `a=1 b=2` as a map. A word without `=` continues the value before it.
fn fields(line: &str) -> BTreeMap<String, String> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for word in line.split(' ') {
        match (word.split_once('='), fields.last_mut()) {
            (Some((key, value)), _) => fields.push((key.to_owned(), value.to_owned())),
            (None, Some((_, value))) => {
                value.push(' ');
                value.push_str(word);
            }
            (None, None) => {}
        }
    }
    fields.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_line_by_line() {
        let facts =
            Facts::read("boot\r\nFACT os=debian 12\r\nFACT file=/a mode=600 owner=0:0\r\nFACT root_bytes=512\r\nlogin:");
        assert_eq!(facts.get("os"), "debian 12");
        assert_eq!(facts.number("root_bytes"), 512);
        assert_eq!(facts.about("file", "/a")["mode"], "600");
        assert_eq!(facts.all("file"), ["/a"]);
        assert_eq!(facts.get("hostname"), "");
    }
}
