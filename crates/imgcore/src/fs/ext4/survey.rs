//! A look at all of a small file system, before it is changed and after: what is damaged is not changed, wherever the damage is.
//!
//! What an edit frees and what it takes can be somebody else's, and only a look at every file tells. That is cheap where few
//! inodes are in use. Larger file systems are checked where the edit is.

use std::collections::BTreeMap;

use super::budget::Budget;
use super::cluster::{clusters_of, whole};
use super::dirent::records;
use super::edit::{load_block_map, load_inode_map, system_blocks};
use super::error::corrupt;
use super::group::INODE_UNINIT;
use super::inline::{inline_folder, is_inline};
use super::inode::{EA_INODE_FLAG, ENCRYPT_FLAG, Inode, ROOT_INODE};
use super::quota::quota_inodes;
use super::volume::{Volume, has_tree};
use crate::block::BlockRead;
use crate::fs::{Error, FileKind};

/// Checks every file, when at most some thousand inodes are in use: each block is in use and has one owner, each name leads to a
/// file, each file has as many names as it says, and each folder has one place and knows it.
///
/// # Errors
///
/// [`Error::Corrupt`] names the first rule that is broken; otherwise the failure of the disk.
pub(super) fn survey<D: BlockRead>(volume: &Volume<D>) -> Result<(), Error> {
    let used = volume.raw.s_inodes_count.get().saturating_sub(volume.raw.s_free_inodes_count.get());
    if used > MOST_INODES || volume.layout().groups > MOST_GROUPS {
        return Ok(());
    }
    let quota = quota_inodes(&volume.raw).into_iter().map(|(_, inode)| inode).collect();
    let (files, runs, xattr_blocks) = Default::default();
    let mut survey =
        Survey { volume, quota, files, runs, xattr_blocks, budget: Budget::new(MOST_NODES, MOST_PIECES), folder_blocks: 0 };
    for group in 0..volume.layout().groups {
        if !survey.group(group)? {
            return Ok(());
        }
    }
    survey.check_blocks()?;
    // The names in an encrypted folder are nothing that we can read.
    let is_readable = !survey.files.values().any(|inode| inode.has_flag(ENCRYPT_FLAG));
    if is_readable && survey.folder_blocks <= MOST_FOLDER_BLOCKS { survey.check_names() } else { Ok(()) }
}

struct Survey<'a, D> {
    volume: &'a Volume<D>,
    /// Inodes of the quota files.
    quota: Vec<u32>,
    /// The files that can have names.
    files: BTreeMap<u32, Inode>,
    /// Blocks of contents and of what lists them, all of their clusters: start and end.
    runs: Vec<(u64, u64)>,
    xattr_blocks: Vec<u64>,
    /// What the files may still be scattered over.
    budget: Budget,
    folder_blocks: u64,
}

impl<D: BlockRead> Survey<'_, D> {
    /// Notes the inodes of a group that are in use; returns `false` when their trees are too much to look at.
    fn group(&mut self, number: u32) -> Result<bool, Error> {
        let layout = *self.volume.layout();
        let group = self.volume.group(number)?;
        if group.has(INODE_UNINIT) || group.free_inodes == layout.inodes_per_group {
            return Ok(true);
        }
        let map = load_inode_map(self.volume, number)?;
        let before = number.saturating_mul(layout.inodes_per_group);
        for index in (0..layout.inodes_per_group).filter(|index| map.get(*index)) {
            let inode = before.saturating_add(index).saturating_add(1);
            // Other reserved ones are checked where they are used, or by nobody.
            let is_file = inode >= layout.first_inode || inode == ROOT_INODE;
            let is_own = inode == self.volume.raw.s_journal_inum.get() || self.quota.contains(&inode);
            if (is_file || is_own) && self.is_written(inode)? && !self.inode(inode)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns whether an inode is more than zeros: in a new file system not even the root is there at first.
    fn is_written(&self, number: u32) -> Result<bool, Error> {
        let (block, at) = self.volume.inode_place(number)?;
        let block = self.volume.store.block(block)?;
        Ok(block.get(at..).unwrap_or_default().iter().take(128).any(|byte| *byte != 0))
    }

    /// Notes an inode; returns `false` when its tree is too much to look at.
    fn inode(&mut self, number: u32) -> Result<bool, Error> {
        let inode = self.volume.inode(number)?;
        // What waits to be deleted was deleted before.
        if inode.raw.i_links_count.get() == 0 {
            return Ok(true);
        }
        let kind = inode.kind()?;
        if inode.xattr_block() != 0 {
            self.xattr_blocks.push(inode.xattr_block());
        }
        if has_tree(&inode, kind) {
            let tree = self.volume.listed(&inode)?;
            if !self.budget.spend(&tree) {
                return Ok(false);
            }
            if kind == FileKind::Directory {
                let blocks = tree.extents.iter().map(|extent| u64::from(extent.len)).fold(0, u64::saturating_add);
                self.folder_blocks = self.folder_blocks.saturating_add(blocks);
            }
            let size = self.volume.layout().cluster_blocks;
            let nodes = tree.nodes.iter().map(|node| whole((*node, 1), size));
            let all = clusters_of(&tree.extents, size).into_iter().chain(nodes);
            self.runs.extend(all.map(|(start, len)| (start, start.saturating_add(u64::from(len)))));
        }
        // The values of attributes have no names, and neither have the journal and quota files.
        if !inode.has_flag(EA_INODE_FLAG) && (number >= self.volume.layout().first_inode || number == ROOT_INODE) {
            self.files.insert(number, inode);
        }
        Ok(true)
    }

    /// Checks that each block has one owner and is in use.
    fn check_blocks(&mut self) -> Result<(), Error> {
        self.xattr_blocks.sort_unstable();
        // Files with the same attributes may share their block.
        self.xattr_blocks.dedup();
        let size = self.volume.layout().cluster_blocks;
        let xattrs = self.xattr_blocks.iter().map(|block| whole((*block, 1), size));
        self.runs.extend(xattrs.map(|(start, len)| (start, start.saturating_add(u64::from(len)))));
        self.runs.sort_unstable();
        let mut all = system_blocks(self.volume)?;
        all.extend(&self.runs);
        all.sort_unstable();
        let mut last = 0;
        for (start, end) in &all {
            if *start < last {
                return Err(corrupt(format!("block {start}"), "a block is of one file, or of the layout"));
            }
            last = *end;
        }
        if last > self.volume.layout().blocks_count {
            return Err(corrupt(format!("block {}", last.saturating_sub(1)), "it lies inside the file system"));
        }
        self.check_in_use()
    }

    fn check_in_use(&self) -> Result<(), Error> {
        let layout = self.volume.layout();
        let mut loaded = None;
        for (start, end) in &self.runs {
            let mut block = *start;
            while block < *end {
                let Some((group, first)) = layout.cluster_of_block(block) else { break };
                let map = match loaded.take() {
                    Some((number, map)) if number == group => map,
                    _ => load_block_map(self.volume, group)?,
                };
                // As far as the run reaches in this group.
                let until = layout.group_start(group).saturating_add(u64::from(layout.group_blocks(group))).min(*end);
                let last = layout.cluster_of_block(until.saturating_sub(1)).map_or(first, |(_, last)| last);
                if map.first_free(first, last.saturating_add(1)).is_some() {
                    return Err(corrupt(format!("block {block}"), "a block of a file is in use"));
                }
                loaded = Some((group, map));
                block = until.max(block.saturating_add(1));
            }
        }
        Ok(())
    }

    /// Checks that names lead to files, and that files have as many as they say.
    fn check_names(&self) -> Result<(), Error> {
        let mut names: BTreeMap<u32, u32> = BTreeMap::new();
        // The folder that has each folder, and how many folders each has.
        let mut above: BTreeMap<u32, u32> = BTreeMap::from([(ROOT_INODE, ROOT_INODE)]);
        let mut below: BTreeMap<u32, u32> = BTreeMap::new();
        let mut says: BTreeMap<u32, u32> = BTreeMap::new();
        for (number, folder) in &self.files {
            if folder.kind()? != FileKind::Directory {
                continue;
            }
            says.insert(*number, self.parent(folder)?);
            for entry in self.volume.entries(folder)? {
                let child = u32::try_from(entry.inode).unwrap_or(u32::MAX);
                let bad = || corrupt(format!("folder {number}"), "a name leads to a file in use");
                let kind = self.files.get(&child).ok_or_else(bad)?.kind()?;
                let count = names.entry(child).or_default();
                *count = count.saturating_add(1);
                if kind != FileKind::Directory {
                    continue;
                }
                if above.insert(child, *number).is_some() {
                    return Err(corrupt(format!("folder {child}"), "it has one name, outside of itself"));
                }
                let count = below.entry(*number).or_default();
                *count = count.saturating_add(1);
            }
        }
        for (child, parent) in &above {
            if says.get(child).is_some_and(|says| says != parent) {
                return Err(corrupt(format!("folder {child}"), "its `..` is the folder above it"));
            }
        }
        self.check_links(&names, &below)
    }

    /// Checks the counts of names; what has no name is nobody's.
    fn check_links(&self, names: &BTreeMap<u32, u32>, below: &BTreeMap<u32, u32>) -> Result<(), Error> {
        for (number, inode) in &self.files {
            let links = u32::from(inode.raw.i_links_count.get());
            let is_right = if inode.kind()? == FileKind::Directory {
                // Spec: "With the DIR_NLINK feature enabled, ext4 supports more than 64,998 subdirectories by setting this field to
                // 1 to indicate that the number of hard links is not known."
                links == 1 || links == below.get(number).copied().unwrap_or_default().saturating_add(2)
            } else {
                names.get(number).is_none_or(|names| *names == links)
            };
            if !is_right {
                return Err(corrupt(format!("inode {number}"), "it has as many names as it says"));
            }
        }
        Ok(())
    }

    /// Returns the folder above a folder, by what it says itself.
    fn parent(&self, folder: &Inode) -> Result<u32, Error> {
        if is_inline(folder) {
            return Ok(inline_folder(folder)?.1);
        }
        let number = folder.number;
        let mut parent = None;
        for (index, block) in self.volume.folder_blocks(folder)? {
            let bytes = self.volume.folder_block(folder, block)?;
            for (at, record) in records(&bytes, number)?.iter().enumerate().filter(|(_, record)| record.inode != 0) {
                let is_right = match (index, at, record.name) {
                    (0, 0, b".") => record.inode == number,
                    (0, 1, b"..") => {
                        parent = Some(record.inode);
                        true
                    }
                    (0, 0 | 1, _) | (_, _, b"." | b"..") => false,
                    _ => true,
                };
                if !is_right {
                    return Err(corrupt(format!("folder {number}"), "it begins with itself and the folder above, once"));
                }
            }
        }
        parent.ok_or_else(|| corrupt(format!("folder {number}"), "it begins with itself and the folder above, once"))
    }
}

/// The most inodes in use: a mebibyte of them, as a rule.
const MOST_INODES: u32 = 4096;
/// The most groups: their bitmaps are read.
const MOST_GROUPS: u32 = 512;
/// The most blocks that list others, the most runs that they list, and the most blocks of folders.
const MOST_NODES: u64 = 4096;
const MOST_PIECES: u64 = 1 << 20;
const MOST_FOLDER_BLOCKS: u64 = 4096;
