//! What `vmimg disk inject` is told to put into a guest: a JSON list, one object for each file, folder or link.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgcore::fs::{Attributes, Content, Edit, EditPlan, GuestPath};
use imgcore::storage::{Access, FileDisk};
use serde::{Deserialize, Deserializer};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// One object of the list.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Entry {
    /// A regular file with the contents of a host file; relative paths begin at the manifest's folder.
    Write {
        path: GuestPath,
        src: PathBuf,
        #[serde(default, deserialize_with = "mode")]
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime: Option<i64>,
        #[serde(default)]
        xattrs: BTreeMap<String, Hex>,
    },
    /// A folder; those above it are made as well.
    Mkdir {
        path: GuestPath,
        #[serde(default, deserialize_with = "mode")]
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime: Option<i64>,
        #[serde(default)]
        xattrs: BTreeMap<String, Hex>,
    },
    /// A symbolic link; its target is stored as it is.
    Symlink {
        path: GuestPath,
        target: String,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime: Option<i64>,
        #[serde(default)]
        xattrs: BTreeMap<String, Hex>,
    },
}

/// Reads the manifest `file` and opens every host file that it names.
///
/// # Errors
///
/// [`ErrorKind::Usage`] when it is no such list, and when a file cannot be opened.
pub(super) fn read(context: &Context, file: &Path) -> Result<EditPlan, CommandError> {
    let file = context.absolute(file);
    let cannot = format!("cannot read the manifest `{}`", file.display());
    let text = std::fs::read(&file).map_err(|error| CommandError::io(cannot.clone(), error))?;
    let entries: Vec<Entry> = serde_json::from_slice(&text).map_err(|error| {
        CommandError::new(ErrorKind::Usage, cannot).with_source(error).hint("`vmimg disk inject --help` shows a manifest")
    })?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let edits = entries.into_iter().map(|entry| entry.into_edit(folder)).collect::<Result<_, _>>()?;
    Ok(EditPlan { edits })
}

impl Entry {
    fn into_edit(self, folder: &Path) -> Result<Edit, CommandError> {
        let attributes = |mode, uid, gid, mtime, xattrs: BTreeMap<String, Hex>| {
            let xattrs = xattrs.into_iter().map(|(name, value)| (name, value.0)).collect();
            Attributes { mode, uid, gid, mtime, xattrs }
        };
        Ok(match self {
            Self::Write { path, src, mode, uid, gid, mtime, xattrs } => {
                let content = contents(&folder.join(src), &path)?;
                Edit::Write { path, content, attributes: attributes(mode, uid, gid, mtime, xattrs) }
            }
            Self::Mkdir { path, mode, uid, gid, mtime, xattrs } => {
                Edit::CreateDir { path, attributes: attributes(mode, uid, gid, mtime, xattrs) }
            }
            Self::Symlink { path, target, uid, gid, mtime, xattrs } => {
                Edit::Symlink { path, target, attributes: attributes(None, uid, gid, mtime, xattrs) }
            }
        })
    }
}

/// Returns the contents of the host file `source`, which go to `path` in the guest.
fn contents(source: &Path, path: &GuestPath) -> Result<Content, CommandError> {
    let disk = FileDisk::open(source, Access::Read)
        .map_err(|error| CommandError::from(error).context(format!("nothing to put into `{path}`")))?;
    Ok(Content::Disk(Arc::new(disk)))
}

/// Bytes, written as hexadecimal digits.
#[derive(Debug)]
struct Hex(Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || serde::de::Error::custom(format!("`{text}` is not an even number of hexadecimal digits"));
        let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or_else(bad)?;
        let (pairs, _) = digits.as_chunks::<2>();
        let byte = |[high, low]: &[u32; 2]| u8::try_from((high << 4) | low).ok();
        pairs.iter().map(byte).collect::<Option<_>>().map(Self).ok_or_else(bad)
    }
}

/// Reads permission bits: a number, or octal digits as text.
fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Mode {
        Number(u32),
        Octal(String),
    }
    let mode = match Option::<Mode>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Mode::Number(mode)) => Some(mode),
        Some(Mode::Octal(text)) => u32::from_str_radix(&text, 8).ok(),
    };
    let mode = mode.filter(|mode| *mode <= 0o7777);
    mode.map(Some).ok_or_else(|| serde::de::Error::custom("a mode is at most 0o7777: a number, or octal digits as in \"0644\""))
}

#[cfg(test)]
mod tests {
    use super::Entry;

    #[test]
    fn modes_are_numbers_or_octal_text_and_values_hexadecimal() {
        let entry = |text: &str| serde_json::from_str::<Entry>(text);
        let text = r#"{"op": "write", "path": "/a", "src": "b", "mode": "0640", "xattrs": {"user.a": "00fF"}}"#;
        let Entry::Write { mode, xattrs, .. } = entry(text).unwrap() else { panic!() };
        assert_eq!(mode, Some(0o640));
        assert_eq!(xattrs["user.a"].0, [0, 0xFF]);
        entry(r#"{"op": "mkdir", "path": "/a", "mode": 493}"#).unwrap();
        entry(r#"{"op": "symlink", "path": "/a", "target": "b"}"#).unwrap();
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            r#"{"op": "write", "path": "/a"}"#,
            r#"{"op": "write", "path": "a", "src": "b"}"#,
            r#"{"op": "mkdir", "path": "/a", "mode": 65536}"#,
            r#"{"op": "mkdir", "path": "/a", "mode": "0888"}"#,
            r#"{"op": "mkdir", "path": "/a", "owner": 0}"#,
            r#"{"op": "mkdir", "path": "/a", "xattrs": {"user.a": "0"}}"#,
            r#"{"op": "mkdir", "path": "/a", "xattrs": {"user.a": "+1"}}"#,
            r#"{"op": "remove", "path": "/a"}"#,
        ] {
            assert!(serde_json::from_str::<Entry>(text).is_err(), "{text}");
        }
    }
}
