use std::collections::BTreeMap;

use super::{Attributes, Content, Edit, EditPlan, Error, FileKind, GuestPath, Node};

/// What a plan leaves at a path.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The path in the final state, no link in it.
    pub path: GuestPath,
    /// The place in the plan of the last edit that concerns it.
    pub order: usize,
    /// What is there.
    pub wanted: Wanted,
}

/// See [`Expected`].
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Nothing is there.
    Absent,
    /// A file is there; what the plan does not say is `None`.
    Present {
        /// Its type.
        kind: Option<FileKind>,
        /// All that is in it.
        content: Option<Content>,
        /// Lines that it has.
        lines: Vec<String>,
        /// The text of a link.
        target: Option<String>,
        /// Owner, mode, time and extended attributes.
        attributes: Attributes,
        /// What the file ends with.
        end: Option<Content>,
        /// Which device.
        node: Option<Node>,
    },
}

impl Wanted {
    fn new(kind: Option<FileKind>) -> Self {
        let attributes = Attributes::default();
        Self::Present { kind, content: None, lines: Vec::new(), target: None, attributes, end: None, node: None }
    }
}

/// Returns what `plan` leaves, by final path: later edits win, and a removed folder takes what was in it.
///
/// `canonical` returns a path without the links that the final state has on the way, as far as it exists, and with `true` those of
/// its last name.
///
/// # Errors
///
/// What `canonical` fails with.
pub fn expectations(
    plan: &EditPlan,
    canonical: impl Fn(&GuestPath, bool) -> Result<GuestPath, Error>,
) -> Result<Vec<Expected>, Error> {
    let mut all: BTreeMap<GuestPath, Expected> = BTreeMap::new();
    let undone = undone(plan);
    for (order, edit) in plan.edits.iter().enumerate() {
        let follow =
            matches!(edit, Edit::Write { .. } | Edit::Append { .. } | Edit::AppendLine { .. } | Edit::CreateDir { .. });
        let path = canonical(edit.path(), follow)?;
        if matches!(edit, Edit::Remove { .. }) {
            // What a later step takes away with a folder above is that step's to check.
            if is_undone(&undone, order, edit.path()) {
                continue;
            }
            all.retain(|old, _| old.strip_prefix(&path).is_none());
            all.insert(path.clone(), Expected { path, order, wanted: Wanted::Absent });
            continue;
        }
        let mut above = path.parent();
        while let Some(parent) = above {
            if all.get(&parent).is_some_and(|expected| matches!(expected.wanted, Wanted::Absent)) {
                all.remove(&parent);
            }
            above = parent.parent();
        }
        let source = edit.source().map(|from| canonical(from, false)).transpose()?;
        if let (Edit::Rename { .. }, Some(from)) = (edit, &source) {
            rename(&mut all, order, from, &path);
            continue;
        }
        if is_undone(&undone, order, edit.path()) {
            continue;
        }
        if let Some(from) = source {
            // By another of its names, the file may have been changed since.
            let (order, wanted) = match all.get(&from) {
                Some(expected) => (expected.order, expected.wanted.clone()),
                None => (order, Wanted::new(None)),
            };
            all.insert(path.clone(), Expected { path, order, wanted });
            continue;
        }
        let old = all.remove(&path).map(|expected| expected.wanted);
        let wanted = after(old, edit);
        all.insert(path.clone(), Expected { path, order, wanted });
    }
    Ok(all.into_values().collect())
}

/// Moves what is expected at and below `from` to `to`.
fn rename(all: &mut BTreeMap<GuestPath, Expected>, order: usize, from: &GuestPath, to: &GuestPath) {
    if from == to {
        return;
    }
    all.retain(|old, _| old.strip_prefix(to).is_none());
    let moved: Vec<GuestPath> = all.keys().filter(|old| old.strip_prefix(from).is_some()).cloned().collect();
    for old in moved {
        let below = old.strip_prefix(from).and_then(|below| to.join(below.as_str()).ok());
        if let (Some(path), Some(mut expected)) = (below, all.remove(&old)) {
            expected.path = path.clone();
            all.insert(path, expected);
        }
    }
    all.insert(from.clone(), Expected { path: from.clone(), order, wanted: Wanted::Absent });
    all.entry(to.clone()).or_insert_with(|| Expected { path: to.clone(), order, wanted: Wanted::new(None) });
}

/// Returns the last step that removes or replaces each path.
fn undone(plan: &EditPlan) -> BTreeMap<&GuestPath, usize> {
    let mut last = BTreeMap::new();
    for (order, edit) in plan.edits.iter().enumerate() {
        match edit {
            Edit::Remove { path }
            | Edit::CreateFile { path, .. }
            | Edit::Symlink { path, .. }
            | Edit::HardLink { path, .. }
            | Edit::MakeNode { path, .. }
            | Edit::Rename { path, .. } => last.insert(path, order),
            _ => None,
        };
    }
    last
}

/// Returns whether a later step removes or replaces `path` or a folder above it.
fn is_undone(undone: &BTreeMap<&GuestPath, usize>, order: usize, path: &GuestPath) -> bool {
    let mut at = Some(path.clone()).filter(|_| !undone.is_empty());
    while let Some(path) = at {
        if undone.get(&path).is_some_and(|later| *later > order) {
            return true;
        }
        at = path.parent();
    }
    false
}

/// Returns whether a step makes something new where another file may be.
fn replaces(edit: &Edit) -> bool {
    matches!(edit, Edit::CreateFile { .. } | Edit::Symlink { .. } | Edit::MakeNode { .. })
}

/// Returns what is expected after `edit` where `old` was before.
fn after(old: Option<Wanted>, edit: &Edit) -> Wanted {
    let (wanted_kind, new) = match edit {
        Edit::Write { attributes, .. }
        | Edit::CreateFile { attributes, .. }
        | Edit::Append { attributes, .. }
        | Edit::AppendLine { attributes, .. } => (Some(FileKind::File), attributes),
        Edit::CreateDir { attributes, .. } => (Some(FileKind::Directory), attributes),
        Edit::Symlink { attributes, .. } => (Some(FileKind::Symlink), attributes),
        Edit::MakeNode { node, attributes, .. } => (Some(node.kind()), attributes),
        Edit::SetAttributes { attributes, .. } => (None, attributes),
        Edit::Remove { .. } | Edit::HardLink { .. } | Edit::Rename { .. } => return Wanted::Absent,
    };
    let kept = match old {
        Some(old @ Wanted::Present { .. }) if !replaces(edit) => old,
        _ => Wanted::new(None),
    };
    let Wanted::Present { kind, mut content, mut lines, mut target, mut attributes, mut end, mut node } = kept else {
        return kept;
    };
    match edit {
        Edit::Write { content: new, .. } | Edit::CreateFile { content: new, .. } => {
            content = Some(new.clone());
            (lines, end) = (Vec::new(), None);
            attributes.mtime = None;
        }
        Edit::Append { content: new, .. } => {
            content = None;
            end = Some(new.clone());
            attributes.mtime = None;
        }
        Edit::AppendLine { line, .. } => {
            (content, end) = (None, None);
            lines.push(line.clone());
            attributes.mtime = None;
        }
        Edit::Symlink { target: new, .. } => target = Some(new.clone()),
        Edit::MakeNode { node: new, .. } => node = Some(*new),
        _ => {}
    }
    attributes.mode = new.mode.or(attributes.mode);
    attributes.uid = new.uid.or(attributes.uid);
    attributes.gid = new.gid.or(attributes.gid);
    if new.mtime.is_some() {
        (attributes.mtime, attributes.mtime_nanos) = (new.mtime, new.mtime_nanos);
    }
    attributes.xattrs.extend(new.xattrs.clone());
    // The time of a folder moves on when names in it change.
    let kind = wanted_kind.or(kind);
    if kind != Some(FileKind::File) && kind != Some(FileKind::Symlink) {
        attributes.mtime = None;
    }
    if kind == Some(FileKind::Symlink) {
        attributes.mode = None;
    }
    Wanted::Present { kind, content, lines, target, attributes, end, node }
}
