//! What `vmimg disk inject` is told to put into a guest: a JSON list, one object for each file, folder or link.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgcore::fs::{Attributes, Content, Device, Edit, EditPlan, GuestPath, Node};
use imgcore::storage::{Access, FileDisk};
use serde::{Deserialize, Deserializer};

use super::host_file::Contents;
use super::host_tree::cannot_read;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// One object of the list, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    op: Op,
    path: GuestPath,
    /// The host file with the contents; relative paths begin at the manifest's folder.
    src: Option<PathBuf>,
    /// The text of a symbolic link, or a name that a file has.
    target: Option<String>,
    /// The name until now.
    from: Option<GuestPath>,
    line: Option<String>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
    #[serde(default, deserialize_with = "mode")]
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<i64>,
    xattrs: Option<BTreeMap<String, Hex>>,
}

/// One object of the list, with the fields that it needs and no others.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Fields")]
struct Entry(Fields);

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Write,
    Append,
    Line,
    Mkdir,
    Symlink,
    Link,
    Node,
    Rename,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Char,
    Block,
    Fifo,
    Socket,
}

impl TryFrom<Fields> for Entry {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Self, String> {
        let (op, needed, attributes) = fields.op.rule();
        let mut needed = needed.to_vec();
        if matches!(fields.kind, Some(Kind::Char | Kind::Block)) {
            needed.extend(["major", "minor"]);
        }
        let present = fields.present();
        if let Some(missing) = needed.iter().find(|name| !present.contains(name)) {
            return Err(format!("`{op}` needs `{missing}`"));
        }
        let allowed = |name: &&str| needed.contains(name) || attributes.contains(name);
        match present.iter().find(|name| !allowed(name)) {
            Some(name) => Err(format!("`{op}` has no `{name}`")),
            None => Ok(Self(fields)),
        }
    }
}

impl Op {
    /// Returns its name, the fields that it needs, and those that it may have.
    fn rule(self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        const ALL: &[&str] = &["mode", "uid", "gid", "mtime", "xattrs"];
        const OF_LINKS: &[&str] = &["uid", "gid", "mtime", "xattrs"];
        match self {
            Self::Write => ("write", &["src"], ALL),
            Self::Append => ("append", &["src"], ALL),
            Self::Line => ("line", &["line"], ALL),
            Self::Mkdir => ("mkdir", &[], ALL),
            Self::Symlink => ("symlink", &["target"], OF_LINKS),
            Self::Link => ("link", &["target"], &[]),
            Self::Node => ("node", &["type"], ALL),
            Self::Rename => ("rename", &["from"], &[]),
            Self::Remove => ("remove", &[], &[]),
            Self::Set => ("set", &[], ALL),
        }
    }
}

impl Fields {
    fn present(&self) -> Vec<&'static str> {
        let all = [
            ("src", self.src.is_some()),
            ("target", self.target.is_some()),
            ("from", self.from.is_some()),
            ("line", self.line.is_some()),
            ("type", self.kind.is_some()),
            ("major", self.major.is_some()),
            ("minor", self.minor.is_some()),
            ("mode", self.mode.is_some()),
            ("uid", self.uid.is_some()),
            ("gid", self.gid.is_some()),
            ("mtime", self.mtime.is_some()),
            ("xattrs", self.xattrs.is_some()),
        ];
        all.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
    }

    fn into_edit(self, folder: &Path, sources: &mut Contents) -> Result<Edit, CommandError> {
        let path = self.path;
        let xattrs = self.xattrs.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect();
        let attributes =
            Attributes { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime, mtime_nanos: 0, xattrs };
        let device = Device { major: self.major.unwrap_or_default(), minor: self.minor.unwrap_or_default() };
        let source = folder.join(self.src.unwrap_or_default());
        let target = self.target.unwrap_or_default();
        Ok(match self.op {
            Op::Write => Edit::Write { content: contents(source, &path, sources)?, path, attributes },
            Op::Append => Edit::Append { content: contents(source, &path, sources)?, path, attributes },
            Op::Line => Edit::AppendLine { path, line: self.line.unwrap_or_default(), attributes },
            Op::Mkdir => Edit::CreateDir { path, attributes },
            Op::Symlink => Edit::Symlink { path, target, attributes },
            Op::Link => {
                let target = GuestPath::new(&target).map_err(|error| {
                    let message = format!("`{path}` cannot be one more name of `{target}`");
                    CommandError::new(ErrorKind::Usage, message).with_source(error)
                })?;
                Edit::HardLink { path, target }
            }
            Op::Node => {
                let node = match self.kind {
                    Some(Kind::Char) => Node::CharDevice(device),
                    Some(Kind::Block) => Node::BlockDevice(device),
                    Some(Kind::Socket) => Node::Socket,
                    Some(Kind::Fifo) | None => Node::Fifo,
                };
                Edit::MakeNode { path, node, attributes }
            }
            Op::Rename => Edit::Rename { path, from: self.from.unwrap_or_else(GuestPath::root) },
            Op::Remove => Edit::Remove { path },
            Op::Set => Edit::SetAttributes { path, attributes },
        })
    }
}

/// Reads the manifest `file` for `image`, and opens every host file that it names.
///
/// # Errors
///
/// [`ErrorKind::Usage`] when it is no such list, and when a file cannot be opened.
pub(super) fn read(context: &Context, file: &Path, image: &Path) -> Result<EditPlan, CommandError> {
    let file = context.absolute(file);
    let cannot = format!("cannot read the manifest `{}`", file.display());
    let text = std::fs::read(&file).map_err(|error| CommandError::io(cannot.clone(), error))?;
    let entries: Vec<Entry> = serde_json::from_slice(&text).map_err(|error| {
        CommandError::new(ErrorKind::Usage, cannot).with_source(error).hint("`vmimg disk inject --help` shows a manifest")
    })?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut sources = Contents::new(context, image)?;
    let edits = entries.into_iter().map(|entry| entry.0.into_edit(folder, &mut sources)).collect::<Result<_, _>>()?;
    Ok(EditPlan { edits })
}

/// Returns the contents of the host file `source`, which go to `path` in the guest.
fn contents(source: PathBuf, path: &GuestPath, sources: &mut Contents) -> Result<Content, CommandError> {
    let nothing = |error: CommandError| error.context(format!("nothing to put into `{path}`"));
    let disk = FileDisk::open(&source, Access::Read).map_err(|error| nothing(error.into()))?;
    let found = disk.file().metadata().map_err(|error| cannot_read(&source, error))?;
    if disk.is_device() {
        sources.refuse_image(&source, &found)?;
        return Ok(Content::Disk(Arc::new(disk)));
    }
    sources.of(source, &found).map_err(nothing)
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
        let Entry(fields) = entry(text).unwrap();
        assert_eq!(fields.mode, Some(0o640));
        assert_eq!(fields.xattrs.unwrap()["user.a"].0, [0, 0xFF]);
        entry(r#"{"op": "mkdir", "path": "/a", "mode": 493}"#).unwrap();
        entry(r#"{"op": "symlink", "path": "/a", "target": "b"}"#).unwrap();
        entry(r#"{"op": "node", "path": "/a", "type": "fifo"}"#).unwrap();
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
            r#"{"op": "wipe", "path": "/a"}"#,
            r#"{"op": "remove", "path": "/a", "mode": 0}"#,
            r#"{"op": "rename", "path": "/a"}"#,
            r#"{"op": "symlink", "path": "/a", "target": "b", "mode": 0}"#,
            r#"{"op": "node", "path": "/a", "type": "char", "major": 1}"#,
            r#"{"op": "node", "path": "/a", "type": "fifo", "major": 1}"#,
        ] {
            assert!(serde_json::from_str::<Entry>(text).is_err(), "{text}");
        }
    }
}
