//! The files that a file system has of its own, for a new one.

use super::Editor;
use super::folder::Name;
use crate::block::{BlockWrite, ByteRange, Hole};
use crate::fs::ext4::dirent::TYPE_DIRECTORY;
use crate::fs::ext4::error::refused;
use crate::fs::ext4::extent::FileExtent;
use crate::fs::ext4::inode::{Inode, ROOT_INODE};
use crate::fs::{Error, FileKind};

impl<D: BlockWrite> Editor<D> {
    /// Makes the root folder, whose inode is counted as in use already.
    pub(in crate::fs::ext4) fn make_root(&mut self) -> Result<(), Error> {
        let mut root = self.new_inode(ROOT_INODE, FOLDER | 0o755)?;
        self.store_empty_folder(&mut root, ROOT_INODE)?;
        self.save(&root)?;
        self.count_folder()
    }

    /// Makes `lost+found`, with so many blocks that a repair need not allocate some.
    pub(in crate::fs::ext4) fn make_lost_and_found(&mut self) -> Result<(), Error> {
        let number = self.allocate_inode(0, FileKind::File)?.number;
        let mut folder = self.new_inode(number, FOLDER | 0o700)?;
        self.store_empty_folder(&mut folder, ROOT_INODE)?;
        let block_size = u64::from(self.volume.layout().block_size);
        let wanted = LOST_AND_FOUND.max(block_size.saturating_mul(2)).min(block_size.saturating_mul(12));
        while folder.size() < wanted {
            let (_, block) = self.append_block(&mut folder)?;
            let bytes = self.packed(&folder, &[]);
            self.volume.store.write(block, bytes);
        }
        self.save(&folder)?;
        self.insert_name(ROOT_INODE, &Name { bytes: b"lost+found".to_vec(), inode: number, file_type: TYPE_DIRECTORY })?;
        self.link_folder(ROOT_INODE)?;
        self.count_folder()
    }

    /// Makes a file of whole blocks of zeros without a name, the inode being counted as in use already, and returns its blocks.
    ///
    /// The blocks follow one another from `group` on as far as possible.
    pub(in crate::fs::ext4) fn make_system_file(
        &mut self,
        number: u32,
        blocks: u32,
        group: u32,
    ) -> Result<Vec<FileExtent>, Error> {
        let layout = *self.volume.layout();
        let mut inode = self.new_inode(number, FILE | 0o600)?;
        let mut all = Vec::new();
        for (start, len) in self.extend(&mut all, 0, u64::from(blocks), group)? {
            let size = u64::from(len).saturating_mul(u64::from(layout.block_size));
            let range = ByteRange::at(self.volume.store.offset(start)?, size).unwrap_or_default();
            self.volume.store.disk_mut().write_zeroes_at(range, Hole::Allow)?;
        }
        self.store_size(&mut inode, u64::from(blocks).saturating_mul(u64::from(layout.block_size)))?;
        self.store_tree(&mut inode, &all, group, &[])?;
        self.save(&inode)?;
        Ok(all)
    }

    /// Returns a new inode of this mode with one link and the times of now.
    pub(in crate::fs::ext4) fn new_inode(&self, number: u32, mode: u16) -> Result<Inode, Error> {
        let mut inode = Inode::new(number, self.volume.layout(), 0);
        inode.raw.i_mode.set(mode);
        inode.raw.i_links_count.set(1);
        if inode.set_born(self.now) && inode.set_mtime(self.now) && inode.set_ctime(self.now) {
            return Ok(inode);
        }
        Err(refused("cannot store today's date"))
    }

    fn count_folder(&mut self) -> Result<(), Error> {
        let group = self.group_mut(0)?;
        group.used_dirs = group.used_dirs.saturating_add(1);
        Ok(())
    }
}

const FOLDER: u16 = 0o040_000;
/// The type of a regular file in a mode.
pub(in crate::fs::ext4) const FILE: u16 = 0o100_000;
/// Bytes of `lost+found`, at most 12 blocks.
const LOST_AND_FOUND: u64 = 16 << 10;
