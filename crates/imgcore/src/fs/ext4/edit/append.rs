use std::sync::Arc;

use super::Editor;
use super::contents::{data_blocks, read_piece};
use super::steps::Make;
use crate::block::{self, BlockRead, BlockWrite, ByteRange, Extent, ExtentKind};
use crate::fs::ext4::cluster::clusters_behind;
use crate::fs::ext4::extent::{ExtentTree, FileExtent};
use crate::fs::ext4::inline::is_inline;
use crate::fs::ext4::inode::Inode;
use crate::fs::ext4::resolve::resolve;
use crate::fs::{Attributes, Content, Error, FileKind};

impl<D: BlockWrite> Editor<D> {
    /// Puts contents behind the end of a file; only its last block is written anew.
    pub(super) fn append(&mut self, content: &Content, attributes: &Attributes) -> Result<(), Error> {
        let place = resolve(&self.volume, &self.path, true)?;
        let Some(mut inode) = place.found else { return self.make(place, &Make::File(content), attributes) };
        self.expect_kind(&inode, FileKind::File)?;
        self.check_changeable(&inode)?;
        if content.is_empty() {
            return self.change(inode, attributes);
        }
        let block_size = u64::from(self.volume.layout().block_size);
        if is_inline(&inode) || inode.size() < block_size {
            let start = self.volume.contents(&inode, block_size)?;
            let start =
                start.ok_or_else(|| Error::TooLarge { path: self.path.clone(), size: inode.size(), limit: block_size })?;
            let all = Content::Disk(Arc::new(Behind { start, rest: content.clone() }));
            return self.rewrite(inode, &all, attributes);
        }
        self.append_blocks(&mut inode, content)?;
        if attributes.mtime.is_none() && !inode.set_mtime(self.now) {
            return Err(self.unrepresentable("this file system cannot store today's date"));
        }
        self.set_attributes(&mut inode, attributes)?;
        self.save(&inode)
    }

    fn append_blocks(&mut self, inode: &mut Inode, content: &Content) -> Result<(), Error> {
        let block_size = u64::from(self.volume.layout().block_size);
        let old = inode.size();
        let whole = old.checked_div(block_size).unwrap_or_default();
        let tree = self.owned_tree(inode)?;
        let start_at = whole.saturating_mul(block_size);
        let mut start = vec![0; usize::try_from(old.saturating_sub(start_at)).unwrap_or(usize::MAX)];
        self.volume.read_at(&tree.extents, &mut start, start_at)?;
        let kept = self.cut(&tree.extents, whole)?;
        let behind = Content::Disk(Arc::new(Behind { start, rest: content.clone() }));
        let size = old.checked_add(content.len()).filter(|size| size.div_ceil(block_size) <= self.most_blocks());
        let size = size.ok_or_else(|| self.unrepresentable(format!("a file has at most {} blocks", self.most_blocks())))?;
        let near = kept.last().and_then(|extent: &FileExtent| self.volume.layout().group_of_block(extent.physical));
        let group = near.map_or(self.group_of(inode), |(group, _)| group);
        let runs = data_blocks(&behind, block_size)?;
        self.store_runs(inode, ExtentTree { extents: kept, nodes: tree.nodes }, (&behind, whole), &runs, group)?;
        self.store_size(inode, size)
    }

    /// Gives back what a file has from block `whole` on, and returns the extents before it.
    pub(super) fn cut(&mut self, extents: &[FileExtent], whole: u64) -> Result<Vec<FileExtent>, Error> {
        let mut kept = Vec::new();
        for extent in extents {
            let before = u32::try_from(whole.saturating_sub(u64::from(extent.logical))).unwrap_or(u32::MAX).min(extent.len);
            if before > 0 {
                kept.push(FileExtent { len: before, ..*extent });
            }
        }
        for run in clusters_behind(extents, &kept, self.volume.layout().cluster_blocks) {
            self.free(run)?;
        }
        Ok(kept)
    }
}

/// The bytes of the last block of a file, and what goes behind them.
#[derive(Debug)]
struct Behind {
    start: Vec<u8>,
    rest: Content,
}

impl Behind {
    fn start_len(&self) -> u64 {
        u64::try_from(self.start.len()).unwrap_or(u64::MAX)
    }
}

impl BlockRead for Behind {
    fn size(&self) -> u64 {
        self.start_len().saturating_add(self.rest.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let first = self.start.get(from..).unwrap_or_default();
        let (here, there) = buf.split_at_mut(first.len().min(buf.len()));
        here.copy_from_slice(first.get(..here.len()).unwrap_or_default());
        if there.is_empty() {
            return Ok(());
        }
        let behind = offset.max(self.start_len()).saturating_sub(self.start_len());
        there.copy_from_slice(&read_piece(&self.rest, behind, there.len())?);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        let start = self.start_len();
        let bad = || block::Error::out_of_bounds(offset, 1, self.size());
        if offset < start {
            return Ok(Extent::new(ByteRange::new(offset, start).ok_or_else(bad)?, ExtentKind::Data));
        }
        match &self.rest {
            Content::Disk(disk) => {
                let extent = disk.extent_at(offset.saturating_sub(start))?;
                let range = ByteRange::at(extent.range.start().saturating_add(start), extent.range.len());
                Ok(Extent::new(range.ok_or_else(bad)?, extent.kind))
            }
            Content::Bytes(_) => {
                let range = ByteRange::new(offset, self.size()).filter(|range| !range.is_empty());
                Ok(Extent::new(range.ok_or_else(bad)?, ExtentKind::Data))
            }
        }
    }
}
