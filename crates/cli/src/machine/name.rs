use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a machine: the name of its folder, of its domain and, unless told otherwise, of its host.
///
/// 1 to 63 ASCII letters, digits, `.`, `_` and `-`, the first a letter or digit. That is what folders, libvirt and sockets
/// all take, and it can never be hidden, an option or a path.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

/// Why a text cannot name a machine.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is empty or has more than 63 bytes.
    #[error("a machine's name has 1 to 63 characters")]
    Length,
    /// A character is not allowed, or not in front.
    #[error("`{0}` is not a machine's name: letters, digits, `.`, `_` and `-`, the first a letter or digit")]
    Character(String),
    /// The folder of that name is used for something else.
    #[error("`{0}` is the folder of the image store")]
    Reserved(String),
}

impl MachineName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 63 {
            return Err(NameError::Length);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(allowed) {
            return Err(NameError::Character(text.escape_debug().to_string()));
        }
        if text == STORE_FOLDER {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for MachineName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> Self {
        name.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The image store's folder beside the machines.
pub(super) const STORE_FOLDER: &str = "images";

#[cfg(test)]
mod tests {
    use super::MachineName;

    #[test]
    fn a_name_is_a_plain_folder_name_and_nothing_else() {
        for good in ["web1", "a", "Web-1.example_2", &"x".repeat(63)] {
            assert_eq!(good.parse::<MachineName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "-rf", "a/b", "a b", "ü", "a\n", "images", &"x".repeat(64)] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?}");
        }
    }
}
