use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ssh_key::{HashAlg, PublicKey};

/// Why a text is not an SSH public key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A line cannot be read.
    #[error("line {line} is not an SSH public key")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
    /// There is no key in the text.
    #[error("no SSH public key in {len} bytes")]
    Empty {
        /// The length of the text.
        len: usize,
    },
    /// The text is a private key.
    #[error("this is a private key: give the public one, of the file that ends in .pub")]
    PrivateKey,
    /// The text is a public key in a form that OpenSSH does not keep in `authorized_keys`.
    #[error("a key in RFC 4716 or PEM form: `ssh-keygen -i` converts it")]
    Form,
    /// The text is longer than any file of keys.
    #[error("{len} bytes are too many for SSH public keys")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The text has control characters.
    #[error("a control character in an SSH public key")]
    Control,
    /// Options in front of the key are not well-formed.
    #[error("malformed options before the key: names, or names with `=` and a value in double quotes")]
    Options,
    /// The key's type, its base64 or its fields are wrong.
    #[error("not a public key as OpenSSH writes it")]
    Key(#[source] ssh_key::Error),
}

/// One public key that may log in, with its options and comment, as a line of `authorized_keys`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuthorizedKey {
    options: Option<String>,
    key: PublicKey,
}

impl AuthorizedKey {
    /// Returns the line in its normal form: options, type, base64 and comment with one space between them, without a line end.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = String::new();
        if let Some(options) = &self.options {
            line.push_str(options);
            line.push(' ');
        }
        line.push_str(&self.public_key());
        line
    }

    /// Returns type, base64 and comment without the options.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.key.to_string()
    }

    /// Returns the options before the key, as they were given.
    #[must_use]
    pub fn options(&self) -> Option<&str> {
        self.options.as_deref()
    }

    /// Returns the comment after the key, which may be empty.
    #[must_use]
    pub fn comment(&self) -> &str {
        self.key.comment()
    }

    /// Returns the SHA-256 fingerprint as `ssh-keygen -l` shows it, `SHA256:` first.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// Returns whether `other` is the same key, whatever their options and comments.
    #[must_use]
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.key.key_data() == other.key.key_data()
    }
}

/// Reads the keys of a `.pub` or `authorized_keys` file: one on a line, empty lines and lines that begin with `#` aside.
///
/// A key that occurs twice with the same options is returned once.
///
/// # Errors
///
/// [`Error::PrivateKey`], [`Error::Form`] and [`Error::TooLarge`] for files of another kind, [`Error::Line`] for the first line
/// that is no key, [`Error::Empty`] when there is none.
pub fn parse_authorized_keys(text: &str) -> Result<Vec<AuthorizedKey>, Error> {
    if text.len() > MAX_FILE {
        return Err(Error::TooLarge { len: text.len() });
    }
    check_form(text)?;
    let mut keys: Vec<AuthorizedKey> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key: AuthorizedKey = line.parse().map_err(|source| Error::Line { line: number, source: Box::new(source) })?;
        if !keys.iter().any(|other| other.is_same_key(&key) && other.options == key.options) {
            keys.push(key);
        }
    }
    if keys.is_empty() { Err(Error::Empty { len: text.len() }) } else { Ok(keys) }
}

impl FromStr for AuthorizedKey {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        let line = line.trim();
        check_form(line)?;
        if line.chars().any(|character| character.is_control() && character != '\t') {
            return Err(Error::Control);
        }
        match public_key(line) {
            Ok(key) => Ok(Self { options: None, key }),
            // Options begin no key, and a broken key has none: its own error says more then.
            Err(error) if starts_with_type(line) => Err(Error::Key(error)),
            Err(error) => {
                let (options, rest) = split_options(line).ok_or(Error::Key(error))?;
                if !are_options(options) {
                    return Err(Error::Options);
                }
                let key = public_key(rest).map_err(Error::Key)?;
                Ok(Self { options: Some(options.to_owned()), key })
            }
        }
    }
}

impl TryFrom<String> for AuthorizedKey {
    type Error = Error;

    fn try_from(line: String) -> Result<Self, Error> {
        line.parse()
    }
}

impl From<AuthorizedKey> for String {
    fn from(key: AuthorizedKey) -> Self {
        key.line()
    }
}

impl fmt::Display for AuthorizedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

fn check_form(text: &str) -> Result<(), Error> {
    let first = text.trim_start();
    if first.starts_with("-----BEGIN") && first.lines().next().is_some_and(|line| line.contains("PRIVATE KEY")) {
        return Err(Error::PrivateKey);
    }
    if first.starts_with("---- BEGIN") || first.starts_with("-----BEGIN") {
        return Err(Error::Form);
    }
    Ok(())
}

/// Decodes type, base64 and comment, with any blanks between them.
fn public_key(text: &str) -> Result<PublicKey, ssh_key::Error> {
    let text = text.trim();
    let (kind, rest) = text.split_once([' ', '\t']).ok_or(ssh_key::Error::FormatEncoding)?;
    let rest = rest.trim_start();
    let (base64, comment) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    let mut key = PublicKey::from_openssh(&format!("{kind} {base64}"))?;
    key.set_comment(comment.trim());
    Ok(key)
}

/// Returns whether the first word is a key's type rather than an option.
fn starts_with_type(line: &str) -> bool {
    let word = line.split([' ', '\t']).next().unwrap_or_default();
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|prefix| word.starts_with(prefix))
}

/// Splits a line at the first blank outside of double quotes.
fn split_options(line: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let mut escaped = false;
    let end = line.find(|character: char| {
        match character {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => return true,
            _ => {}
        }
        escaped = character == '\\' && !escaped;
        false
    })?;
    line.split_at_checked(end).map(|(options, rest)| (options, rest.trim_start()))
}

/// Returns whether `text` is a list of names, or names with a quoted value, with commas between them.
fn are_options(text: &str) -> bool {
    let mut rest = text;
    loop {
        let name = rest.trim_start_matches(|character: char| character.is_ascii_alphanumeric() || "-@.".contains(character));
        if name.len() == rest.len() {
            return false;
        }
        rest = match name.strip_prefix("=\"") {
            Some(value) => match after_quote(value) {
                Some(rest) => rest,
                None => return false,
            },
            None => name,
        };
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None => return rest.is_empty(),
        };
    }
}

/// Returns what follows the first double quote without a backslash before it.
fn after_quote(value: &str) -> Option<&str> {
    let mut escaped = false;
    let end = value.find(|character: char| {
        let found = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        found
    })?;
    value.split_at_checked(end)?.1.strip_prefix('"')
}

/// More than a thousand keys.
const MAX_FILE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{AuthorizedKey, Error, parse_authorized_keys};

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB6lJtVVa4qjIXQ9SATlGVgzHYQ7AW/hKgSXEjKKU0wn";

    #[test]
    fn a_line_is_brought_to_its_normal_form() {
        for (text, normal) in [
            (ED25519.to_owned(), ED25519.to_owned()),
            (format!("  {ED25519}   ada@example.org  \r"), format!("{ED25519} ada@example.org")),
            (format!("{} a # b  c", ED25519.replace(' ', "\t ")), format!("{ED25519} a # b  c")),
            (
                format!("no-pty,command=\"/bin/ls -l \\\"x y\\\"\" {ED25519} c d"),
                format!("no-pty,command=\"/bin/ls -l \\\"x y\\\"\" {ED25519} c d"),
            ),
            (format!("from=\"10.0.0.0/8\"\t{ED25519}"), format!("from=\"10.0.0.0/8\" {ED25519}")),
        ] {
            let key: AuthorizedKey = text.parse().unwrap();
            assert_eq!(key.line(), normal);
            assert_eq!(key.line().parse::<AuthorizedKey>().unwrap(), key);
        }
    }

    #[test]
    fn a_file_may_have_comments_and_doubled_keys() {
        let text = format!("# keys\n\n{ED25519} a\r\n{OTHER} b\n{ED25519} c\nno-pty {ED25519} d\n");
        let keys = parse_authorized_keys(&text).unwrap();
        let comments: Vec<_> = keys.iter().map(AuthorizedKey::comment).collect();
        assert_eq!(comments, ["a", "b", "d"]);
        assert!(keys[0].is_same_key(&keys[2]));
        assert_eq!(keys[2].options(), Some("no-pty"));
        assert_eq!(keys[2].public_key(), format!("{ED25519} d"));
        assert_eq!(keys[0].fingerprint(), "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ");
    }

    #[test]
    fn files_of_another_kind_are_named() {
        let parse = parse_authorized_keys;
        assert!(matches!(parse("-----BEGIN OPENSSH PRIVATE KEY-----\nb3\n"), Err(Error::PrivateKey)));
        assert!(matches!(parse("-----BEGIN RSA PRIVATE KEY-----\n"), Err(Error::PrivateKey)));
        assert!(matches!(parse("---- BEGIN SSH2 PUBLIC KEY ----\n"), Err(Error::Form)));
        assert!(matches!(parse("-----BEGIN PUBLIC KEY-----\n"), Err(Error::Form)));
        assert!(matches!(parse("# nothing\n"), Err(Error::Empty { .. })));
        assert!(matches!(parse(&"#".repeat(2 << 20)), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_broken_line_is_found_by_its_number() {
        let text = format!("{ED25519}\n{} x\n", &ED25519[..40]);
        assert!(matches!(parse_authorized_keys(&text), Err(Error::Line { line: 2, .. })));
        for line in [
            "hello".to_owned(),
            "hello world".to_owned(),
            format!("command=\"unclosed {ED25519}"),
            format!("no-pty, {ED25519}"),
            format!("from=10.0.0.1 {ED25519}"),
            format!("from=\"a\"b {ED25519}"),
            format!("{ED25519} bell\u{7}"),
            ED25519.replace("ssh-ed25519", "ssh-rsa"),
        ] {
            assert!(line.parse::<AuthorizedKey>().is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), before in "[a-z,=\" ]{0,20}") {
            drop(parse_authorized_keys(&text));
            drop(parse_authorized_keys(&format!("{before} {ED25519}")));
        }
    }
}
