use std::collections::BTreeMap;

use super::resolve::resolve;
use super::volume::Volume;
use crate::block::BlockRead;
use crate::fs::{Attributes, Content, Edit, EditPlan, Error, FileKind, GuestPath};

/// What a plan leaves at a path.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// The path in the final state, no link in it.
    pub(super) path: GuestPath,
    /// The place in the plan of the last edit that concerns it.
    pub(super) order: usize,
    pub(super) wanted: Wanted,
}

/// See [`Expected`].
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Nothing is there.
    Absent,
    /// A file is there; what the plan does not say is `None`.
    Present {
        kind: Option<FileKind>,
        content: Option<Content>,
        /// Lines that it has.
        lines: Vec<String>,
        target: Option<String>,
        attributes: Attributes,
    },
}

impl Wanted {
    fn new(kind: Option<FileKind>) -> Self {
        Self::Present { kind, content: None, lines: Vec::new(), target: None, attributes: Attributes::default() }
    }
}

/// Returns what `plan` leaves, by final path: later edits win, and a removed folder takes what was in it.
pub(super) fn expectations<D: BlockRead>(volume: &Volume<D>, plan: &EditPlan) -> Result<Vec<Expected>, Error> {
    let mut all: BTreeMap<GuestPath, Expected> = BTreeMap::new();
    for (order, edit) in plan.edits.iter().enumerate() {
        let follow = matches!(edit, Edit::Write { .. } | Edit::AppendLine { .. });
        let path = canonical(volume, edit.path(), follow)?;
        if matches!(edit, Edit::Remove { .. }) {
            // What a later step takes away with a folder above is that step's to check.
            if is_undone(plan, order, edit.path()) {
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
        if is_undone(plan, order, edit.path()) {
            continue;
        }
        let old = all.remove(&path).map(|expected| expected.wanted);
        let wanted = after(old, edit);
        all.insert(path.clone(), Expected { path, order, wanted });
    }
    Ok(all.into_values().collect())
}

/// Returns whether a later step removes or replaces `path` or a folder above it.
fn is_undone(plan: &EditPlan, order: usize, path: &GuestPath) -> bool {
    plan.edits
        .iter()
        .skip(order)
        .skip(1)
        .any(|later| matches!(later, Edit::Remove { .. } | Edit::Symlink { .. }) && path.strip_prefix(later.path()).is_some())
}

/// Returns what is expected after `edit` where `old` was before.
fn after(old: Option<Wanted>, edit: &Edit) -> Wanted {
    let (wanted_kind, new) = match edit {
        Edit::Write { attributes, .. } | Edit::AppendLine { attributes, .. } => (Some(FileKind::File), attributes),
        Edit::CreateDir { attributes, .. } => (Some(FileKind::Directory), attributes),
        Edit::Symlink { attributes, .. } => (Some(FileKind::Symlink), attributes),
        Edit::SetAttributes { attributes, .. } => (None, attributes),
        Edit::Remove { .. } => return Wanted::Absent,
    };
    let kept = match old {
        Some(old @ Wanted::Present { .. }) if !matches!(edit, Edit::Symlink { .. }) => old,
        _ => Wanted::new(None),
    };
    let Wanted::Present { kind, mut content, mut lines, mut target, mut attributes } = kept else { return kept };
    match edit {
        Edit::Write { content: new, .. } => {
            content = Some(new.clone());
            lines.clear();
            attributes.mtime = None;
        }
        Edit::AppendLine { line, .. } => {
            content = None;
            lines.push(line.clone());
            attributes.mtime = None;
        }
        Edit::Symlink { target: new, .. } => target = Some(new.clone()),
        _ => {}
    }
    attributes.mode = new.mode.or(attributes.mode);
    attributes.uid = new.uid.or(attributes.uid);
    attributes.gid = new.gid.or(attributes.gid);
    attributes.mtime = new.mtime.or(attributes.mtime);
    attributes.xattrs.extend(new.xattrs.clone());
    // The time of a folder moves on when names in it change.
    let kind = wanted_kind.or(kind);
    if kind != Some(FileKind::File) && kind != Some(FileKind::Symlink) {
        attributes.mtime = None;
    }
    if kind == Some(FileKind::Symlink) {
        attributes.mode = None;
    }
    Wanted::Present { kind, content, lines, target, attributes }
}

/// Returns `path` without links, as far as it exists.
fn canonical<D: BlockRead>(volume: &Volume<D>, path: &GuestPath, follow: bool) -> Result<GuestPath, Error> {
    let place = match resolve(volume, path, follow) {
        Ok(place) => place,
        // A later edit put something else in the way.
        Err(Error::WrongKind { .. } | Error::TooManyLinks(_)) => return Ok(path.clone()),
        Err(error) => return Err(error),
    };
    let names = place.names.iter().chain(&place.missing).map(|name| String::from_utf8_lossy(name));
    let text: String = names.map(|name| format!("/{name}")).collect();
    Ok(GuestPath::new(if text.is_empty() { "/" } else { &text }).unwrap_or_else(|_| path.clone()))
}
