use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::Tree;

/// A tree's folders and contents, numbered.
#[derive(Debug)]
pub(super) struct Hierarchy<'a> {
    /// The root is the first.
    pub(super) folders: Vec<Folder>,
    /// Different contents, in the order of their first paths.
    pub(super) contents: Vec<&'a Arc<[u8]>>,
}

#[derive(Debug, Default)]
pub(super) struct Folder {
    /// The folder that it is in; the root is in itself.
    pub(super) parent: usize,
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) target: Target,
}

/// What an entry stands for, by number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Target {
    Folder(usize),
    Content(usize),
}

impl<'a> Hierarchy<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        let mut this = Self { folders: vec![Folder::default()], contents: Vec::new() };
        let mut by_path: BTreeMap<&str, usize> = BTreeMap::from([("", 0)]);
        let mut by_bytes: BTreeMap<&[u8], usize> = BTreeMap::new();
        for (path, bytes) in tree.iter() {
            let mut folder = 0;
            let mut start = 0;
            for (end, _) in path.match_indices('/') {
                let (above, name) = (path.get(..end).unwrap_or_default(), path.get(start..end).unwrap_or_default());
                folder = match by_path.get(above) {
                    Some(known) => *known,
                    None => this.add_folder(folder, name),
                };
                by_path.insert(above, folder);
                start = end.saturating_add(1);
            }
            let content = *by_bytes.entry(bytes).or_insert_with(|| {
                this.contents.push(bytes);
                this.contents.len().saturating_sub(1)
            });
            this.add_entry(folder, path.get(start..).unwrap_or_default(), Target::Content(content));
        }
        this
    }

    fn add_folder(&mut self, parent: usize, name: &str) -> usize {
        let number = self.folders.len();
        self.folders.push(Folder { parent, entries: Vec::new() });
        self.add_entry(parent, name, Target::Folder(number));
        number
    }

    fn add_entry(&mut self, folder: usize, name: &str, target: Target) {
        if let Some(folder) = self.folders.get_mut(folder) {
            folder.entries.push(Entry { name: name.to_owned(), target });
        }
    }
}

impl Folder {
    /// Returns how many entries are folders.
    pub(super) fn folder_count(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.target, Target::Folder(_))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::{Hierarchy, Target};
    use crate::document::Tree;

    #[test]
    fn equal_contents_are_one_and_folders_are_made_once() {
        let mut tree = Tree::new();
        for (path, bytes) in [("a/b/c", "1"), ("a/b/d", "2"), ("a/e", "1"), ("f", "")] {
            tree.insert(path, bytes.as_bytes()).unwrap();
        }
        let hierarchy = Hierarchy::new(&tree);
        assert_eq!(hierarchy.folders.len(), 3);
        assert_eq!(hierarchy.contents.len(), 3);
        assert_eq!(hierarchy.folders[2].parent, 1);
        assert_eq!(hierarchy.folders[1].entries[1].target, Target::Content(0));
        assert_eq!(hierarchy.folders[0].folder_count(), 1);
    }
}
