use std::collections::BTreeMap;
use std::sync::Arc;

/// Files by their relative path, sorted; folders are implied.
///
/// Contents are shared: one that occurs under many paths is in memory, and in an ISO image, once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    files: BTreeMap<String, Arc<[u8]>>,
    /// The sum of all lengths, a shared content counted each time.
    bytes: usize,
}

/// Why a file has no place in a tree.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The path is absolute, has an empty name, `.` or `..`, or a control character, or is too long or too deep.
    #[error("{path:?} is not a plain relative path")]
    Path {
        /// The path as given.
        path: String,
    },
    /// The path is taken, or would be below a file or above one.
    #[error("{path:?} is there already, as a file or a folder")]
    Taken {
        /// The path as given.
        path: String,
    },
    /// The files are more than a seed may hold.
    #[error("more than {MAX_FILES} files, or more than {MAX_BYTES} bytes")]
    TooLarge,
}

impl Tree {
    /// Returns a tree without files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// [`TreeError`]; the tree is unchanged then.
    pub fn insert(&mut self, path: &str, contents: impl Into<Arc<[u8]>>) -> Result<(), TreeError> {
        if !is_plain(path) {
            return Err(TreeError::Path { path: path.to_owned() });
        }
        if self.is_taken(path) {
            return Err(TreeError::Taken { path: path.to_owned() });
        }
        let contents = contents.into();
        let bytes = self.bytes.saturating_add(contents.len());
        if self.files.len() >= MAX_FILES || bytes > MAX_BYTES {
            return Err(TreeError::TooLarge);
        }
        self.bytes = bytes;
        self.files.insert(path.to_owned(), contents);
        Ok(())
    }

    /// Returns the contents of the file at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(AsRef::as_ref)
    }

    /// Iterates over paths and contents, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<[u8]>)> {
        self.files.iter().map(|(path, contents)| (path.as_str(), contents))
    }

    /// Returns the number of files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Returns whether there are no files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn is_taken(&self, path: &str) -> bool {
        let above = path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        let below = format!("{path}/");
        let first_below = self.files.range(below.clone()..).next();
        self.files.contains_key(path)
            || above.into_iter().any(|folder| self.files.contains_key(folder))
            || first_below.is_some_and(|(other, _)| other.starts_with(&below))
    }
}

fn is_plain(path: &str) -> bool {
    let names = path.split('/');
    names.clone().count() <= MAX_DEPTH
        && names
            .into_iter()
            .all(|name| !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && !name.chars().any(char::is_control))
}

/// Names on a path: as many as an ISO image here may be deep.
const MAX_DEPTH: usize = 16;
/// Bytes of one name.
const MAX_NAME: usize = 255;
const MAX_FILES: usize = 65_000;
/// All files of a seed: it is made in memory.
const MAX_BYTES: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::{Tree, TreeError};

    #[test]
    fn paths_that_leave_the_tree_or_mean_two_things_are_refused() {
        let mut tree = Tree::new();
        let long = "a/".repeat(16) + "b";
        for path in ["", "/a", "a/", "a//b", ".", "a/../b", "a\0", "a\nb", &"n".repeat(256), &long] {
            assert_eq!(tree.insert(path, *b""), Err(TreeError::Path { path: path.to_owned() }));
        }
        tree.insert("a/b", *b"1").unwrap();
        tree.insert("a-c", *b"2").unwrap();
        for path in ["a/b", "a", "a/b/c"] {
            assert_eq!(tree.insert(path, *b""), Err(TreeError::Taken { path: path.to_owned() }));
        }
        assert_eq!(tree.len(), 2);
        assert_eq!(tree.get("a/b"), Some(&b"1"[..]));
    }

    #[test]
    fn a_tree_has_a_largest_size() {
        let mut tree = Tree::new();
        let half: std::sync::Arc<[u8]> = vec![0; 1 << 29].into();
        tree.insert("a", std::sync::Arc::clone(&half)).unwrap();
        tree.insert("b", half).unwrap();
        assert_eq!(tree.insert("c", *b"x"), Err(TreeError::TooLarge));
    }
}
