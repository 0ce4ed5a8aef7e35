use std::fmt;
use std::str::FromStr;

/// The name of a volume: 1 to 32 letters, digits, and `_ ! " % & ' ( ) * + , - . / : ; < = > ?` and spaces inside.
///
/// These are ECMA-119's a-characters and, as mkisofs and cloud-init have it, lower-case letters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VolumeLabel(String);

/// Why a text is not a volume's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// The text is empty or longer than 32 bytes.
    #[error("a volume label has 1 to 32 characters")]
    Length,
    /// The text has another character.
    #[error("a volume label has letters, digits, and `_!\"%&'()*+,-./:;<=>?` or spaces between them")]
    Character,
}

impl VolumeLabel {
    /// Returns the label of `text`.
    ///
    /// # Errors
    ///
    /// [`LabelError`] says which rule `text` breaks.
    pub fn new(text: &str) -> Result<Self, LabelError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_!\"%&'()*+,-./:;<=>? ".contains(&byte);
        if !text.bytes().all(allowed) || text.trim() != text {
            return Err(LabelError::Character);
        }
        if text.is_empty() || text.len() > 32 {
            return Err(LabelError::Length);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VolumeLabel {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{LabelError, VolumeLabel};

    #[test]
    fn labels_that_readers_know_are_allowed() {
        for text in ["cidata", "CIDATA", "config-2", "Debian 12.5 amd64", "A"] {
            assert_eq!(VolumeLabel::new(text).unwrap().as_str(), text);
        }
        for text in ["grüße", "a\nb", "a\0", " a", "a ", "a\\b", "a@b"] {
            assert_eq!(VolumeLabel::new(text), Err(LabelError::Character), "{text:?}");
        }
        assert_eq!(VolumeLabel::new(""), Err(LabelError::Length));
        assert_eq!(VolumeLabel::new(&"a".repeat(33)), Err(LabelError::Length));
    }
}
