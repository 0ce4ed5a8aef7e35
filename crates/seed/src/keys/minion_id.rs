use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A minion id that a Salt master accepts: it becomes a file name in the master's key folders.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MinionId(String);

/// Why a text is not a minion id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MinionIdError {
    /// The text is empty.
    #[error("a minion id is not empty")]
    Empty,
    /// The text has a slash, a backslash, a control character or spaces at an end.
    #[error("a minion id has no `/`, `\\`, control characters, or spaces at its ends")]
    Character,
    /// The text is `.` or `..`, which leave the key folder.
    #[error("a minion id is not `.` or `..`")]
    Folder,
    /// The text is longer than a file name can be.
    #[error("a minion id has at most 255 bytes")]
    TooLong,
}

impl MinionId {
    /// Returns the id of `text`.
    ///
    /// # Errors
    ///
    /// [`MinionIdError`] says which rule `text` breaks.
    pub fn new(text: &str) -> Result<Self, MinionIdError> {
        if text.is_empty() {
            return Err(MinionIdError::Empty);
        }
        if text.contains(['/', '\\']) || text.chars().any(char::is_control) || text.trim() != text {
            return Err(MinionIdError::Character);
        }
        if matches!(text, "." | "..") {
            return Err(MinionIdError::Folder);
        }
        if text.len() > 255 {
            return Err(MinionIdError::TooLong);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MinionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MinionId {
    type Err = MinionIdError;

    fn from_str(text: &str) -> Result<Self, MinionIdError> {
        Self::new(text)
    }
}

impl TryFrom<String> for MinionId {
    type Error = MinionIdError;

    fn try_from(text: String) -> Result<Self, MinionIdError> {
        Self::new(&text)
    }
}

impl From<MinionId> for String {
    fn from(id: MinionId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::{MinionId, MinionIdError};

    #[test]
    fn ids_that_leave_the_key_folder_are_refused() {
        for (text, error) in [
            ("", MinionIdError::Empty),
            (".", MinionIdError::Folder),
            ("..", MinionIdError::Folder),
            ("a/b", MinionIdError::Character),
            ("a\\b", MinionIdError::Character),
            ("a\0", MinionIdError::Character),
            ("a\nb", MinionIdError::Character),
            (" a", MinionIdError::Character),
        ] {
            assert_eq!(MinionId::new(text), Err(error), "{text:?}");
        }
        assert_eq!(MinionId::new(&"a".repeat(256)), Err(MinionIdError::TooLong));
        for text in ["web1", "web1.example.org", "..web", "a b", "grüße", "_x-1"] {
            assert_eq!(MinionId::new(text).unwrap().as_str(), text);
        }
    }
}
