use std::collections::BTreeMap;

use super::Editor;
use super::quota::Changes;
use crate::block::BlockRead;
use crate::fs::Error;
use crate::fs::ext4::error::refused;
use crate::fs::ext4::quota::{Kind, Owners, counts};

impl<D: BlockRead> Editor<D> {
    /// Counts what every user, group and project has, by a look at every inode that is in use.
    pub(super) fn count_all(&mut self, kinds: impl Iterator<Item = Kind>) -> Result<BTreeMap<Kind, Changes>, Error> {
        let layout = *self.volume.layout();
        let in_use = layout.inodes_count.saturating_sub(self.volume.raw.s_free_inodes_count.get());
        if in_use > MOST_INODES {
            return Err(refused(format!(
                "counts quota wrongly, and {MOST_INODES} inodes are the most that are counted: run e2fsck"
            )));
        }
        let mut all: BTreeMap<Kind, Changes> = kinds.map(|kind| (kind, Changes::new())).collect();
        for group in 0..layout.groups {
            let map = self.inode_map(group)?.clone();
            let before = group.saturating_mul(layout.inodes_per_group);
            for index in (0..layout.inodes_per_group).filter(|index| map.get(*index)) {
                let number = before.saturating_add(index).saturating_add(1);
                if !counts(&self.volume.raw, number) {
                    continue;
                }
                let inode = self.volume.inode(number)?;
                if inode.raw.i_links_count.get() == 0 {
                    continue;
                }
                let owners = Owners::of(&self.volume, &inode);
                for (kind, ids) in &mut all {
                    let sum = ids.entry(owners.id(*kind)).or_default();
                    *sum = sum.plus(owners.usage);
                }
            }
        }
        Ok(all)
    }
}

/// The most inodes that are counted: a few seconds.
const MOST_INODES: u32 = 1 << 22;
