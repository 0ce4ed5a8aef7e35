use std::collections::BTreeMap;

use imgcore::fs::{Attributes, Content, Edit, EditPlan, FileKind, GuestPath, Metadata};

use super::{Error, Note, Planned, labels::Labels};
use crate::guest::{self, Place, Resolved, Tree, VolumeId};

/// Collects edits, each routed to the volume that its path lies on, links of the guest followed.
///
/// What was planned is seen by what is planned later: contents, and that a file is there or gone.
pub(super) struct Builder<'a> {
    pub(super) tree: &'a Tree,
    labels: Labels,
    edits: BTreeMap<VolumeId, EditPlan>,
    /// Files that are written, made or removed, with their contents where they are in memory.
    planned: BTreeMap<Place, State>,
    notes: Vec<Note>,
}

#[derive(Clone)]
enum State {
    File(Content),
    Directory,
    Symlink,
    Gone,
}

impl State {
    fn kind(&self) -> Option<FileKind> {
        match self {
            Self::File(_) => Some(FileKind::File),
            Self::Directory => Some(FileKind::Directory),
            Self::Symlink => Some(FileKind::Symlink),
            Self::Gone => None,
        }
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(tree: &'a Tree, labels: Labels) -> Self {
        Self { tree, labels, edits: BTreeMap::new(), planned: BTreeMap::new(), notes: Vec::new() }
    }

    /// Writes a whole file. One that exists keeps what `attributes` leaves out; a new one is 0644 and owned by root otherwise.
    pub(super) fn write(&mut self, path: &str, content: Content, attributes: Attributes) -> Result<(), Error> {
        let target = self.file(path)?;
        let attributes = self.prepared(&target, attributes, FileKind::File)?;
        self.planned.insert(target.place.clone(), State::File(content.clone()));
        self.push(target.place.partition, Edit::Write { path: target.place.path, content, attributes });
        Ok(())
    }

    /// Writes a file that is the plan's alone, as [`Builder::write`] does: one that the seed names among its files is refused.
    pub(super) fn write_own(&mut self, path: &str, content: Content, attributes: Attributes) -> Result<(), Error> {
        if self.is_written(path)? {
            return Err(Error::Twice(path.to_owned()));
        }
        self.write(path, content, attributes)
    }

    /// Appends a line that the file does not have.
    pub(super) fn append_line(&mut self, path: &str, line: &str, attributes: Attributes) -> Result<(), Error> {
        let target = self.file(path)?;
        let mut bytes = self.read_resolved(&target)?.unwrap_or_default();
        let attributes = self.prepared(&target, attributes, FileKind::File)?;
        if bytes.last().is_some_and(|last| *last != b'\n') {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.planned.insert(target.place.clone(), State::File(bytes.into()));
        self.push(target.place.partition, Edit::AppendLine { path: target.place.path, line: line.to_owned(), attributes });
        Ok(())
    }

    /// Makes a folder, or sets the attributes of the one that exists.
    pub(super) fn create_dir(&mut self, path: &str, attributes: Attributes) -> Result<(), Error> {
        let target = self.tree.resolve(&guest_path(path)?)?;
        let state = self.state(&target);
        if state.is_some_and(|kind| kind != FileKind::Directory) {
            return Err(Error::InTheWay { path: path.to_owned(), wanted: "folder" });
        }
        if state.is_some() && attributes == Attributes::default() {
            return Ok(());
        }
        let attributes = self.prepared(&target, attributes, FileKind::Directory)?;
        self.planned.insert(target.place.clone(), State::Directory);
        self.push(target.place.partition, Edit::CreateDir { path: target.place.path, attributes });
        Ok(())
    }

    /// Makes a symbolic link in the place of whatever is there but a folder.
    pub(super) fn symlink(&mut self, path: &str, link: &str, attributes: Attributes) -> Result<(), Error> {
        let target = self.tree.resolve_parent(&guest_path(path)?)?;
        if self.state(&target) == Some(FileKind::Directory) {
            return Err(Error::InTheWay { path: path.to_owned(), wanted: "symbolic link" });
        }
        let attributes = self.prepared(&target, attributes, FileKind::Symlink)?;
        self.planned.insert(target.place.clone(), State::Symlink);
        self.push(target.place.partition, Edit::Symlink { path: target.place.path, target: link.to_owned(), attributes });
        Ok(())
    }

    /// Removes what is there, if anything; a link is removed, not what it leads to.
    pub(super) fn remove(&mut self, path: &str) -> Result<bool, Error> {
        let target = self.tree.resolve_parent(&guest_path(path)?)?;
        if self.state(&target).is_none() {
            return Ok(false);
        }
        self.planned.insert(target.place.clone(), State::Gone);
        self.push(target.place.partition, Edit::Remove { path: target.place.path });
        Ok(true)
    }

    /// Removes what is there but for what the plan writes; of a mount point, what is in it.
    pub(super) fn clear(&mut self, path: &str) -> Result<(), Error> {
        let mut pending = vec![path.to_owned()];
        while let Some(path) = pending.pop() {
            let parsed = guest_path(&path)?;
            let place = self.tree.resolve_parent(&parsed)?.place;
            let followed = self.tree.resolve(&parsed).map_or_else(|_| place.clone(), |target| target.place);
            if matches!(self.planned.get(&followed), Some(State::File(_))) {
                continue;
            }
            let is_mount_point = place.path == GuestPath::root();
            if is_mount_point || self.writes_below(&followed) {
                let names = self.names(&path)?.into_keys().filter(|name| !is_mount_point || name != "lost+found");
                pending.extend(names.map(|name| format!("{path}/{name}")));
            } else {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Returns what is in a folder by the plan so far, or nothing when it is none; names that are not UTF-8 are left out.
    pub(super) fn names(&self, path: &str) -> Result<BTreeMap<String, FileKind>, Error> {
        let entries = self.tree.read_dir(path)?.into_iter();
        let mut names: BTreeMap<String, FileKind> =
            entries.filter_map(|entry| Some((String::from_utf8(entry.name).ok()?, entry.kind))).collect();
        // What is out of reach has no names, as in the tree.
        let Ok(folder) = self.tree.resolve(&guest_path(path)?) else { return Ok(names) };
        for (place, state) in &self.planned {
            let is_in_it =
                place.partition == folder.place.partition && place.path.parent().as_ref() == Some(&folder.place.path);
            let Some(name) = place.path.components().next_back().filter(|_| is_in_it) else { continue };
            match state.kind() {
                Some(kind) => drop(names.insert(name.to_owned(), kind)),
                None => drop(names.remove(name)),
            }
        }
        Ok(names)
    }

    /// Returns the contents that `path` has, or will have by the plan so far; `None` when it is no file.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let target = self.tree.resolve(&guest_path(path)?)?;
        self.read_resolved(&target)
    }

    /// Returns what [`Builder::read`] does, but `None` for files of more than `limit` bytes and for what cannot be reached.
    pub(super) fn read_small(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(target) = self.reach(path)? else { return Ok(None) };
        let size = match self.planned.get(&target.place) {
            Some(State::File(content)) => content.len(),
            _ => target.metadata.map_or(0, |metadata| metadata.size),
        };
        if size > limit { Ok(None) } else { self.read_resolved(&target) }
    }

    /// Returns whether `path` exists, or will by the plan so far.
    pub(super) fn exists(&self, path: &str) -> Result<bool, Error> {
        let target = self.tree.resolve(&guest_path(path)?)?;
        Ok(self.state(&target).is_some())
    }

    /// Returns whether the file that `path` leads to is written by the plan so far.
    pub(super) fn is_written(&self, path: &str) -> Result<bool, Error> {
        let target = self.reach(path)?;
        Ok(target.is_some_and(|target| matches!(self.planned.get(&target.place), Some(State::File(_)))))
    }

    /// Returns whether `path`, which the guest says, exists and can be reached.
    pub(super) fn is_there(&self, path: &str) -> Result<bool, Error> {
        Ok(self.reach(path)?.is_some_and(|target| self.state(&target).is_some()))
    }

    /// Resolves a path if it is one and can be reached.
    fn reach(&self, path: &str) -> Result<Option<Resolved>, Error> {
        let Ok(path) = GuestPath::new(path) else { return Ok(None) };
        match self.tree.resolve(&path) {
            Ok(target) => Ok(Some(target)),
            Err(error @ guest::Error::FileSystem { .. }) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Returns the paths that `pattern` names, at most `most`, in the order of their names: it may have one `*` in its last name.
    pub(super) fn matching(&self, pattern: &str, most: usize) -> Result<Vec<String>, Error> {
        let Some((folder, name)) = pattern.rsplit_once('/') else { return Ok(Vec::new()) };
        let Some((start, end)) = name.split_once('*') else { return Ok(vec![pattern.to_owned()]) };
        if GuestPath::new(folder).is_err() {
            return Ok(Vec::new());
        }
        // Spec: glob(7): "If a filename starts with a '.', this character must be matched explicitly."
        let fits = |name: &String| {
            let rest = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
            rest.is_some() && (name.starts_with('.') == start.starts_with('.'))
        };
        let names = self.names(folder)?.into_keys().filter(fits);
        Ok(names.take(most).map(|name| format!("{folder}/{name}")).collect())
    }

    pub(super) fn info(&mut self, text: impl Into<String>) {
        self.notes.push(Note::Info(text.into()));
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.notes.push(Note::Warning(text.into()));
    }

    /// Returns whether a new file got no label although the guest wants one.
    pub(super) fn needs_relabel(&self) -> bool {
        self.labels.missed()
    }

    pub(super) fn finish(self) -> Planned {
        Planned { edits: self.edits, notes: self.notes, ..Planned::default() }
    }

    fn push(&mut self, partition: VolumeId, edit: Edit) {
        self.edits.entry(partition).or_default().edits.push(edit);
    }

    /// Resolves the path of a file to be written.
    fn file(&self, path: &str) -> Result<Resolved, Error> {
        let target = self.tree.resolve(&guest_path(path)?)?;
        match self.state(&target) {
            None | Some(FileKind::File) => Ok(target),
            Some(_) => Err(Error::InTheWay { path: path.to_owned(), wanted: "regular file" }),
        }
    }

    fn read_resolved(&self, target: &Resolved) -> Result<Option<Vec<u8>>, Error> {
        match self.planned.get(&target.place) {
            Some(State::File(Content::Bytes(bytes))) => Ok(Some(bytes.to_vec())),
            Some(State::File(Content::Disk(disk))) => {
                let size = usize::try_from(disk.size().min(READ_MAX)).unwrap_or_default();
                let mut bytes = vec![0; size];
                match disk.read_exact_at(&mut bytes, 0) {
                    Ok(()) => Ok(Some(bytes)),
                    Err(_) => Ok(None),
                }
            }
            Some(_) => Ok(None),
            None if is_file(target.metadata.as_ref()) => Ok(Some(self.tree.read_place(&target.place, READ_MAX)?)),
            None => Ok(None),
        }
    }

    /// Returns what is at a resolved path after the plan so far.
    fn state(&self, target: &Resolved) -> Option<FileKind> {
        match self.planned.get(&target.place) {
            Some(state) => state.kind(),
            None => target.metadata.map(|metadata| metadata.kind),
        }
    }

    fn writes_below(&self, folder: &Place) -> bool {
        let mut files = self.planned.iter().filter(|(_, state)| matches!(state, State::File(_)));
        files.any(|(place, _)| place.partition == folder.partition && place.path.strip_prefix(&folder.path).is_some())
    }

    /// Plans the missing folders on the way to a target and completes the attributes of a new file.
    fn prepared(&mut self, target: &Resolved, mut attributes: Attributes, kind: FileKind) -> Result<Attributes, Error> {
        let mut missing = Vec::new();
        let mut above = target.path.parent();
        while let Some(path) = above {
            let folder = self.tree.resolve(&path)?;
            if self.state(&folder).is_some() {
                break;
            }
            above = path.parent();
            missing.push(folder);
        }
        for folder in missing.into_iter().rev() {
            let mut new = Attributes::root(0o755);
            self.label(&folder.path, FileKind::Directory, &mut new);
            self.planned.insert(folder.place.clone(), State::Directory);
            self.push(folder.place.partition, Edit::CreateDir { path: folder.place.path, attributes: new });
        }
        if self.state(target).is_none() {
            let mode = if kind == FileKind::Directory { 0o755 } else { 0o644 };
            attributes.mode.get_or_insert(mode);
            attributes.uid.get_or_insert(0);
            attributes.gid.get_or_insert(0);
            self.label(&target.path, kind, &mut attributes);
        }
        Ok(attributes)
    }

    fn label(&mut self, path: &GuestPath, kind: FileKind, attributes: &mut Attributes) {
        if let Some(label) = self.labels.of(path, kind) {
            attributes.xattrs.insert("security.selinux".to_owned(), label);
        }
    }
}

pub(super) fn guest_path(path: &str) -> Result<GuestPath, Error> {
    GuestPath::new(path).map_err(|source| Error::Path { path: path.to_owned(), source })
}

fn is_file(metadata: Option<&Metadata>) -> bool {
    metadata.is_some_and(|metadata| metadata.kind == FileKind::File)
}

/// The most bytes of a file that are read to change it.
const READ_MAX: u64 = 8 << 20;
