use std::collections::BTreeSet;

use imgcore::fs::{Attributes, Edit, EditPlan, FileKind, GuestPath};

use super::{Error, labels::Labels};
use crate::guest::{Selinux, Tree, VolumeId};

/// Gives the files that `plan` makes in a partition the labels of the guest's own policy, unless the plan says which.
///
/// Folders that are missing on the way become steps of their own. A file that the policy has no rule for makes the guest label all
/// its files at the next boot (`/.autorelabel`), where the partition is the root's. Returns whether every file got a label; without
/// SELinux nothing changes. `check` is asked before each step whether to go on.
///
/// # Errors
///
/// The failure of the guest's file system, and that of `check`; `plan` is of no use then.
pub fn label_new_files<E: From<Error>>(
    tree: &Tree,
    selinux: Option<&Selinux>,
    partition: &VolumeId,
    plan: &mut EditPlan,
    check: impl Fn() -> Result<(), E>,
) -> Result<bool, E> {
    let point = tree.mounts().find(|(_, _, number)| *number == Some(partition)).map(|(point, ..)| point.clone());
    let (Some(selinux), Some(point)) = (selinux, point) else { return Ok(true) };
    let labels = Labels::read(tree, Some(selinux))?;
    let mut labeling =
        Labeling { tree, labels, point, partition, new: BTreeSet::new(), gone: BTreeSet::new(), edits: Vec::new() };
    for edit in std::mem::take(&mut plan.edits) {
        check()?;
        labeling.add(edit);
    }
    let missed = labeling.labels.missed();
    plan.edits = labeling.edits;
    if !missed {
        return Ok(true);
    }
    if *partition == tree.root_partition()
        && let Ok(path) = GuestPath::new("/.autorelabel")
    {
        plan.edits.push(Edit::Write { path, content: Vec::new().into(), attributes: Attributes::root(0o644) });
        return Ok(true);
    }
    Ok(false)
}

struct Labeling<'a> {
    tree: &'a Tree,
    labels: Labels,
    /// Where the guest mounts the partition.
    point: GuestPath,
    partition: &'a VolumeId,
    /// What the plan made so far, and what it took away, as the guest sees the paths.
    new: BTreeSet<GuestPath>,
    gone: BTreeSet<GuestPath>,
    edits: Vec<Edit>,
}

impl Labeling<'_> {
    /// Adds a step with its label, after steps for the folders that it would make.
    fn add(&mut self, mut edit: Edit) {
        let (kind, replaces, follows) = match &edit {
            Edit::Write { .. } | Edit::Append { .. } | Edit::AppendLine { .. } => (Some(FileKind::File), false, true),
            Edit::CreateFile { .. } => (Some(FileKind::File), true, false),
            Edit::CreateDir { .. } => (Some(FileKind::Directory), false, true),
            Edit::Symlink { .. } => (Some(FileKind::Symlink), true, false),
            Edit::MakeNode { node, .. } => (Some(node.kind()), true, false),
            // They keep the label of the file.
            Edit::Rename { .. } | Edit::HardLink { .. } => (None, false, false),
            _ => (None, true, false),
        };
        let (path, exists) = self.seen(edit.path(), follows);
        let removed = match &edit {
            Edit::Remove { .. } => Some(path.clone()),
            Edit::Rename { from, .. } => Some(self.seen(from, false).0),
            _ => None,
        };
        if let Some(removed) = removed {
            self.forget(&removed);
            self.gone.insert(removed);
        }
        if kind.is_some() || !replaces {
            self.add_parents(&path);
        }
        if let Some(kind) = kind.filter(|_| replaces || !exists)
            && edit.attributes_mut().is_some_and(|attributes| !attributes.xattrs.contains_key(NAME))
            && let Some(label) = self.labels.of(&path, kind)
            && let Some(attributes) = edit.attributes_mut()
        {
            attributes.xattrs.insert(NAME.to_owned(), label);
        }
        if kind.is_some() || !replaces {
            self.new.insert(path);
        }
        self.edits.push(edit);
    }

    fn add_parents(&mut self, path: &GuestPath) {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(folder) = above.filter(|folder| folder.strip_prefix(&self.point).is_some()) {
            if self.seen_exists(&folder) {
                break;
            }
            above = folder.parent();
            missing.push(folder);
        }
        for folder in missing.into_iter().rev() {
            let Some(local) = folder.strip_prefix(&self.point) else { continue };
            let label = self.labels.of(&folder, FileKind::Directory).map(|label| (NAME.to_owned(), label));
            let attributes = Attributes { xattrs: label.into_iter().collect(), ..Attributes::default() };
            self.edits.push(Edit::CreateDir { path: local, attributes });
            self.new.insert(folder);
        }
    }

    /// Returns a path of the partition as the guest sees it, links followed as far as they are there, and whether it exists.
    fn seen(&self, local: &GuestPath, follows: bool) -> (GuestPath, bool) {
        let path = self.point.join(local.as_str()).unwrap_or_else(|_| local.clone());
        let resolved = if follows { self.tree.resolve(&path) } else { self.tree.resolve_parent(&path) };
        // What a link takes to another partition stays here for the editor.
        let path = match resolved {
            Ok(resolved) if resolved.place.partition == *self.partition => resolved.path,
            _ => path,
        };
        let exists = self.seen_exists(&path);
        (path, exists)
    }

    /// Drops `removed`, and what is below it, from what the plan made.
    fn forget(&mut self, removed: &GuestPath) {
        self.new.remove(removed);
        // Paths are ordered by their bytes: all that is below lies behind the name that is the first of any.
        let Ok(first) = removed.join("\u{1}") else { return };
        let below = self.new.range(first..).take_while(|new| new.strip_prefix(removed).is_some());
        for new in below.cloned().collect::<Vec<_>>() {
            self.new.remove(&new);
        }
    }

    fn seen_exists(&self, path: &GuestPath) -> bool {
        let mut at_or_above = std::iter::successors(Some(path.clone()), GuestPath::parent);
        let gone = !self.gone.is_empty() && at_or_above.any(|folder| self.gone.contains(&folder));
        self.new.contains(path) || (!gone && matches!(self.tree.symlink_metadata(path.as_str()), Ok(Some(_))))
    }
}

/// The attribute that is the label.
const NAME: &str = "security.selinux";

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use imgcore::fs::{Attributes, Edit, EditPlan, GuestPath};

    use super::{Error, NAME, label_new_files};
    use crate::guest::fake::debian;
    use crate::guest::{Selinux, Tree, VolumeId};

    fn file(path: &str) -> Edit {
        Edit::CreateFile { path: GuestPath::new(path).unwrap(), content: Vec::new().into(), attributes: Attributes::default() }
    }

    fn remove(path: &str) -> Edit {
        Edit::Remove { path: GuestPath::new(path).unwrap() }
    }

    /// Returns the paths of the steps, and how many of them have a label.
    fn labeled(edits: Vec<Edit>) -> (Vec<String>, usize) {
        let files = debian()
            .file("/usr/sbin/load_policy", "")
            .file("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n")
            .file("/etc/selinux/targeted/contexts/files/file_contexts", "/.* system_u:object_r:default_t:s0\n");
        let tree = Tree::assemble(&[files.volume(1, "root")], None).unwrap();
        let selinux = Selinux::inspect(&tree).unwrap();
        let mut plan = EditPlan { edits };
        let go_on = || Ok::<(), Error>(());
        assert!(label_new_files(&tree, selinux.as_ref(), &VolumeId::Partition(1), &mut plan, go_on).unwrap());
        let has_label = |edit: &mut Edit| edit.attributes_mut().is_some_and(|attributes| attributes.xattrs.contains_key(NAME));
        let count = plan.edits.iter_mut().filter_map(|edit| has_label(edit).then_some(())).count();
        (plan.edits.iter().map(|edit| edit.path().to_string()).collect(), count)
    }

    #[test]
    fn what_the_plan_removes_is_made_anew_and_its_neighbours_are_not() {
        let (paths, labels) = labeled(vec![
            file("/d/x"),
            file("/d-e/x"),
            file("/d0/x"),
            remove("/d"),
            file("/d/y"),
            file("/d-e/y"),
            file("/d0/y"),
        ]);
        assert_eq!(paths, ["/d", "/d/x", "/d-e", "/d-e/x", "/d0", "/d0/x", "/d", "/d", "/d/y", "/d-e/y", "/d0/y"]);
        assert_eq!(labels, 10);
    }

    #[test]
    fn thousands_of_files_are_made_and_removed_in_seconds() {
        let begun = Instant::now();
        let path = |at: usize| format!("/many/{at}");
        let edits = (0..20_000).map(|at| file(&path(at))).chain((0..20_000).map(|at| remove(&path(at))));
        let (paths, labels) = labeled(edits.collect());
        assert_eq!((paths.len(), labels), (40_001, 20_001));
        assert!(begun.elapsed().as_secs() < 30);
    }
}
