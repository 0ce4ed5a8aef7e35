use std::collections::BTreeMap;

use super::{Owners, Usage, counted_inodes, counts, quota_inodes, read_quota};
use crate::block::BlockRead;
use crate::fs::Error;
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::feature::EA_INODE;
use crate::fs::ext4::inode::Inode;
use crate::fs::ext4::volume::Volume;

/// Checks the quota files of a file system that was changed: they are sound, tell of all inodes that are in use, and have at least
/// what the `planned` files take for each id.
pub(in crate::fs::ext4) fn check_usage<'a, D: BlockRead>(
    volume: &Volume<D>,
    planned: impl Iterator<Item = &'a Inode>,
) -> Result<(), Error> {
    let planned: BTreeMap<u32, Owners> = planned
        .filter(|inode| counts(&volume.raw, inode.number))
        .map(|inode| (inode.number, Owners::of(volume, inode)))
        .collect();
    for (kind, number) in quota_inodes(&volume.raw) {
        let file = read_quota(volume, kind, number)?;
        // Values that have inodes of their own count for each of their users.
        if volume.raw.has_incompat(EA_INODE) {
            continue;
        }
        let bad = |rule: String| corrupt(format!("quota file of {}, inode {number}", kind.name()), rule);
        let total: i128 = file.usage().values().map(|usage| usage.inodes).sum();
        if total != counted_inodes(&volume.raw) {
            return Err(bad("it counts all inodes that are in use".to_owned()));
        }
        let mut least: BTreeMap<u32, Usage> = BTreeMap::new();
        for owners in planned.values() {
            let sum = least.entry(owners.id(kind)).or_default();
            *sum = sum.plus(owners.usage);
        }
        for (id, least) in least {
            let counted = file.usage().get(&id).copied().unwrap_or_default();
            if counted.minus(least).is_negative() {
                return Err(bad(format!("{id} has at least what its planned files take")));
            }
        }
    }
    Ok(())
}
