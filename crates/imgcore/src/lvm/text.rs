//! The text of a volume group: sections in braces, and assignments of numbers, strings and lists.
//!
//! Spec: format, "Parameter definitions": `<identifier> = <value>` with "An integer", "A string", "A list (or array)"; "The # character is
//! used for comments. A comment continues to the end-of-line."

use std::collections::BTreeMap;

use super::Error;

/// A section: what it assigns, and the sections in it, by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Section(BTreeMap<String, Value>);

/// What a name stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

impl Section {
    /// Reads a whole text.
    pub(super) fn decode(text: &[u8]) -> Result<Self, Error> {
        // It ends with a NUL.
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        let text = std::str::from_utf8(text).map_err(|_| broken("must be UTF-8", 0))?;
        let mut reader = Reader { text, at: 0 };
        let section = reader.section(0)?;
        if reader.peek().is_some() {
            return Err(broken("has a closing brace too many", reader.at));
        }
        Ok(section)
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    pub(super) fn section(&self, name: &str) -> Option<&Self> {
        match self.0.get(name)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns a number that is not negative.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Value::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        match self.0.get(name)? {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn lists(&self) -> impl Iterator<Item = &[Value]> {
        self.0.values().filter_map(|value| match value {
            Value::List(list) => Some(list.as_slice()),
            _ => None,
        })
    }

    /// Returns the words of a list such as `status`; none without it.
    pub(super) fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.list(name).unwrap_or_default().iter().filter_map(|value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns every string in it, at whatever depth.
    pub(super) fn strings(&self) -> Vec<&str> {
        let mut all = Vec::new();
        let mut left: Vec<&Value> = self.0.values().collect();
        while let Some(value) = left.pop() {
            match value {
                Value::Text(text) => all.push(text.as_str()),
                Value::List(list) => left.extend(list),
                Value::Section(section) => left.extend(section.0.values()),
                Value::Number(_) => {}
            }
        }
        all
    }
}

/// What is left of a text. Every place that it stops at is the start of a character.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    /// Reads names and what they stand for, up to a closing brace that is left, or the end.
    fn section(&mut self, depth: u32) -> Result<Section, Error> {
        let mut entries = BTreeMap::new();
        while let Some(next) = self.peek().filter(|next| *next != '}') {
            let begun = self.at;
            if next == '=' || next == '{' {
                return Err(broken("has a value without a name", begun));
            }
            let name = self.word()?;
            let value = match self.peek() {
                Some('{') if depth < DEPTH_MAX => {
                    self.skip();
                    let section = self.section(depth.saturating_add(1))?;
                    self.expect('}')?;
                    Value::Section(section)
                }
                Some('{') => return Err(broken("has sections too deep inside each other", self.at)),
                _ => {
                    self.expect('=')?;
                    self.value()?
                }
            };
            if entries.insert(name, value).is_some() {
                return Err(broken("has the same name twice in one section", begun));
            }
        }
        Ok(Section(entries))
    }

    fn value(&mut self) -> Result<Value, Error> {
        if self.peek() != Some('[') {
            return self.scalar();
        }
        self.skip();
        let mut list = Vec::new();
        while self.peek() != Some(']') {
            if !list.is_empty() {
                self.expect(',')?;
                // Behind the last there may be one.
                if self.peek() == Some(']') {
                    break;
                }
            }
            list.push(self.scalar()?);
        }
        self.expect(']')?;
        Ok(Value::List(list))
    }

    fn scalar(&mut self) -> Result<Value, Error> {
        if self.peek() == Some('"') {
            return self.string().map(Value::Text);
        }
        let word = self.word()?;
        Ok(word.parse().map_or(Value::Text(word), Value::Number))
    }

    /// Reads a string: a backslash takes the next character as it is.
    fn string(&mut self) -> Result<String, Error> {
        let begun = self.at;
        self.skip();
        let mut text = String::new();
        let mut chars = self.text.get(self.at..).unwrap_or_default().char_indices();
        while let Some((at, next)) = chars.next() {
            match next {
                '"' => {
                    self.at = self.at.saturating_add(at).saturating_add(1);
                    return Ok(text);
                }
                '\\' => text.extend(chars.next().map(|(_, escaped)| escaped)),
                other => text.push(other),
            }
        }
        Err(broken("has a string without an end", begun))
    }

    /// Reads a name or a number.
    fn word(&mut self) -> Result<String, Error> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_.+-/".contains(c)).unwrap_or(rest.len());
        if len == 0 || len > WORD_MAX {
            return Err(broken("has no word where one must be", self.at));
        }
        self.at = self.at.saturating_add(len);
        Ok(rest.get(..len).unwrap_or_default().to_owned())
    }

    /// Returns the next character that is neither space nor comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.text.get(self.at..)?;
            let spaces = rest.len().saturating_sub(rest.trim_start().len());
            self.at = self.at.saturating_add(spaces);
            let rest = rest.trim_start();
            if !rest.starts_with('#') {
                return rest.chars().next();
            }
            self.at = self.at.saturating_add(rest.find('\n').unwrap_or(rest.len()));
        }
    }

    /// Passes a character of one byte.
    fn skip(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn expect(&mut self, wanted: char) -> Result<(), Error> {
        if self.peek() != Some(wanted) {
            return Err(broken(&format!("must have a `{wanted}`"), self.at));
        }
        self.skip();
        Ok(())
    }
}

fn broken(rule: &str, at: usize) -> Error {
    Error::corrupt("text of the volume group", format!("{rule} (byte {at})"))
}

/// How deep sections may lie in each other; that of a segment is the fourth.
const DEPTH_MAX: u32 = 8;
/// Bytes of a name; those of LVM have at most 127.
const WORD_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{Section, Value};

    fn error(text: &str) -> String {
        Section::decode(text.as_bytes()).unwrap_err().full()
    }

    #[test]
    fn sections_numbers_strings_and_lists_are_read() {
        let text = "vg0 { # a comment }\n id = \"a\\\"b\\\\\"\nseqno=5 -x {}\nlist = [\"pv0\", 12,\n]\nempty = []\n s1 {n = -1}}\nversion = 1\0";
        let all = Section::decode(text.as_bytes()).unwrap();
        let group = all.section("vg0").unwrap();
        assert_eq!((group.text("id"), group.number("seqno"), all.number("version")), (Some("a\"b\\"), Some(5), Some(1)));
        assert_eq!(group.list("list"), Some([Value::Text("pv0".to_owned()), Value::Number(12)].as_slice()));
        assert_eq!(group.sections().map(|(name, _)| name).collect::<Vec<_>>(), ["-x", "s1"]);
        assert_eq!(group.section("s1").unwrap().number("n"), None);
        assert_eq!(group.strings().len(), 2);
    }

    #[test]
    fn what_is_not_of_the_form_is_named_with_its_place() {
        for (text, wanted) in [
            ("a { b = 1", "must have a `}` (byte 9)"),
            ("a = 1 }", "a closing brace too many (byte 6)"),
            ("a = \"x", "a string without an end (byte 4)"),
            ("a = 1\na = 2", "the same name twice in one section (byte 6)"),
            ("a = [1 2]", "must have a `,` (byte 7)"),
            ("a = [1", "must have a `,` (byte 6)"),
            ("= 1", "a value without a name"),
            ("a = ]", "no word where one must be"),
            ("a b", "must have a `=`"),
        ] {
            assert!(error(text).contains(wanted), "{text}: {}", error(text));
        }
        assert!(error(&"a{".repeat(100_000)).contains("too deep"));
        assert!(error(&format!("{} = 1", "a".repeat(300))).contains("no word"));
        assert!(Section::decode(b"a = \"\xFF\"").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c1-9{}=\\[\\]\",#\\\\ \n\u{e9}]{0,80}") {
            let _ = Section::decode(text.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            let _ = Section::decode(&bytes);
        }
    }
}
