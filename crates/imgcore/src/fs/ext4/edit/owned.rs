//! Blocks that are changed where they lie: nobody else may have them.

use super::Editor;
use super::blocks::Run;
use crate::block::BlockRead;
use crate::fs::ext4::blockmap::read_map;
use crate::fs::ext4::cluster::{clusters_of, whole};
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::extent::ExtentTree;
use crate::fs::ext4::inline::is_inline;
use crate::fs::ext4::inode::{BAD_BLOCKS_INODE, Inode};
use crate::fs::{Error, FileKind};

impl<D: BlockRead> Editor<D> {
    /// Returns where the contents of `inode` lie, all of which is in use and none of it a bitmap or table.
    pub(super) fn owned_tree(&mut self, inode: &Inode) -> Result<ExtentTree, Error> {
        let tree = self.volume.tree(inode)?;
        if !self.owned.contains(&inode.number) {
            let nodes = tree.nodes.iter().map(|node| (*node, 1));
            for run in clusters_of(&tree.extents, self.volume.layout().cluster_blocks).into_iter().chain(nodes) {
                self.check_in_use(run)?;
            }
            self.owned.insert(inode.number);
        }
        Ok(tree)
    }

    /// Checks that names may be put into and taken out of the blocks of a folder.
    pub(super) fn check_folder(&mut self, folder: &Inode) -> Result<(), Error> {
        let is_known = self.owned.contains(&folder.number);
        if is_known || folder.kind()? != FileKind::Directory || is_inline(folder) {
            return Ok(());
        }
        self.owned_tree(folder).map(drop)
    }

    /// Checks that the clusters of these blocks are in use, and not by the layout.
    pub(super) fn check_in_use(&mut self, run: Run) -> Result<(), Error> {
        let size = self.volume.layout().cluster_blocks;
        let (mut start, mut left) = whole(run, size);
        let bad = |block: u64| corrupt(format!("block {block}"), "a block of one file is in use, and not by the layout");
        if self.is_system(start, left) {
            return Err(bad(start));
        }
        while left > 0 {
            let (group, index) = self.volume.layout().cluster_of_block(start).ok_or_else(|| bad(start))?;
            let here = self.volume.layout().group_clusters(group).saturating_sub(index);
            let clusters = here.min(left.checked_div(size).unwrap_or_default());
            if clusters == 0 || self.block_map(group)?.first_free(index, index.saturating_add(clusters)).is_some() {
                return Err(bad(start));
            }
            let len = clusters.saturating_mul(size);
            start = start.saturating_add(u64::from(len));
            left = left.saturating_sub(len);
        }
        Ok(())
    }

    /// Checks that no bitmap or table lies where the disk is known to be bad.
    ///
    /// Spec: "Special inodes": 1 is the "List of defective blocks".
    pub(super) fn check_bad_blocks(&self) -> Result<(), Error> {
        let (block, at) = self.volume.inode_place(BAD_BLOCKS_INODE)?;
        let stored = self.volume.store.block(block)?;
        // One that was never written has no checksum.
        if stored.get(at..).unwrap_or_default().iter().take(128).all(|byte| *byte == 0) {
            return Ok(());
        }
        let inode = self.volume.inode(BAD_BLOCKS_INODE)?;
        let bad = read_map(&self.volume.store, &inode)?;
        let nodes = bad.nodes.iter().map(|node| (*node, 1));
        let mut runs = bad.extents.iter().map(|extent| (extent.physical, extent.len)).chain(nodes);
        match runs.find(|(start, len)| self.is_system(*start, *len)) {
            None => Ok(()),
            Some((block, _)) => Err(corrupt(format!("bad block {block}"), "no bitmap or table is there")),
        }
    }
}
