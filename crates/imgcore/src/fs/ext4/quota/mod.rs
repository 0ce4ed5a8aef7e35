//! Quota: how many bytes and inodes each user, group and project has.
//!
//! Each of the three has a file without a name, which the superblock tells. Its blocks have 1024 bytes, whatever the file system's
//! have.
//!
//! ```text
//! block 0        | magic, version | grace times, flags | blocks of the file | first empty block | first block with room |
//! block 1        | 256 references, by bits 24-31 of an id |      the root of a tree of 4 levels
//! others         | 256 references, by bits 16-23, 8-15 or 0-7 |  the last level refers to blocks of entries
//!                | next and previous block with room | entries in use | 14 entries of 72 bytes |
//!                | next empty block |
//! ```
//!
//! An entry of zeros is unused. The file is read and checked whole: it has 72 bytes for each id, and 7 KiB where root has all.
//!
//! Spec: quota-tools, "Disk quota system for Linux", the V0 format and, with 64 bits, V1; `struct v2_disk_dqheader`,
//! `v2_disk_dqinfo`, `qt_disk_dqdbheader` and `v2r1_disk_dqblk` of the kernel's headers.

mod blocks;
mod check;
mod entry;
mod file;
mod owner;
#[cfg(test)]
mod tests;
mod verify;

pub(super) use self::blocks::BLOCK;
pub(super) use self::file::QuotaFile;
pub(super) use self::owner::{Owners, counted_inodes, counts};
pub(super) use self::verify::check_usage;

use super::error::{corrupt, refused};
use super::extent::{ExtentTree, FileExtent};
use super::feature::QUOTA;
use super::superblock::RawSuperblock;
use super::volume::Volume;
use crate::block::BlockRead;
use crate::fs::{Error, FileKind};

/// What the ids of a quota file are.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    User,
    Group,
    Project,
}

impl Kind {
    /// Spec: `V2_INITQMAGICS`.
    fn magic(self) -> u32 {
        match self {
            Self::User => 0xD9C0_1F11,
            Self::Group => 0xD9C0_1927,
            Self::Project => 0xD9C0_3F14,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::User => "users",
            Self::Group => "groups",
            Self::Project => "projects",
        }
    }
}

/// What an id has, or a change to that.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Usage {
    /// Bytes.
    pub(super) space: i128,
    pub(super) inodes: i128,
}

impl Usage {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { space: self.space.saturating_add(other.space), inodes: self.inodes.saturating_add(other.inodes) }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self { space: self.space.saturating_sub(other.space), inodes: self.inodes.saturating_sub(other.inodes) }
    }

    pub(super) fn is_negative(self) -> bool {
        self.space < 0 || self.inodes < 0
    }
}

/// Returns the quota files that a file system has: what their ids are, and their inodes.
pub(super) fn quota_inodes(raw: &RawSuperblock) -> Vec<(Kind, u32)> {
    let all = [
        (Kind::User, raw.s_usr_quota_inum.get()),
        (Kind::Group, raw.s_grp_quota_inum.get()),
        (Kind::Project, raw.s_prj_quota_inum.get()),
    ];
    all.into_iter().filter(|(_, number)| raw.has_ro_compat(QUOTA) && *number != 0).collect()
}

/// Reads and checks a quota file.
pub(super) fn read_quota<D: BlockRead>(volume: &Volume<D>, kind: Kind, number: u32) -> Result<QuotaFile, Error> {
    let place = format!("quota file of {}, inode {number}", kind.name());
    let inode = volume.inode(number)?;
    let is_alone = quota_inodes(&volume.raw).iter().filter(|(_, other)| *other == number).count() == 1;
    if !is_alone || inode.raw.i_links_count.get() == 0 || inode.kind()? != FileKind::File {
        return Err(corrupt(place, "it is a regular file of its own"));
    }
    if inode.size() > LARGEST {
        return Err(refused(format!("has a {place}, of more than {} MiB, which is not supported", LARGEST >> 20)));
    }
    let tree = volume.tree(&inode)?;
    let needed = inode.size().div_ceil(volume.layout().block_size.into());
    let has_all = tree.extents.last().map_or(0, FileExtent::logical_end) == needed;
    let blocks =
        blocks_of(&tree).filter(|_| has_all).ok_or_else(|| corrupt(place.clone(), "it has no holes and all its blocks"))?;
    let mut bytes = vec![0; usize::try_from(inode.size()).unwrap_or_default()];
    for (chunk, block) in bytes.chunks_mut(volume.layout().block_bytes()).zip(blocks) {
        let stored = volume.store.block(block)?;
        chunk.copy_from_slice(stored.get(..chunk.len()).unwrap_or_default());
    }
    QuotaFile::decode(kind, place, &bytes)
}

/// Returns the blocks of a file, first to last, or `None` when some are missing between them.
pub(super) fn blocks_of(tree: &ExtentTree) -> Option<impl Iterator<Item = u64> + '_> {
    let mut next = 0;
    for extent in &tree.extents {
        if u64::from(extent.logical) != next || extent.unwritten {
            return None;
        }
        next = extent.logical_end();
    }
    let all = tree.extents.iter();
    Some(all.flat_map(|extent| extent.physical..extent.physical.saturating_add(u64::from(extent.len))))
}

/// The most bytes of a quota file that are read: 900,000 ids.
const LARGEST: u64 = 64 << 20;
