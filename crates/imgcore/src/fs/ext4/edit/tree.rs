use super::Editor;
use crate::block::BlockWrite;
use crate::fs::Error;
use crate::fs::ext4::blockmap::{encode_map, map_nodes_needed, most_blocks};
use crate::fs::ext4::cluster::clusters_of;
use crate::fs::ext4::extent::{FileExtent, encode_tree, nodes_needed};
use crate::fs::ext4::feature::{EXTENTS, HUGE_FILE};
use crate::fs::ext4::inline::is_inline;
use crate::fs::ext4::inode::{EXTENTS_FLAG, Inode};
use crate::fs::ext4::xattr::{Value, read_xattrs};

impl<D: BlockWrite> Editor<D> {
    /// Gives a file these extents, listed as new files of this file system list them: in an extent tree, or in a block map when
    /// it has no extents. `spare` are the blocks that its tree or map had; what is not needed of them is given back. The inode is
    /// not saved.
    pub(super) fn store_tree(&mut self, inode: &mut Inode, all: &[FileExtent], group: u32, spare: &[u64]) -> Result<(), Error> {
        let layout = *self.volume.layout();
        let is_tree = self.volume.raw.has_incompat(EXTENTS);
        let needed =
            if is_tree { nodes_needed(all.len(), layout.block_bytes()) } else { map_nodes_needed(all, layout.block_size) };
        let (kept, given) = spare.split_at(needed.min(spare.len()));
        given.iter().try_for_each(|node| self.free((*node, 1)))?;
        let mut nodes = kept.to_vec();
        let more = needed.saturating_sub(kept.len());
        let size = layout.cluster_blocks;
        for (start, len) in self.allocate(group, u64::try_from(more).unwrap_or(u64::MAX))? {
            // Each of them takes a cluster.
            let blocks = start..start.saturating_add(u64::from(len));
            nodes.extend(blocks.step_by(usize::try_from(size).unwrap_or(usize::MAX)));
        }
        let (root, blocks) = if is_tree {
            let seed = layout.has_metadata_csum().then(|| inode.checksum_seed(&layout));
            let tree = encode_tree(all, &nodes, layout.block_bytes(), seed);
            (tree.root, tree.nodes)
        } else {
            let map = encode_map(all, &nodes, layout.block_size);
            let map = map.ok_or_else(|| self.unrepresentable("without extents, a file lies in the first 2^32 blocks"))?;
            (map.root, map.nodes)
        };
        inode.raw.i_block = root;
        inode.set_flag(EXTENTS_FLAG, is_tree);
        for (block, bytes) in blocks {
            self.volume.store.write(block, bytes);
        }
        let data: u64 = clusters_of(all, size).iter().map(|(_, blocks)| u64::from(*blocks)).sum();
        let others = u64::try_from(nodes.len()).unwrap_or(u64::MAX).saturating_add(u64::from(inode.xattr_block() != 0));
        let others = others.saturating_add(self.value_clusters(inode)?);
        let blocks = data.saturating_add(others.saturating_mul(u64::from(size)));
        let sectors = blocks.saturating_mul(u64::from(layout.block_size / 512));
        if sectors > u64::from(u32::MAX) && !self.volume.raw.has_ro_compat(HUGE_FILE) {
            return Err(self.unrepresentable("a file of 2 TiB needs the feature `huge_file`"));
        }
        inode.set_sectors(sectors);
        Ok(())
    }

    /// Returns how many clusters the values of attributes take in inodes of their own: the file counts them as its.
    fn value_clusters(&self, inode: &Inode) -> Result<u64, Error> {
        let mut clusters = 0_u64;
        for attribute in read_xattrs(&self.volume, inode)? {
            let Value::Inode(number, size) = attribute.value else { continue };
            let value = self.volume.inode(number)?;
            // As Lustre made them before Linux did, they know their one file, which does not count them.
            let has_owner = value.raw.i_mtime.get() == inode.number && value.raw.i_generation == inode.raw.i_generation;
            if !has_owner {
                clusters = clusters.saturating_add(u64::from(size).div_ceil(self.volume.layout().cluster_size()));
            }
        }
        Ok(clusters)
    }

    /// Gives the blocks of a file's contents and of its tree back. The inode is not saved.
    pub(super) fn free_contents(&mut self, inode: &mut Inode) -> Result<(), Error> {
        if is_inline(inode) {
            return self.clear_inline(inode);
        }
        let tree = self.volume.tree(inode)?;
        for run in clusters_of(&tree.extents, self.volume.layout().cluster_blocks) {
            self.free(run)?;
        }
        self.store_tree(inode, &[], 0, &tree.nodes)
    }

    /// Returns how many blocks a new file has at most.
    pub(super) fn most_blocks(&self) -> u64 {
        if self.volume.raw.has_incompat(EXTENTS) { u64::from(u32::MAX) } else { most_blocks(self.volume.layout().block_size) }
    }
}
