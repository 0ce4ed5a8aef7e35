use std::borrow::Cow;
use std::ops::Range;

use super::Editor;
use super::blocks::Run;
use crate::block::{self, BlockRead, BlockWrite, ByteRange, extents};
use crate::fs::ext4::extent::{ExtentTree, FileExtent, MAX_LEN};
use crate::fs::ext4::feature::LARGE_FILE;
use crate::fs::ext4::inode::Inode;
use crate::fs::{Content, Error};

impl<D: BlockWrite> Editor<D> {
    /// Gives a file new contents, in blocks from `group` on. The inode is not saved.
    pub(super) fn store_contents(&mut self, inode: &mut Inode, content: &Content, group: u32) -> Result<(), Error> {
        let size = content.len();
        let block_size = u64::from(self.volume.layout().block_size);
        let most = self.most_blocks();
        if size.div_ceil(block_size) > most {
            return Err(self.unrepresentable(format!("a file of this file system has at most {most} blocks")));
        }
        let runs = data_blocks(content, block_size)?;
        self.store_runs(inode, ExtentTree::default(), (content, 0), &runs, group)?;
        self.store_size(inode, size)
    }

    /// Puts runs of blocks of `content`, which begins at block `begin` of the file, behind what `tree` has already.
    ///
    /// The inode is not saved.
    pub(super) fn store_runs(
        &mut self,
        inode: &mut Inode,
        tree: ExtentTree,
        (content, begin): (&Content, u64),
        runs: &[(u64, u64)],
        group: u32,
    ) -> Result<(), Error> {
        let mut all = tree.extents;
        for (first, last) in runs {
            let mut logical = *first;
            let at = begin.saturating_add(logical);
            for (start, len) in self.extend(&mut all, at, last.saturating_sub(*first), group)? {
                self.copy(content, logical, start, len)?;
                logical = logical.saturating_add(u64::from(len));
            }
        }
        self.store_tree(inode, &all, group, &tree.nodes)
    }

    /// Gives a file `count` blocks from block `logical` on, which is behind all that it has, and returns them: the rest of its last
    /// cluster, where that is among them, and new clusters from `group` on.
    pub(super) fn extend(
        &mut self,
        all: &mut Vec<FileExtent>,
        logical: u64,
        count: u64,
        group: u32,
    ) -> Result<Vec<Run>, Error> {
        let size = u64::from(self.volume.layout().cluster_blocks);
        let end = logical.saturating_add(count);
        let mut runs = Vec::new();
        let mut at = logical;
        if let Some(last) = all.last().filter(|last| last.logical_end() <= at) {
            let until = last.logical_end().next_multiple_of(size).min(end);
            if let Some(len) = until.checked_sub(at).filter(|len| *len > 0) {
                let ahead = at.saturating_sub(u64::from(last.logical));
                runs.push((last.physical.saturating_add(ahead), u32::try_from(len).unwrap_or(u32::MAX)));
                at = until;
            }
        }
        let mut inside = at.checked_rem(size).unwrap_or_default();
        let clusters = end.saturating_sub(at).saturating_add(inside).div_ceil(size);
        for (start, len) in self.allocate(group, if at < end { clusters } else { 0 })? {
            let len = u64::from(len).saturating_sub(inside).min(end.saturating_sub(at));
            runs.push((start.saturating_add(inside), u32::try_from(len).unwrap_or(u32::MAX)));
            at = at.saturating_add(len);
            inside = 0;
        }
        let mut at = logical;
        for (start, len) in &runs {
            push_run(all, at, *start, *len);
            at = at.saturating_add(u64::from(*len));
        }
        Ok(runs)
    }

    /// Stores how many bytes a file has. The inode is not saved.
    pub(super) fn store_size(&mut self, inode: &mut Inode, size: u64) -> Result<(), Error> {
        inode.set_size(size);
        if size > LARGEST_SMALL_FILE {
            self.expect_features("a file of 2 GiB")?;
            let features = self.volume.raw.s_feature_ro_compat.get();
            self.volume.raw.s_feature_ro_compat.set(features | LARGE_FILE);
        }
        Ok(())
    }

    /// Copies the blocks of `content` from the `logical` one on into `len` blocks at `start`, piece by piece; what lies behind
    /// the end of the contents is zeros.
    fn copy(&mut self, content: &Content, logical: u64, start: u64, len: u32) -> Result<(), Error> {
        let block_size = u64::from(self.volume.layout().block_size);
        let mut from = logical.saturating_mul(block_size);
        let mut to = self.volume.store.offset(start)?;
        let mut left = u64::from(len).saturating_mul(block_size);
        let size = content.len();
        if let Content::Disk(source) = content {
            // Whole blocks may stay where they are until they are written.
            let stored = size.saturating_sub(from).min(left);
            let whole = stored.checked_div(block_size).unwrap_or_default().saturating_mul(block_size);
            let range = ByteRange::at(to, whole).unwrap_or_default();
            self.volume.store.disk_mut().write_from_at(source, from, range)?;
            (from, to, left) = (from.saturating_add(whole), to.saturating_add(whole), left.saturating_sub(whole));
        }
        let mut buffer = vec![0; usize::try_from(left.min(PIECE)).unwrap_or(usize::MAX)];
        while left > 0 {
            let piece = left.min(PIECE);
            let whole = buffer.get_mut(..usize::try_from(piece).unwrap_or(usize::MAX)).unwrap_or_default();
            let stored = usize::try_from(size.saturating_sub(from).min(piece)).unwrap_or(usize::MAX);
            let (bytes, padding) = whole.split_at_mut(stored.min(whole.len()));
            padding.fill(0);
            bytes.copy_from_slice(&read_piece(content, from, bytes.len())?);
            self.volume.store.disk_mut().write_all_at(whole, to)?;
            from = from.saturating_add(piece);
            to = to.saturating_add(piece);
            left = left.saturating_sub(piece);
        }
        self.changed = true;
        Ok(())
    }
}

/// Returns `len` bytes of contents at `offset`.
pub(in crate::fs::ext4) fn read_piece(content: &Content, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, block::Error> {
    match content {
        Content::Disk(disk) => {
            let mut bytes = vec![0; len];
            disk.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.into())
        }
        Content::Bytes(all) => {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes = all.get(at..).and_then(|rest| rest.get(..len));
            let outside = || block::Error::out_of_bounds(offset, u64::try_from(len).unwrap_or(u64::MAX), content.len());
            Ok(bytes.ok_or_else(outside)?.into())
        }
    }
}

/// Returns the runs of blocks that hold data, first and the one behind the last, joined where they meet.
pub(super) fn data_blocks(content: &Content, block_size: u64) -> Result<Vec<(u64, u64)>, Error> {
    let size = content.len();
    let Content::Disk(disk) = content else {
        return Ok(if size == 0 { Vec::new() } else { vec![(0, size.div_ceil(block_size))] });
    };
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for extent in extents(disk, ByteRange::new(0, size).unwrap_or_default()) {
        let extent = extent?;
        if extent.reads_as_zeros() {
            continue;
        }
        let first = extent.range.start().checked_div(block_size).unwrap_or_default();
        let last = extent.range.end().div_ceil(block_size);
        match runs.last_mut() {
            Some((_, end)) if *end >= first => *end = last.max(*end),
            _ => runs.push((first, last)),
        }
    }
    Ok(runs)
}

/// Returns the runs of bytes in which a file of these contents can differ from what is stored: outside of them are holes on both
/// sides.
pub(in crate::fs::ext4) fn runs_to_compare(
    content: &Content,
    stored: &[FileExtent],
    block_size: u64,
) -> Result<Vec<Range<u64>>, Error> {
    let mut runs = data_blocks(content, block_size)?;
    runs.extend(stored.iter().map(|extent| (u64::from(extent.logical), extent.logical_end())));
    runs.sort_unstable();
    let mut joined: Vec<Range<u64>> = Vec::new();
    for (first, end) in runs {
        let start = first.saturating_mul(block_size).min(content.len());
        let end = end.saturating_mul(block_size).min(content.len());
        match joined.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => joined.push(start..end),
        }
    }
    Ok(joined)
}

/// Adds a run of blocks to a file's extents: to the last one where it continues it.
fn push_run(all: &mut Vec<FileExtent>, mut logical: u64, mut physical: u64, mut len: u32) {
    let most = u32::from(MAX_LEN);
    if let Some(last) = all.last_mut() {
        let follows = last.logical_end() == logical && last.physical.saturating_add(u64::from(last.len)) == physical;
        if follows && !last.unwritten {
            let more = most.saturating_sub(last.len).min(len);
            last.len = last.len.saturating_add(more);
            logical = logical.saturating_add(u64::from(more));
            physical = physical.saturating_add(u64::from(more));
            len = len.saturating_sub(more);
        }
    }
    while len > 0 {
        let piece = len.min(most);
        let first = u32::try_from(logical).unwrap_or(u32::MAX);
        all.push(FileExtent { logical: first, physical, len: piece, unwritten: false });
        logical = logical.saturating_add(u64::from(piece));
        physical = physical.saturating_add(u64::from(piece));
        len = len.saturating_sub(piece);
    }
}

/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;
/// Above this, the feature `large_file` is needed.
const LARGEST_SMALL_FILE: u64 = 0x7FFF_FFFF;
