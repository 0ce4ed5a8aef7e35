use std::collections::BTreeSet;

use super::Editor;
use crate::block::BlockWrite;
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::inode::Inode;
use crate::fs::ext4::volume::has_tree;
use crate::fs::ext4::xattr::{check_values_here, read_xattrs};
use crate::fs::{Error, FileKind};

impl<D: BlockWrite> Editor<D> {
    /// Takes `name` out of folder `parent` and frees what it meant: a folder with all that is in it.
    pub(super) fn remove(&mut self, parent: u32, name: &[u8], gone: &Inode) -> Result<(), Error> {
        self.check_changeable(gone)?;
        self.remove_name(parent, name)?;
        if gone.kind()? != FileKind::Directory {
            return self.drop_link(gone.number);
        }
        self.unlink_folder(parent)?;
        let mut seen = BTreeSet::from([parent]);
        let mut folders = vec![gone.number];
        while let Some(number) = folders.pop() {
            // A folder has one name: meeting it again is a circle.
            if !seen.insert(number) {
                return Err(corrupt(format!("folder {number}"), "it has one name, outside of itself"));
            }
            let folder = self.volume.named_inode(number)?;
            self.check_changeable(&folder)?;
            for entry in self.volume.entries(&folder)? {
                let child = u32::try_from(entry.inode).unwrap_or(u32::MAX);
                if self.volume.named_inode(child)?.kind()? == FileKind::Directory {
                    folders.push(child);
                } else {
                    self.drop_link(child)?;
                }
            }
            self.free_file(folder)?;
        }
        Ok(())
    }

    /// Has one name less of a file, and frees it with the last one.
    fn drop_link(&mut self, number: u32) -> Result<(), Error> {
        let mut inode = self.volume.named_inode(number)?;
        self.check_changeable(&inode)?;
        match inode.raw.i_links_count.get() {
            0 | 1 => self.free_file(inode),
            links => {
                inode.raw.i_links_count.set(links.saturating_sub(1));
                if !inode.set_ctime(self.now) {
                    return Err(self.unrepresentable("this file system cannot store today's date"));
                }
                self.save(&inode)
            }
        }
    }

    pub(super) fn free_file(&mut self, mut inode: Inode) -> Result<(), Error> {
        check_values_here(&read_xattrs(&self.volume, &inode)?)?;
        if has_tree(&inode, inode.kind()?) {
            self.free_contents(&mut inode)?;
        }
        self.release_xattr_block(&mut inode)?;
        self.free_inode(inode)
    }
}
