use super::{Kind, Usage, quota_inodes};
use crate::block::BlockRead;
use crate::fs::ext4::inode::{Inode, ROOT_INODE};
use crate::fs::ext4::superblock::RawSuperblock;
use crate::fs::ext4::volume::Volume;

/// Whom an inode counts for, and what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::fs::ext4) struct Owners {
    user: u32,
    group: u32,
    project: u32,
    pub(in crate::fs::ext4) usage: Usage,
}

impl Owners {
    pub(in crate::fs::ext4) fn of<D: BlockRead>(volume: &Volume<D>, inode: &Inode) -> Self {
        let unit = if inode.counts_blocks() { volume.layout().block_size } else { 512 };
        let space = i128::from(inode.blocks()).saturating_mul(unit.into());
        Self { user: inode.uid(), group: inode.gid(), project: inode.project(), usage: Usage { space, inodes: 1 } }
    }

    pub(in crate::fs::ext4) fn id(&self, kind: Kind) -> u32 {
        match kind {
            Kind::User => self.user,
            Kind::Group => self.group,
            Kind::Project => self.project,
        }
    }

    /// Returns whether both are of the same user, group and project.
    pub(in crate::fs::ext4) fn are_those_of(&self, other: &Self) -> bool {
        (self.user, self.group, self.project) == (other.user, other.group, other.project)
    }
}

/// Returns whether an inode counts: the root and all that is not reserved, but not the files that the file system has of its own.
pub(in crate::fs::ext4) fn counts(raw: &RawSuperblock, number: u32) -> bool {
    let is_own = quota_inodes(raw).iter().any(|(_, quota)| *quota == number) || raw.s_orphan_file_inum.get() == number;
    number == ROOT_INODE || (number >= raw.first_inode() && !is_own)
}

/// Returns how many inodes in use count.
pub(in crate::fs::ext4) fn counted_inodes(raw: &RawSuperblock) -> i128 {
    let in_use = i128::from(raw.s_inodes_count.get()).saturating_sub(raw.s_free_inodes_count.get().into());
    // The reserved ones are in use, too.
    let reserved = raw.first_inode().saturating_sub(1);
    let own = quota_inodes(raw).into_iter().map(|(_, number)| number).chain([raw.s_orphan_file_inum.get()]);
    let own = own.filter(|number| *number > reserved).count();
    let others = i128::from(reserved.saturating_sub(1)).saturating_add(i128::try_from(own).unwrap_or_default());
    in_use.saturating_sub(others)
}
