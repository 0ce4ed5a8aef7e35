use super::Editor;
use super::folder::Name;
use crate::block::BlockWrite;
use crate::fs::ext4::dirent::type_of;
use crate::fs::ext4::inode::{Inode, ROOT_INODE, format_bits};
use crate::fs::ext4::resolve::{Place, resolve};
use crate::fs::{Attributes, Content, Edit, Error, FileKind, Node};

/// What a new file is made of.
pub(super) enum Make<'a> {
    File(&'a Content),
    Folder,
    Link(&'a str),
    Node(Node),
}

impl<D: BlockWrite> Editor<D> {
    /// Runs one step.
    pub(super) fn step(&mut self, edit: &Edit) -> Result<(), Error> {
        match edit {
            Edit::Write { content, attributes, .. } => self.write(content, attributes),
            Edit::CreateFile { content, attributes, .. } => self.create_file(content, attributes),
            Edit::Append { content, attributes, .. } => self.append(content, attributes),
            Edit::CreateDir { attributes, .. } => self.create_dir(attributes),
            Edit::HardLink { target, .. } => self.hard_link(target),
            Edit::MakeNode { node, attributes, .. } => self.make_node(*node, attributes),
            Edit::Rename { from, .. } => self.rename(from),
            Edit::Symlink { target, attributes, .. } => self.symlink(target, attributes),
            Edit::Remove { .. } => self.remove_path(),
            Edit::SetAttributes { attributes, .. } => self.set_on_path(attributes),
            Edit::AppendLine { line, attributes, .. } => self.append_line(line, attributes),
        }
    }

    fn write(&mut self, content: &Content, attributes: &Attributes) -> Result<(), Error> {
        let place = resolve(&self.volume, &self.path, true)?;
        match place.found {
            Some(inode) => self.rewrite(inode, content, attributes),
            None => self.make(place, &Make::File(content), attributes),
        }
    }

    fn create_file(&mut self, content: &Content, attributes: &Attributes) -> Result<(), Error> {
        let place = resolve(&self.volume, &self.path, false)?;
        self.clear(&place)?;
        self.make(place, &Make::File(content), attributes)
    }

    /// Replaces the contents of a file.
    pub(super) fn rewrite(&mut self, mut inode: Inode, content: &Content, attributes: &Attributes) -> Result<(), Error> {
        self.expect_kind(&inode, FileKind::File)?;
        self.check_changeable(&inode)?;
        self.free_contents(&mut inode)?;
        let group = self.group_of(&inode);
        self.store_contents(&mut inode, content, group)?;
        if attributes.mtime.is_none() && !inode.set_mtime(self.now) {
            return Err(self.unrepresentable("this file system cannot store today's date"));
        }
        self.set_attributes(&mut inode, attributes)?;
        self.save(&inode)
    }

    fn create_dir(&mut self, attributes: &Attributes) -> Result<(), Error> {
        let place = resolve(&self.volume, &self.path, false)?;
        let Some(found) = &place.found else { return self.make(place, &Make::Folder, attributes) };
        // A link to a folder will do, as for `mkdir -p`.
        let kind = found.kind()?;
        let place = if kind == FileKind::Symlink { resolve(&self.volume, &self.path, true)? } else { place };
        let folder = place.found.ok_or_else(|| Error::WrongKind { path: self.path.clone(), kind })?;
        self.expect_kind(&folder, FileKind::Directory)?;
        self.change(folder, attributes)
    }

    fn symlink(&mut self, target: &str, attributes: &Attributes) -> Result<(), Error> {
        let longest = self.volume.layout().block_size.saturating_sub(1).min(4095);
        if target.is_empty() || target.len() > usize::try_from(longest).unwrap_or(usize::MAX) || target.contains('\0') {
            return Err(self.unrepresentable(format!("a link has 1 to {longest} bytes, and no NUL")));
        }
        let place = resolve(&self.volume, &self.path, false)?;
        self.clear(&place)?;
        self.make(place, &Make::Link(target), attributes)
    }

    /// Removes what is at a place, unless that is a folder.
    pub(super) fn clear(&mut self, place: &Place) -> Result<(), Error> {
        let Some(old) = &place.found else { return Ok(()) };
        match (old.kind()?, place.folders.last(), place.names.last()) {
            (kind, Some(folder), Some(name)) if kind != FileKind::Directory => self.remove(folder.number, name, old),
            (kind, ..) => Err(Error::WrongKind { path: self.path.clone(), kind }),
        }
    }

    fn remove_path(&mut self) -> Result<(), Error> {
        let place = resolve(&self.volume, &self.path, false)?;
        let Some(gone) = place.found else { return Ok(()) };
        match (place.folders.last(), place.names.last()) {
            (Some(folder), Some(name)) if gone.number != ROOT_INODE => self.remove(folder.number, name, &gone),
            _ => Err(self.unrepresentable("the root cannot be removed")),
        }
    }

    fn set_on_path(&mut self, attributes: &Attributes) -> Result<(), Error> {
        let place = resolve(&self.volume, &self.path, false)?;
        let inode = place.found.ok_or_else(|| Error::NotFound(self.path.clone()))?;
        self.change(inode, attributes)
    }

    pub(super) fn change(&mut self, mut inode: Inode, attributes: &Attributes) -> Result<(), Error> {
        if *attributes == Attributes::default() {
            return Ok(());
        }
        self.check_changeable(&inode)?;
        self.set_attributes(&mut inode, attributes)?;
        self.save(&inode)
    }

    fn append_line(&mut self, line: &str, attributes: &Attributes) -> Result<(), Error> {
        if line.contains('\n') {
            return Err(self.unrepresentable("a line has no line end in it"));
        }
        let place = resolve(&self.volume, &self.path, true)?;
        let Some(inode) = place.found else {
            let content = Content::from(format!("{line}\n").as_str());
            return self.make(place, &Make::File(&content), attributes);
        };
        self.expect_kind(&inode, FileKind::File)?;
        let old = self.volume.contents(&inode, LARGEST_TEXT)?;
        let too_large = || Error::TooLarge { path: self.path.clone(), size: inode.size(), limit: LARGEST_TEXT };
        let mut text = old.ok_or_else(too_large)?;
        if text.split(|byte| *byte == b'\n').any(|old| old == line.as_bytes()) {
            return self.change(inode, attributes);
        }
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
        self.rewrite(inode, &Content::from(text), attributes)
    }

    pub(super) fn expect_kind(&self, inode: &Inode, wanted: FileKind) -> Result<(), Error> {
        let kind = inode.kind()?;
        if kind == wanted { Ok(()) } else { Err(Error::WrongKind { path: self.path.clone(), kind }) }
    }

    /// Makes what is missing at a place: folders on the way, then what was asked for.
    pub(super) fn make(&mut self, place: Place, what: &Make<'_>, attributes: &Attributes) -> Result<(), Error> {
        let (parent, last) = self.make_parents(place)?;
        self.make_one(parent, last, what, attributes).map(drop)
    }

    /// Makes the folders that are missing on the way to a place; returns the last one's number and the last name.
    pub(super) fn make_parents(&mut self, place: Place) -> Result<(u32, Vec<u8>), Error> {
        let folder = place.folders.last().map_or(ROOT_INODE, |folder| folder.number);
        let mut names: Vec<Vec<u8>> = place.names.last().cloned().into_iter().chain(place.missing).collect();
        names.retain(|name| !name.is_empty() && name != b".");
        let Some(last) = names.pop() else { return Err(Error::NotFound(self.path.clone())) };
        if last == b".." || names.iter().any(|name| name == b"..") {
            return Err(Error::NotFound(self.path.clone()));
        }
        let mut parent = folder;
        for name in names {
            parent = self.make_one(parent, name, &Make::Folder, &Attributes::default())?;
        }
        if last.len() > LONGEST_NAME {
            return Err(self.unrepresentable("a name has at most 255 bytes"));
        }
        Ok((parent, last))
    }

    /// Makes one file in a folder and returns its inode's number.
    fn make_one(&mut self, parent: u32, name: Vec<u8>, what: &Make<'_>, attributes: &Attributes) -> Result<u32, Error> {
        let folder = self.volume.inode(parent)?;
        self.check_changeable(&folder)?;
        if name.len() > LONGEST_NAME {
            return Err(self.unrepresentable("a name has at most 255 bytes"));
        }
        let (kind, mode) = match what {
            Make::File(_) => (FileKind::File, 0o644),
            Make::Folder => (FileKind::Directory, 0o755),
            Make::Link(_) => (FileKind::Symlink, 0o777),
            Make::Node(node) => (node.kind(), 0o644),
        };
        let mut inode = self.allocate_inode(self.group_of(&folder), kind)?;
        inode.raw.i_mode.set(format_bits(kind) | mode);
        inode.raw.i_links_count.set(1);
        inode.inherit_flags(&folder, kind);
        if !inode.set_born(self.now) || !inode.set_mtime(self.now) {
            return Err(self.unrepresentable("this file system cannot store today's date"));
        }
        let group = self.group_of(&inode);
        match what {
            Make::File(content) => self.store_contents(&mut inode, content, group)?,
            Make::Folder => self.store_empty_folder(&mut inode, parent)?,
            Make::Link(target) => self.store_link(&mut inode, target, group)?,
            Make::Node(node) => self.store_node(&mut inode, *node)?,
        }
        self.inherit(&mut inode, &folder)?;
        self.set_attributes(&mut inode, attributes)?;
        self.save(&inode)?;
        self.insert_name(parent, &Name { bytes: name, inode: inode.number, file_type: type_of(kind) })?;
        if kind == FileKind::Directory {
            self.link_folder(parent)?;
        }
        Ok(inode.number)
    }

    /// Stores the text of a link: inside the inode below 60 bytes, else in a block.
    fn store_link(&mut self, inode: &mut Inode, target: &str, group: u32) -> Result<(), Error> {
        let short = inode.raw.i_block.get_mut(..target.len()).filter(|_| target.len() < FAST_LINK);
        match short {
            Some(place) => place.copy_from_slice(target.as_bytes()),
            None => return self.store_contents(inode, &Content::from(target), group),
        }
        inode.set_size(u64::try_from(target.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// The most bytes of a name.
const LONGEST_NAME: usize = 255;
/// From this many bytes on, the text of a link is in a block.
const FAST_LINK: usize = 60;
/// The most bytes of a file that a line is appended to.
const LARGEST_TEXT: u64 = 64 << 20;
