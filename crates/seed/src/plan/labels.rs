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
    /// Rules that were looked at, by their patterns.
    compiled: BTreeMap<String, Compiled>,
}

/// What a pattern is.
#[derive(Debug)]
enum Compiled {
    Rule(Regex),
    /// No regular expression, or one that libselinux knows and `regex` does not: matches nothing.
    Unknown,
    /// Too large to be looked at: whether it matches is not known.
    TooLarge,
}

/// A policy is larger than any that a distribution has: no label is taken from it.
struct OverLimit;

#[derive(Debug)]
struct Rule {
    /// The regular expression as written, anchored at both ends by meaning.
    pattern: String,
    /// What every match begins with.
    stem: String,
    /// Whether the pattern is a plain path; those go before all others.
    literal: bool,
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
            labels.add_substitutions(&tree.read(&format!("{base}{suffix}"), CONTEXTS_MAX)?.unwrap_or_default());
        }
        if labels.rules.len() > RULES_MAX || labels.substitutions.len() > SUBSTITUTIONS_MAX {
            labels.give_up();
        }
        Ok(labels)
    }

    /// Returns the value of `security.selinux` for a new file.
    ///
    /// What it takes is bounded for each file, and what is compiled for all of them: a policy that asks for more gives no label
    /// from then on.
    pub(super) fn of(&mut self, path: &GuestPath, kind: FileKind) -> Option<Vec<u8>> {
        if !self.wanted {
            return None;
        }
        let path = self.substituted(path.as_str());
        let literal = self.rules.iter().rposition(|rule| rule.literal && rule.stem == path && rule.fits(kind));
        let found = match literal {
            Some(at) => Ok(Some(at)),
            None => self.last_match(&path, kind),
        };
        let found = found.unwrap_or_else(|OverLimit| {
            self.give_up();
            None
        });
        match found.and_then(|at| self.rules.get(at)).map(|rule| &rule.context) {
            // The kernel stores a context with the NUL that ends it.
            Some(Some(context)) => Some([context.as_bytes(), b"\0"].concat()),
            Some(None) => None,
            None => {
                self.missed = true;
                None
            }
        }
    }

    /// Returns which rule is the last whose pattern matches, if any does for certain.
    fn last_match(&mut self, path: &str, kind: FileKind) -> Result<Option<usize>, OverLimit> {
        let mut tries = 0_usize;
        for (at, rule) in self.rules.iter().enumerate().rev() {
            if rule.literal || !rule.fits(kind) || !path.starts_with(&rule.stem) {
                continue;
            }
            tries = tries.saturating_add(1);
            if tries > TRIES_MAX {
                return Err(OverLimit);
            }
            if !self.compiled.contains_key(&rule.pattern) {
                if self.compiled.len() >= COMPILED_MAX {
                    return Err(OverLimit);
                }
                self.compiled.insert(rule.pattern.clone(), compiled(&rule.pattern));
            }
            match self.compiled.get(&rule.pattern) {
                Some(Compiled::Rule(regex)) if regex.is_match(path.as_bytes()) => return Ok(Some(at)),
                Some(Compiled::TooLarge) => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Drops all rules: every file goes without a label from now on.
    fn give_up(&mut self) {
        *self = Self { wanted: true, missed: true, ..Self::default() };
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
            if self.rules.len() > RULES_MAX {
                return;
            }
            let (stem, literal) = (stem(pattern), is_literal(pattern));
            let context = (context != "<<none>>").then(|| context.to_owned());
            self.rules.push(Rule { pattern: pattern.to_owned(), stem, literal, kind, context });
        }
    }

    /// Adds the pairs of a file's text: paths below the first are labeled as if below the second.
    fn add_substitutions(&mut self, bytes: &[u8]) {
        for line in String::from_utf8_lossy(bytes).lines().filter(|line| !line.trim_start().starts_with('#')) {
            let mut fields = line.split_ascii_whitespace();
            let (Some(from), Some(to)) = (fields.next(), fields.next()) else { continue };
            if self.substitutions.len() > SUBSTITUTIONS_MAX {
                return;
            }
            self.substitutions.push((from.to_owned(), to.to_owned()));
        }
    }
}

impl Rule {
    fn fits(&self, kind: FileKind) -> bool {
        self.kind.is_none_or(|own| own == kind)
    }
}

/// Returns whether a pattern is a plain path.
fn is_literal(pattern: &str) -> bool {
    pattern.replace("\\.", "").bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-@:".contains(&byte))
}

/// Compiles a pattern for bytes, as libselinux does: its classes know nothing of Unicode, which keeps them small.
fn compiled(pattern: &str) -> Compiled {
    if pattern.len() > PATTERN_MAX {
        return Compiled::TooLarge;
    }
    let mut builder = RegexBuilder::new(&format!("^(?:{pattern})$"));
    match builder.unicode(false).size_limit(REGEX_MAX).dfa_size_limit(DFA_MAX).build() {
        Ok(regex) => Compiled::Rule(regex),
        Err(regex::Error::CompiledTooBig(_)) => Compiled::TooLarge,
        Err(_) => Compiled::Unknown,
    }
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

/// The most bytes that are read of a policy's rules.
const CONTEXTS_MAX: u64 = 8 << 20;
/// The most rules and substitutions of a policy that is used at all; the reference policy has 5,700 rules.
const RULES_MAX: usize = 1 << 16;
const SUBSTITUTIONS_MAX: usize = 1 << 10;
/// The most bytes of one pattern, of what it is compiled to, and of what matching may build of it. All rules of the reference
/// policy fit into 4 KiB.
const PATTERN_MAX: usize = 1 << 12;
const REGEX_MAX: usize = 8 << 10;
const DFA_MAX: usize = 64 << 10;
/// The most rules that are compiled, and that are tried for one path.
const COMPILED_MAX: usize = 1 << 13;
const TRIES_MAX: usize = 1 << 12;

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

    #[test]
    fn a_policy_that_would_take_minutes_gives_no_labels() {
        let many = |count: usize, rule: &dyn Fn(usize) -> String| labels(&(0..count).map(rule).collect::<String>());
        // Each is slow to compile; then there are too many to try, and to look at; and one is too large, of which nothing is known.
        for mut labels in [
            many(3000, &|at| format!(".*\\pL{{20}}{at} c\n")),
            many(super::TRIES_MAX + 1, &|at| format!(".*[^q]{{200}}{at} c\n")),
            many(super::RULES_MAX + 2, &|at| format!("/etc/x{at} c\n")),
            many(1, &|_| format!("/.* c\n/s{} d\n", "(x|)".repeat(super::PATTERN_MAX))),
        ] {
            let begun = std::time::Instant::now();
            assert_eq!(of(&mut labels, "/srv/a", FileKind::File), None);
            assert!(labels.missed());
            assert!(begun.elapsed().as_secs() < 10);
        }
        let mut labels = many(super::COMPILED_MAX, &|at| format!("/{at}.* c\n"));
        assert_eq!(of(&mut labels, "/8191x", FileKind::File).as_deref(), Some("c\0"));
    }

    #[test]
    fn a_pattern_is_about_bytes() {
        let mut labels = labels("/srv/.* one\n/srv/[^/]{4} four\n/srv/\u{e9}.? two\n");
        assert_eq!(of(&mut labels, "/srv/\u{e9}x", FileKind::File).as_deref(), Some("two\0"));
        assert_eq!(of(&mut labels, "/srv/\u{20ac}x", FileKind::File).as_deref(), Some("four\0"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_policy(rules in "([/a.*+?(){}|\\\\\\[\\]^$-]{0,12}[ \t](-[-dl])? ?[a-z:<>]{0,8}\n){0,6}", path in "(/[a-z]{1,3}){1,3}") {
            let _ = labels(&rules).of(&GuestPath::new(&path).unwrap(), FileKind::File);
        }
    }
}
