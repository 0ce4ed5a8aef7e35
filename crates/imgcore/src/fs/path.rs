use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An absolute path inside a guest: `/`, or components that are neither empty, `.` nor `..`.
///
/// A guest path never becomes a host path; there is no conversion on purpose. Symbolic links are resolved by the file system
/// that it is used on, inside that file system.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);

/// Why a text is not a guest path.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The path does not begin with `/`.
    #[error("a guest path begins with `/`")]
    Relative,
    /// A component is `..`.
    #[error("`..` is not allowed in a guest path")]
    Parent,
    /// The path has a NUL byte.
    #[error("a guest path has no NUL bytes")]
    Nul,
    /// A component is longer than 255 bytes, or the path longer than 4095.
    #[error("a guest path has at most 4095 bytes, and each name at most 255")]
    TooLong,
}

impl GuestPath {
    /// Returns the guest path of `text`; doubled and trailing slashes and `.` components are dropped.
    ///
    /// # Errors
    ///
    /// [`PathError`] says which rule `text` breaks.
    pub fn new(text: &str) -> Result<Self, PathError> {
        if !text.starts_with('/') {
            return Err(PathError::Relative);
        }
        if text.contains('\0') {
            return Err(PathError::Nul);
        }
        let mut path = String::with_capacity(text.len());
        for name in text.split('/').filter(|name| !name.is_empty() && *name != ".") {
            if name == ".." {
                return Err(PathError::Parent);
            }
            if name.len() > NAME_MAX {
                return Err(PathError::TooLong);
            }
            path.push('/');
            path.push_str(name);
        }
        if path.len() > PATH_MAX {
            return Err(PathError::TooLong);
        }
        if path.is_empty() {
            path.push('/');
        }
        Ok(Self(path))
    }

    /// Returns `/`.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Returns the text, without a trailing slash unless it is `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Iterates over the names from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// Returns the last name, or `None` for `/`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.components().next_back()
    }

    /// Returns the folder that holds it, or `None` for `/`.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/').filter(|_| self.0 != "/")?;
        Some(if parent.is_empty() { Self::root() } else { Self(parent.to_owned()) })
    }

    /// Returns the path with `relative`, one name or several with slashes, below it.
    ///
    /// # Errors
    ///
    /// [`PathError`] says which rule the result breaks.
    pub fn join(&self, relative: &str) -> Result<Self, PathError> {
        Self::new(&format!("{}/{relative}", self.0))
    }

    /// Returns what follows `prefix` in it, or `None` when it is not `prefix` or below it.
    #[must_use]
    pub fn strip_prefix(&self, prefix: &Self) -> Option<Self> {
        if prefix.0 == "/" {
            return Some(self.clone());
        }
        match self.0.strip_prefix(prefix.as_str())? {
            "" => Some(Self::root()),
            rest if rest.starts_with('/') => Some(Self(rest.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GuestPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::new(text)
    }
}

impl TryFrom<String> for GuestPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        Self::new(&text)
    }
}

impl From<GuestPath> for String {
    fn from(path: GuestPath) -> Self {
        path.0
    }
}

/// Linux: `NAME_MAX`, and `PATH_MAX` less its NUL.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4095;

#[cfg(test)]
mod tests {
    use super::{GuestPath, PathError};

    #[test]
    fn a_path_is_absolute_normalized_and_never_climbs() {
        let text = |path: &str| GuestPath::new(path).map(|path| path.to_string());
        assert_eq!(text("//etc/./ssh//").as_deref(), Ok("/etc/ssh"));
        assert_eq!(text("/.").as_deref(), Ok("/"));
        assert_eq!(text("etc"), Err(PathError::Relative));
        assert_eq!(text("/etc/../root"), Err(PathError::Parent));
        assert_eq!(text("/a\0b"), Err(PathError::Nul));
        assert_eq!(text(&format!("/{}", "n".repeat(256))), Err(PathError::TooLong));
    }

    #[test]
    fn parents_and_prefixes_follow_whole_names() {
        let path = GuestPath::new("/var/lib/cloud").unwrap();
        assert_eq!(path.parent().unwrap().as_str(), "/var/lib");
        assert_eq!(GuestPath::new("/var").unwrap().parent(), Some(GuestPath::root()));
        assert_eq!(GuestPath::root().parent(), None);
        let var = GuestPath::new("/var").unwrap();
        assert_eq!(path.strip_prefix(&var).unwrap().as_str(), "/lib/cloud");
        assert_eq!(GuestPath::new("/variant").unwrap().strip_prefix(&var), None);
        assert_eq!(path.join("a/b").unwrap().as_str(), "/var/lib/cloud/a/b");
        assert_eq!(path.join("../b"), Err(PathError::Parent));
    }
}
