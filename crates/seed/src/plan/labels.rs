//! SELinux labels for new files, from the guest's own policy.

use std::collections::BTreeMap;

use imgcore::fs::{FileKind, GuestPath};
use regex::bytes::{Regex, RegexBuilder};

use super::Error;
use crate::guest::{Selinux, Tree};

/// The rules of a `file_contexts` file.
#[derive(Debug, Default)]
pub(super) struct Labels {
    rules: Vec<Rule>,
    /// Path prefixes that are labeled as if they were others.
    substitutions: Vec<(String, String)>,
    /// Whether the guest wants labels at all.
    wanted: bool,
    missed: bool,
    /// Rules that were looked at, by their patterns; `None` for one that is no regular expression.
    compiled: BTreeMap<String, Option<Regex>>,
}

#[derive(Debug)]
struct Rule {
    /// The regular expression as written, anchored at both ends by meaning.
    pattern: String,
    /// What every match begins with.
    stem: String,
    kind: Option<FileKind>,
    /// `None` for `<<none>>`: the file gets no label.
    context: Option<String>,
}

impl Labels {
    /// Reads the policy's rules; without SELinux there are none.
    pub(super) fn read(tree: &Tree, selinux: Option<&Selinux>) -> Result<Self, Error> {
        let Some(selinux) = selinux else { return Ok(Self::default()) };
        let mut labels = Self { wanted: true, ..Self::default() };
        let Some(base) = &selinux.file_contexts else { return Ok(labels) };
        // As libselinux reads them: later files win.
        for suffix in ["", ".homedirs", ".local"] {
            labels.add(&tree.read(&format!("{base}{suffix}"), CONTEXTS_MAX)?.unwrap_or_default());
        }
        for suffix in [".subs_dist", ".subs"] {
            let text = tree.read(&format!("{base}{suffix}"), CONTEXTS_MAX)?.unwrap_or_default();
            for line in String::from_utf8_lossy(&text).lines().filter(|line| !line.trim_start().starts_with('#')) {
                let mut fields = line.split_ascii_whitespace();
                if let (Some(from), Some(to)) = (fields.next(), fields.next()) {
                    labels.substitutions.push((from.to_owned(), to.to_owned()));
                }
            }
        }
        Ok(labels)
    }

    /// Returns the value of `security.selinux` for a new file.
    pub(super) fn of(&mut self, path: &GuestPath, kind: FileKind) -> Option<Vec<u8>> {
        if !self.wanted {
            return None;
        }
        let path = self.substituted(path.as_str());
        let literal = self.rules.iter().rev().find(|rule| rule.stem == path && rule.fits(kind) && rule.is_literal());
        let found = literal.or_else(|| {
            let compiled = &mut self.compiled;
            let mut rules = self.rules.iter().rev().filter(|rule| rule.fits(kind) && path.starts_with(&rule.stem));
            rules.find(|rule| !rule.is_literal() && rule.matches(&path, compiled))
        });
        match found.map(|rule| &rule.context) {
            // The kernel stores a context with the NUL that ends it.
            Some(Some(context)) => Some([context.as_bytes(), b"\0"].concat()),
            Some(None) => None,
            None => {
                self.missed = true;
                None
            }
        }
    }

    /// Returns whether a file went without a label although the guest wants one.
    pub(super) fn missed(&self) -> bool {
        self.missed
    }

    fn substituted(&self, path: &str) -> String {
        for (from, to) in &self.substitutions {
            if let Some(rest) = path.strip_prefix(from.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                return format!("{to}{rest}");
            }
        }
        path.to_owned()
    }

    /// Adds the rules of a file's text.
    ///
    /// # Spec
    ///
    /// file_contexts(5): pattern, optional type of file, context.
    fn add(&mut self, bytes: &[u8]) {
        for line in String::from_utf8_lossy(bytes).lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(pattern), Some(second)) = (fields.next(), fields.next()) else { continue };
            if pattern.starts_with('#') {
                continue;
            }
            let (kind, context) = match fields.next() {
                Some(context) => (file_kind(second), context),
                None => (Some(None), second),
            };
            let Some(kind) = kind else { continue };
            let stem = stem(pattern);
            let context = (context != "<<none>>").then(|| context.to_owned());
            self.rules.push(Rule { pattern: pattern.to_owned(), stem, kind, context });
        }
    }
}

impl Rule {
    fn fits(&self, kind: FileKind) -> bool {
        self.kind.is_none_or(|own| own == kind)
    }

    /// Returns whether the pattern is a plain path; those go before all others.
    fn is_literal(&self) -> bool {
        self.pattern.replace("\\.", "").bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-@:".contains(&byte))
    }

    fn matches(&self, path: &str, compiled: &mut BTreeMap<String, Option<Regex>>) -> bool {
        if compiled.len() >= COMPILED_MAX && !compiled.contains_key(&self.pattern) {
            compiled.clear();
        }
        let regex = compiled.entry(self.pattern.clone()).or_insert_with(|| regex(&self.pattern));
        regex.as_ref().is_some_and(|regex| regex.is_match(path.as_bytes()))
    }
}

fn regex(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(REGEX_MAX).dfa_size_limit(REGEX_MAX).build().ok()
}

/// Returns the literal text that every match of a pattern begins with.
fn stem(pattern: &str) -> String {
    let mut stem = String::new();
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        let literal = match character {
            '\\' => match characters.next() {
                Some(escaped) if !escaped.is_ascii_alphanumeric() => escaped,
                _ => return stem,
            },
            '.' | '^' | '$' | '?' | '*' | '+' | '|' | '[' | '(' | '{' | ')' | ']' | '}' => {
                return stem_before_alternatives(pattern, stem);
            }
            literal => literal,
        };
        // A repeated or optional letter is no part of it.
        if matches!(characters.peek(), Some('?' | '*' | '+' | '{')) {
            return stem_before_alternatives(pattern, stem);
        }
        stem.push(literal);
    }
    stem
}

/// A `|` outside of all groups means that another start matches too.
fn stem_before_alternatives(pattern: &str, stem: String) -> String {
    let mut depth = 0_i32;
    for character in pattern.chars() {
        match character {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            '|' if depth <= 0 => return String::new(),
            _ => {}
        }
    }
    stem
}

/// Returns the type that a rule is limited to, or `None` when the field is no type.
fn file_kind(field: &str) -> Option<Option<FileKind>> {
    Some(Some(match field {
        "--" => FileKind::File,
        "-d" => FileKind::Directory,
        "-l" => FileKind::Symlink,
        "-c" => FileKind::CharDevice,
        "-b" => FileKind::BlockDevice,
        "-p" => FileKind::Fifo,
        "-s" => FileKind::Socket,
        _ => return None,
    }))
}

/// The most bytes that are read of a policy's rules, and that one compiled rule takes.
const CONTEXTS_MAX: u64 = 8 << 20;
const REGEX_MAX: usize = 1 << 20;
/// Compiled rules that are kept.
const COMPILED_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use imgcore::fs::{FileKind, GuestPath};
    use proptest::prelude::proptest;

    use super::Labels;

    fn labels(rules: &str) -> Labels {
        let mut labels = Labels { wanted: true, ..Labels::default() };
        labels.add(rules.as_bytes());
        labels
    }

    fn of(labels: &mut Labels, path: &str, kind: FileKind) -> Option<String> {
        labels.of(&GuestPath::new(path).unwrap(), kind).map(|label| String::from_utf8(label).unwrap())
    }

    #[test]
    fn the_last_rule_that_matches_wins_and_plain_paths_go_first() {
        let mut labels = labels(
            "# rules\n/.*\tsystem_u:object_r:default_t:s0\n/etc/hostname -- system_u:object_r:hostname_etc_t:s0\n\
             /etc/.* system_u:object_r:etc_t:s0\n/etc/ssh/.*_key -- system_u:object_r:sshd_key_t:s0\n/root(/.*)? system_u:object_r:admin_home_t:s0\n\
             /root/\\.ssh(/.*)? system_u:object_r:ssh_home_t:s0\n/proc <<none>>\n/var/colou?r -d system_u:object_r:odd_t:s0\n",
        );
        assert_eq!(of(&mut labels, "/etc/hostname", FileKind::File).as_deref(), Some("system_u:object_r:hostname_etc_t:s0\0"));
        assert_eq!(of(&mut labels, "/etc/hostname", FileKind::Directory).as_deref(), Some("system_u:object_r:etc_t:s0\0"));
        assert_eq!(
            of(&mut labels, "/etc/ssh/ssh_host_rsa_key", FileKind::File).as_deref(),
            Some("system_u:object_r:sshd_key_t:s0\0")
        );
        assert_eq!(
            of(&mut labels, "/root/.ssh/authorized_keys", FileKind::File).as_deref(),
            Some("system_u:object_r:ssh_home_t:s0\0")
        );
        assert_eq!(of(&mut labels, "/root/.sshx", FileKind::File).as_deref(), Some("system_u:object_r:admin_home_t:s0\0"));
        assert_eq!(of(&mut labels, "/var/color", FileKind::Directory).as_deref(), Some("system_u:object_r:odd_t:s0\0"));
        assert_eq!(of(&mut labels, "/proc", FileKind::Directory), None);
        assert!(!labels.missed());
    }

    #[test]
    fn a_path_without_a_rule_is_remembered() {
        let mut labels = labels("/etc/.* system_u:object_r:etc_t:s0\n/bad(?=x) system_u:object_r:bad_t:s0\n");
        assert_eq!(of(&mut labels, "/srv/x", FileKind::File), None);
        assert!(labels.missed());
    }

    #[test]
    fn a_guest_without_selinux_gets_no_labels() {
        let mut labels = Labels::default();
        assert_eq!(of(&mut labels, "/etc/x", FileKind::File), None);
        assert!(!labels.missed());
    }

    proptest! {
        #[test]
        fn any_text_is_a_policy(rules in "([/a.*+?(){}|\\\\\\[\\]^$-]{0,12}[ \t](-[-dl])? ?[a-z:<>]{0,8}\n){0,6}", path in "(/[a-z]{1,3}){1,3}") {
            let _ = labels(&rules).of(&GuestPath::new(&path).unwrap(), FileKind::File);
        }
    }
}
