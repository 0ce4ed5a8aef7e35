use crate::block::BlockRead;
use crate::fs::Error;
use crate::fs::ext4::blockmap::read_map;
use crate::fs::ext4::budget::Budget;
use crate::fs::ext4::edit::load_inode_map;
use crate::fs::ext4::error::refused;
use crate::fs::ext4::extent::read_tree;
use crate::fs::ext4::group::INODE_UNINIT;
use crate::fs::ext4::inode::{EXTENTS_FLAG, ROOT_INODE};
use crate::fs::ext4::volume::{Volume, has_tree};

/// Checks that no file has blocks behind the end, where new ones are about to be: they would be its own and free at once.
///
/// # Errors
///
/// [`Error::Corrupt`] names the first inode that breaks a rule.
pub(super) fn check_maps<D: BlockRead>(volume: &Volume<D>) -> Result<(), Error> {
    let layout = volume.layout();
    let mut budget = Budget::of_all(layout);
    for number in 0..layout.groups {
        let group = volume.group(number)?;
        if group.has(INODE_UNINIT) || group.free_inodes == layout.inodes_per_group {
            continue;
        }
        let map = load_inode_map(volume, number)?;
        let before = number.saturating_mul(layout.inodes_per_group);
        let used = layout.inodes_per_group.saturating_sub(group.itable_unused);
        for index in (0..used).filter(|index| map.get(*index)) {
            let inode = before.saturating_add(index).saturating_add(1);
            if inode < layout.first_inode && inode != ROOT_INODE {
                continue;
            }
            let inode = volume.inode(inode)?;
            if inode.raw.i_links_count.get() == 0 || !has_tree(&inode, inode.kind()?) {
                continue;
            }
            let is_tree = inode.has_flag(EXTENTS_FLAG);
            let tree = if is_tree { read_tree(&volume.store, &inode)? } else { read_map(&volume.store, &inode)? };
            if !budget.spend(&tree) {
                return Err(refused("has files of more pieces than are looked at, or that share blocks: e2fsck tells"));
            }
        }
    }
    Ok(())
}
