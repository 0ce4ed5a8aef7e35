use super::Editor;
use super::folder::Name;
use crate::block::BlockWrite;
use crate::fs::ext4::dirent::{records, set_record_inode, type_of};
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::inline::is_inline;
use crate::fs::ext4::inode::{INDEX_FLAG, Inode, ROOT_INODE};
use crate::fs::ext4::resolve::{Place, resolve};
use crate::fs::{Error, FileKind, GuestPath};

impl<D: BlockWrite> Editor<D> {
    /// Moves what is at `from` to the path of the step.
    pub(super) fn rename(&mut self, from: &GuestPath) -> Result<(), Error> {
        let old = resolve(&self.volume, from, false)?;
        let moved = old.found.clone().ok_or_else(|| Error::NotFound(from.clone()))?;
        let (Some(old_parent), Some(old_name)) = (old.folders.last().map(|folder| folder.number), old.names.last()) else {
            return Err(self.unrepresentable("the root has no other name"));
        };
        if moved.number == ROOT_INODE {
            return Err(self.unrepresentable("the root has no other name"));
        }
        self.check_changeable(&moved)?;
        let new = resolve(&self.volume, &self.path, false)?;
        if new.folders.iter().any(|folder| folder.number == moved.number) {
            return Err(self.unrepresentable("a folder is not moved into itself"));
        }
        let is_folder = moved.kind()? == FileKind::Directory;
        if let Some(there) = &new.found {
            if there.number == moved.number {
                // Another name of the same file, or this one.
                let same =
                    new.folders.last().map(|folder| folder.number) == Some(old_parent) && new.names.last() == Some(old_name);
                return if same || is_folder { Ok(()) } else { self.remove(old_parent, old_name, &moved) };
            }
            self.make_room(&new, there, is_folder)?;
        }
        let (new_parent, new_name) = self.make_parents(new)?;
        self.check_project(new_parent, &moved)?;
        self.remove_name(old_parent, old_name)?;
        let name = Name { bytes: new_name, inode: moved.number, file_type: type_of(moved.kind()?) };
        self.insert_name(new_parent, &name)?;
        if is_folder && new_parent != old_parent {
            self.set_parent(moved.number, new_parent)?;
            self.unlink_folder(old_parent)?;
            self.link_folder(new_parent)?;
        }
        let mut inode = self.volume.named_inode(moved.number)?;
        self.stamp(&mut inode)?;
        self.save(&inode)
    }

    /// Removes what is in the way of a new name: for a folder an empty folder, for all else what is no folder.
    fn make_room(&mut self, new: &Place, there: &Inode, by_folder: bool) -> Result<(), Error> {
        let kind = there.kind()?;
        if !by_folder {
            return self.clear(new);
        }
        let (Some(folder), Some(name)) = (new.folders.last(), new.names.last()) else {
            return Err(Error::WrongKind { path: self.path.clone(), kind });
        };
        if kind != FileKind::Directory {
            return Err(Error::WrongKind { path: self.path.clone(), kind });
        }
        if there.number == ROOT_INODE || !self.volume.entries(there)?.is_empty() {
            return Err(self.unrepresentable("the folder in the way is not empty"));
        }
        self.remove(folder.number, name, there)
    }

    /// Makes `parent` the folder above folder `number`.
    fn set_parent(&mut self, number: u32, parent: u32) -> Result<(), Error> {
        let mut folder = self.volume.named_inode(number)?;
        if is_inline(&folder) {
            for (place, byte) in folder.raw.i_block.iter_mut().zip(parent.to_le_bytes()) {
                *place = byte;
            }
            return self.save(&folder);
        }
        self.check_folder(&folder)?;
        let missing = || corrupt(format!("folder {number}"), "its first block begins with itself and the folder above");
        let blocks = self.volume.folder_blocks(&folder)?;
        let (_, block) = blocks.first().filter(|(index, _)| *index == 0).ok_or_else(missing)?;
        let bytes = self.volume.folder_block(&folder, *block)?;
        let at = records(&bytes, number)?.get(1).filter(|record| record.name == b"..").map(|record| record.offset);
        let at = at.ok_or_else(missing)?;
        let bytes = if folder.has_flag(INDEX_FLAG) {
            self.root_below(&folder, &bytes, parent)?
        } else {
            let mut bytes = bytes.to_vec();
            set_record_inode(&mut bytes, at, parent);
            self.seal_leaf(&folder, &mut bytes);
            bytes
        };
        self.volume.store.write(*block, bytes);
        Ok(())
    }

    /// Sets the time of the last change of an inode. The inode is not saved.
    pub(super) fn stamp(&self, inode: &mut Inode) -> Result<(), Error> {
        if inode.set_ctime(self.now) { Ok(()) } else { Err(self.unrepresentable("this file system cannot store today's date")) }
    }
}
