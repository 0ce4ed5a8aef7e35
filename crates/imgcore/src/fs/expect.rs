use std::collections::BTreeMap;

use super::{Attributes, Content, Edit, EditPlan, Error, FileKind, GuestPath, Node};

/// What a plan leaves at a path.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The path in the final state, no link in it.
    pub path: GuestPath,
    /// Which file of the plan it is: names of one file have the same number here. `None` where nothing is.
    pub file: Option<usize>,
    /// Whether the plan made it, so that it can be no file that was there before.
    pub is_new: bool,
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

/// Files of a plan that turn out to be one: they had two names before. By number, the number that stands for both.
pub type SameFiles = BTreeMap<usize, usize>;

/// Returns which of the files that were there before are one file, given the inodes of the final state.
pub fn same_files<K: Ord>(all: &[Expected], inode: impl Fn(usize) -> Option<K>) -> SameFiles {
    let mut first: BTreeMap<K, usize> = BTreeMap::new();
    let mut same = SameFiles::new();
    let mut old: Vec<(usize, usize)> = all
        .iter()
        .enumerate()
        .filter(|(_, expected)| !expected.is_new)
        .filter_map(|(at, expected)| Some((expected.file?, at)))
        .collect();
    old.sort_unstable();
    for (file, at) in old {
        let Some(inode) = inode(at) else { continue };
        let stands = *first.entry(inode).or_insert(file);
        if stands != file {
            same.insert(file, stands);
        }
    }
    same
}

/// Returns what `plan` leaves, by final path: later edits win, by whichever of its names a file is changed, and a removed folder
/// takes what was in it.
///
/// `canonical` returns a path without the links that the final state has on the way, as far as it exists, and with `true` those of
/// its last name. `same` is empty at first; where [`same_files`] then finds any, the plan is looked at once more.
///
/// # Errors
///
/// What `canonical` fails with.
pub fn expectations(
    plan: &EditPlan,
    canonical: impl Fn(&GuestPath, bool) -> Result<GuestPath, Error>,
    same: &SameFiles,
) -> Result<Vec<Expected>, Error> {
    let undone = undone(plan);
    let mut model = Model { same, files: Vec::new(), names: BTreeMap::new() };
    for (order, edit) in plan.edits.iter().enumerate() {
        let place = |path: &GuestPath, follow| place((&undone, order), path, follow, &canonical);
        let path = place(edit.path(), edit.follows())?;
        let source = edit.source().map(|from| place(from, false)).transpose()?;
        model.step(order, edit, path, source);
    }
    Ok(model.finish())
}

/// Returns where a step finds `path`: as the final state has it, but for what a later step removes or replaces.
fn place(
    (undone, order): (&BTreeMap<&GuestPath, usize>, usize),
    path: &GuestPath,
    follow: bool,
    canonical: &impl Fn(&GuestPath, bool) -> Result<GuestPath, Error>,
) -> Result<GuestPath, Error> {
    // Of the names on the way, the first that is removed or replaced later.
    let mut gone: Option<GuestPath> = None;
    let mut at = Some(path.clone()).filter(|_| !undone.is_empty());
    while let Some(path) = at {
        at = path.parent();
        if undone.get(&path).is_some_and(|later| *later > order) {
            gone = Some(path);
        }
    }
    let Some(above) = gone.and_then(|gone| gone.parent()) else { return canonical(path, follow) };
    let below = path.strip_prefix(&above);
    let above = canonical(&above, true)?;
    Ok(below.and_then(|below| above.join(below.as_str().trim_start_matches('/')).ok()).unwrap_or_else(|| path.clone()))
}

/// A file that a plan is about.
#[derive(Debug)]
struct File {
    /// What is known of it.
    wanted: Wanted,
    /// The step that is the first to mention it, and the last to change it.
    first: usize,
    last: usize,
    is_new: bool,
}

/// The names and files that a plan is about, after some of its steps.
struct Model<'a> {
    same: &'a SameFiles,
    files: Vec<File>,
    /// The file that each name has; `None` where nothing is.
    names: BTreeMap<GuestPath, Option<usize>>,
}

impl Model<'_> {
    fn step(&mut self, order: usize, edit: &Edit, path: GuestPath, source: Option<GuestPath>) {
        let is_gone = matches!(edit, Edit::Remove { .. });
        if is_gone || replaces(edit) {
            self.forget(&path);
        }
        if is_gone {
            self.names.insert(path, None);
            return;
        }
        let mut above = path.parent();
        while let Some(parent) = above {
            if self.names.get(&parent) == Some(&None) {
                self.names.remove(&parent);
            }
            above = parent.parent();
        }
        match source {
            Some(from) if matches!(edit, Edit::Rename { .. }) => self.rename(order, &from, &path),
            Some(from) => {
                let file = self.file_at(&from, order);
                self.forget(&path);
                self.names.insert(from, Some(file));
                self.names.insert(path, Some(file));
            }
            None => {
                let file = if replaces(edit) { self.new_file(order, true) } else { self.file_at(&path, order) };
                if let Some(file) = self.files.get_mut(file) {
                    file.wanted = after(file.wanted.clone(), edit);
                    file.last = order;
                }
                self.names.insert(path, Some(file));
            }
        }
    }

    /// Moves what is at and below `from` to `to`.
    fn rename(&mut self, order: usize, from: &GuestPath, to: &GuestPath) {
        if from == to {
            return;
        }
        let file = self.file_at(from, order);
        self.names.insert(from.clone(), Some(file));
        self.forget(to);
        let moved = self.at_and_below(from);
        for old in moved {
            let below = old.strip_prefix(from).and_then(|below| to.join(below.as_str()).ok());
            if let (Some(path), Some(file)) = (below, self.names.remove(&old)) {
                self.names.insert(path, file);
            }
        }
        self.names.insert(from.clone(), None);
    }

    /// Returns the names at and below `path`.
    fn at_and_below(&self, path: &GuestPath) -> Vec<GuestPath> {
        let near = self.names.range(path..).map(|(name, _)| name).take_while(|name| name.as_str().starts_with(path.as_str()));
        near.filter(|name| name.strip_prefix(path).is_some()).cloned().collect()
    }

    fn forget(&mut self, path: &GuestPath) {
        for name in self.at_and_below(path) {
            self.names.remove(&name);
        }
    }

    /// Returns the file that a name has, one that was there before where the plan said nothing of it.
    fn file_at(&mut self, path: &GuestPath, order: usize) -> usize {
        match self.names.get(path) {
            Some(Some(file)) => *file,
            Some(None) => self.new_file(order, true),
            None => self.new_file(order, false),
        }
    }

    fn new_file(&mut self, order: usize, is_new: bool) -> usize {
        let number = self.files.len();
        self.files.push(File { wanted: Wanted::new(None), first: order, last: order, is_new });
        self.same.get(&number).copied().unwrap_or(number)
    }

    /// Returns what is expected at each name.
    ///
    /// A file that was there before may have had other names. Where one that was changed has no name left, the others with a
    /// name may be the same file, and show those changes.
    fn finish(mut self) -> Vec<Expected> {
        let mut named = vec![false; self.files.len()];
        for file in self.names.values().flatten() {
            if let Some(named) = named.get_mut(*file) {
                *named = true;
            }
        }
        let mut unsure = Unsure::default();
        for (file, _) in self.files.iter().zip(&named).filter(|(file, is_named)| !**is_named && !file.is_new) {
            unsure.add(file);
        }
        for file in self.files.iter_mut().filter(|file| !file.is_new) {
            unsure.forget(file);
        }
        let files = &self.files;
        let expected = self.names.into_iter().map(|(path, number)| match number.and_then(|number| files.get(number)) {
            Some(file) => Expected { path, file: number, is_new: file.is_new, wanted: file.wanted.clone() },
            None => Expected { path, file: None, is_new: false, wanted: Wanted::Absent },
        });
        expected.collect()
    }
}

/// What files without a name were changed in, and the last step that did: other files may be the same.
#[derive(Debug, Default)]
struct Unsure {
    contents: Option<usize>,
    mode: Option<usize>,
    uid: Option<usize>,
    gid: Option<usize>,
    mtime: Option<usize>,
    xattrs: BTreeMap<String, usize>,
}

impl Unsure {
    fn add(&mut self, file: &File) {
        let Wanted::Present { content, lines, attributes, end, .. } = &file.wanted else { return };
        let last = Some(file.last);
        let contents = last.filter(|_| content.is_some() || !lines.is_empty() || end.is_some());
        self.contents = self.contents.max(contents);
        self.mode = self.mode.max(last.filter(|_| attributes.mode.is_some()));
        self.uid = self.uid.max(last.filter(|_| attributes.uid.is_some()));
        self.gid = self.gid.max(last.filter(|_| attributes.gid.is_some()));
        self.mtime = self.mtime.max(contents).max(last.filter(|_| attributes.mtime.is_some()));
        for name in attributes.xattrs.keys() {
            let step = self.xattrs.entry(name.clone()).or_default();
            *step = file.last.max(*step);
        }
    }

    /// Drops what one of them may have changed after it was known.
    fn forget(&self, file: &mut File) {
        let first = Some(file.first);
        let Wanted::Present { content, lines, attributes, end, .. } = &mut file.wanted else { return };
        if self.contents > first {
            (*content, *end) = (None, None);
            lines.clear();
        }
        attributes.mode = attributes.mode.filter(|_| self.mode <= first);
        attributes.uid = attributes.uid.filter(|_| self.uid <= first);
        attributes.gid = attributes.gid.filter(|_| self.gid <= first);
        attributes.mtime = attributes.mtime.filter(|_| self.mtime <= first);
        attributes.xattrs.retain(|name, _| self.xattrs.get(name).copied() <= first);
    }
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

/// Returns whether a step makes something new where another file may be.
fn replaces(edit: &Edit) -> bool {
    matches!(edit, Edit::CreateFile { .. } | Edit::Symlink { .. } | Edit::MakeNode { .. })
}

/// Returns what is expected after `edit` where `old` was before.
fn after(old: Wanted, edit: &Edit) -> Wanted {
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
    let Wanted::Present { kind, mut content, mut lines, mut target, mut attributes, mut end, mut node } = old else {
        return old;
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
