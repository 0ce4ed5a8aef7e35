use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of an image in the store, and of its folder.
///
/// 1 to 63 ASCII letters, digits, `.`, `_` and `-`, the first a letter or digit: never a path, an option or an address.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

/// A text that cannot name an image.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} cannot name an image: 1 to 63 letters, digits, `.`, `_` and `-`, the first a letter or digit")]
pub struct NameError(String);

impl ImageName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let sound = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(allowed);
        if sound { Ok(Self(text.to_owned())) } else { Err(NameError(text.to_owned())) }
    }
}

impl TryFrom<String> for ImageName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::ImageName;

    #[test]
    fn a_name_is_a_plain_folder_name_and_nothing_else() {
        for good in ["debian-12", "a", "Ubuntu_24.04", &"x".repeat(63)] {
            assert_eq!(good.parse::<ImageName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".add.x", "-rf", "a/b", "a b", "builtin:demo", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }
}
