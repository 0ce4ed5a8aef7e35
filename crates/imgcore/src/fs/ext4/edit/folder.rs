use super::Editor;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;
use crate::fs::ext4::dirent::{
    TYPE_DIRECTORY, put_record, record_len, records, records_end, seal, set_record_inode, set_record_len,
};
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::feature::{DIR_NLINK, FILETYPE};
use crate::fs::ext4::inode::{INDEX_FLAG, Inode};
use crate::fs::ext4::names::{FolderNames, room};

/// A name to be put into a folder.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) bytes: Vec<u8>,
    pub(super) inode: u32,
    pub(super) file_type: u8,
}

impl<D: BlockWrite> Editor<D> {
    /// Puts a name that is not there yet into folder `number`.
    pub(super) fn insert_name(&mut self, number: u32, name: &Name) -> Result<(), Error> {
        let mut folder = self.volume.inode(number)?;
        self.check_changeable(&folder)?;
        self.check_folder(&folder)?;
        self.move_names_out(&mut folder)?;
        if folder.has_flag(INDEX_FLAG) {
            self.insert_indexed(&mut folder, name)?;
        } else {
            self.insert_linear(&mut folder, name)?;
        }
        self.touch(&mut folder)?;
        self.save(&folder)
    }

    fn insert_linear(&mut self, folder: &mut Inode, name: &Name) -> Result<(), Error> {
        if self.insert_in_room(folder, name)? {
            return Ok(());
        }
        let block_size = u64::from(self.volume.layout().block_size);
        if folder.size() == block_size
            && let Some(hash) = self.new_index_hash()?
        {
            return self.make_index(folder, hash, name);
        }
        let (index, block) = self.append_block(folder)?;
        let bytes = self.packed(folder, std::slice::from_ref(name));
        self.volume.store.write(block, bytes);
        let room = self.records_end().saturating_sub(record_len(name.bytes.len()));
        self.volume.folders.with(folder.number, |names| {
            names.push_block(index, block, room);
            names.add(&name.bytes, block);
        });
        Ok(())
    }

    /// Puts a name into a block of a folder without an index that has room for it; returns `false` when none has.
    fn insert_in_room(&mut self, folder: &Inode, name: &Name) -> Result<bool, Error> {
        let needed = record_len(name.bytes.len());
        if !self.volume.knows(folder, true)? {
            for (_, block) in self.volume.folder_blocks(folder)? {
                let bytes = self.volume.folder_block(folder, block)?;
                if let Some((bytes, _)) = self.with_name(folder, &bytes, name)? {
                    self.volume.store.write(block, bytes);
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        let place = |names: &mut FolderNames| {
            let at = names.with_room(needed)?;
            Some((at, names.blocks.get(at)?.1))
        };
        while let Some((at, block)) = self.volume.folders.with(folder.number, place).flatten() {
            let bytes = self.volume.folder_block(folder, block)?;
            let Some((bytes, room)) = self.with_name(folder, &bytes, name)? else {
                self.volume.folders.with(folder.number, |names| names.set_room(at, needed.saturating_sub(1)));
                continue;
            };
            self.volume.store.write(block, bytes);
            self.volume.folders.with(folder.number, |names| {
                names.set_room(at, room);
                names.add(&name.bytes, block);
            });
            return Ok(true);
        }
        Ok(false)
    }

    /// Adds a block to a folder and returns its index and its number; it has no contents yet.
    pub(super) fn append_block(&mut self, folder: &mut Inode) -> Result<(u32, u64), Error> {
        let group = self.group_of(folder);
        let block_size = u64::from(self.volume.layout().block_size);
        let index = folder.size().div_ceil(block_size);
        let logical = u32::try_from(index).ok().filter(|index| *index < MAX_BLOCKS);
        let logical = logical.ok_or_else(|| self.unrepresentable("the folder is too large"))?;
        let tree = self.owned_tree(folder)?;
        if tree.extents.last().is_some_and(|last| last.logical_end() > index) {
            return Err(corrupt(format!("folder {}", folder.number), "it has no blocks behind its end"));
        }
        let near = tree.extents.last().and_then(|extent| self.volume.layout().group_of_block(extent.physical));
        let mut all = tree.extents;
        let runs = self.extend(&mut all, index, 1, near.map_or(group, |(near, _)| near))?;
        let block = runs.first().map(|(block, _)| *block).ok_or_else(|| Error::NoSpace("a block is needed".to_owned()))?;
        self.store_tree(folder, &all, group, &tree.nodes)?;
        folder.set_size(index.saturating_add(1).saturating_mul(block_size));
        Ok((logical, block))
    }

    /// Takes a name out of folder `number`.
    pub(super) fn remove_name(&mut self, number: u32, name: &[u8]) -> Result<(), Error> {
        let mut folder = self.volume.inode(number)?;
        self.check_changeable(&folder)?;
        self.check_folder(&folder)?;
        self.move_names_out(&mut folder)?;
        let missing = || corrupt(format!("folder {number}"), "a name that was found stays there");
        let (_, block) = self.volume.find(&folder, name)?.ok_or_else(missing)?;
        let bytes = self.volume.folder_block(&folder, block)?;
        let all = records(&bytes, number)?;
        let at = all.iter().position(|record| record.inode != 0 && record.name == name).ok_or_else(missing)?;
        let mut changed = bytes.to_vec();
        let before = at.checked_sub(1).and_then(|at| all.get(at));
        match (before, all.get(at)) {
            (Some(before), Some(gone)) => set_record_len(&mut changed, before.offset, before.len.saturating_add(gone.len)),
            (_, Some(gone)) => set_record_inode(&mut changed, gone.offset, 0),
            _ => {}
        }
        self.seal_leaf(&folder, &mut changed);
        let room = room(&records(&changed, number)?, self.records_end());
        self.volume.store.write(block, changed);
        self.volume.folders.with(number, |names| {
            names.remove(name);
            names.set_room_of(block, room);
        });
        self.touch(&mut folder)?;
        self.save(&folder)
    }

    /// Gives a new folder its first block, with `.` and `..`. The inode is not saved.
    pub(super) fn store_empty_folder(&mut self, folder: &mut Inode, parent: u32) -> Result<(), Error> {
        let entry = |inode, name: &[u8]| Name { bytes: name.to_vec(), inode, file_type: TYPE_DIRECTORY };
        let names = [entry(folder.number, b"."), entry(parent, b"..")];
        let group = self.group_of(folder);
        self.store_tree(folder, &[], group, &[])?;
        let (_, block) = self.append_block(folder)?;
        let bytes = self.packed(folder, &names);
        self.volume.store.write(block, bytes);
        folder.raw.i_links_count.set(2);
        Ok(())
    }

    /// Counts one more folder in folder `number`.
    pub(super) fn link_folder(&mut self, number: u32) -> Result<(), Error> {
        let mut folder = self.volume.inode(number)?;
        let links = folder.raw.i_links_count.get();
        let more = links.saturating_add(1);
        // Spec: "ext4 supports more than 64,998 subdirectories by setting this field to 1"
        let stored = if links == 1 || (more >= MAX_LINKS && self.volume.raw.has_ro_compat(DIR_NLINK)) { 1 } else { more };
        if stored > MAX_LINKS {
            return Err(self.unrepresentable("a folder has at most 64,998 folders in it"));
        }
        folder.raw.i_links_count.set(stored);
        self.save(&folder)
    }

    /// Counts one folder less in folder `number`.
    pub(super) fn unlink_folder(&mut self, number: u32) -> Result<(), Error> {
        let mut folder = self.volume.inode(number)?;
        let links = folder.raw.i_links_count.get();
        folder.raw.i_links_count.set(if links > 2 { links.saturating_sub(1) } else { links });
        self.save(&folder)
    }
}

impl<D: BlockRead> Editor<D> {
    /// Returns a block of a folder with `name` in its slack, and the room that is left, or `None` when there is too little.
    pub(super) fn with_name(&self, folder: &Inode, block: &[u8], name: &Name) -> Result<Option<(Vec<u8>, usize)>, Error> {
        let needed = record_len(name.bytes.len());
        let end = self.records_end();
        let all = records(block, folder.number)?;
        let Some(at) = all.iter().position(|record| record.slack(end) >= needed) else { return Ok(None) };
        let others = all.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, record)| record.slack(end)).max();
        let Some(record) = all.get(at) else { return Ok(None) };
        let mut bytes = block.to_vec();
        let used = record.used();
        if used > 0 {
            set_record_len(&mut bytes, record.offset, used);
        }
        let (offset, len) = (record.offset.saturating_add(used), record.len.saturating_sub(used));
        put_record(&mut bytes, offset, len, name.inode, &name.bytes, self.stored_type(name));
        self.seal_leaf(folder, &mut bytes);
        let left = record.slack(end).saturating_sub(needed);
        Ok(Some((bytes, others.unwrap_or_default().max(left))))
    }

    /// Returns a block of a folder with these names, which fit; the last record reaches to the end.
    pub(super) fn packed(&self, folder: &Inode, names: &[Name]) -> Vec<u8> {
        let end = self.records_end();
        let mut bytes = vec![0; self.volume.layout().block_bytes()];
        let mut at = 0_usize;
        let mut rest = names.iter().peekable();
        while let Some(name) = rest.next() {
            let len = if rest.peek().is_some() { record_len(name.bytes.len()) } else { end.saturating_sub(at) };
            put_record(&mut bytes, at, len, name.inode, &name.bytes, self.stored_type(name));
            at = at.saturating_add(len);
        }
        if names.is_empty() {
            put_record(&mut bytes, 0, end, 0, b"", 0);
        }
        self.seal_leaf(folder, &mut bytes);
        bytes
    }

    /// Sets the times of a folder whose names changed.
    fn touch(&self, folder: &mut Inode) -> Result<(), Error> {
        if folder.set_mtime(self.now) && folder.set_ctime(self.now) {
            return Ok(());
        }
        Err(self.unrepresentable("this file system cannot store today's date"))
    }

    /// Returns the type to store with a name: none where folders have no types.
    fn stored_type(&self, name: &Name) -> u8 {
        if self.volume.raw.has_incompat(FILETYPE) { name.file_type } else { 0 }
    }

    /// Returns where the records of a block end.
    pub(super) fn records_end(&self) -> usize {
        let layout = self.volume.layout();
        records_end(layout.block_bytes(), layout.has_metadata_csum())
    }

    /// Puts the checksum into a block of names.
    pub(super) fn seal_leaf(&self, folder: &Inode, block: &mut [u8]) {
        let layout = self.volume.layout();
        if layout.has_metadata_csum() {
            seal(block, folder.checksum_seed(layout));
        }
    }
}

/// The most links of a file or folder.
pub(super) const MAX_LINKS: u16 = 65000;
/// The most blocks of a folder.
const MAX_BLOCKS: u32 = 1 << 17;
