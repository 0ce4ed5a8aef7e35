//! Refcounts in another width: the blocks are made anew.

use std::collections::BTreeSet;

use super::{NewRefcounts, split};
use crate::block::{BlockRead, Resize};
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::offset::{to_u64, to_usize};
use crate::qcow2::refcount_block;
use crate::qcow2::table::is_zero;

impl NewRefcounts<'_> {
    /// Fills a block with the stored refcounts in the new width.
    pub(super) fn convert_block<S: BlockRead>(&mut self, storage: &S, index: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let (entries, order, max) = (self.new.refcount_block_entries(), self.new.refcount_order, self.new.refcount_max());
        let first = index.saturating_mul(entries);
        let mut fits = true;
        self.each_counted(storage, first, first.saturating_add(entries), |cluster, count| {
            fits &= count <= max;
            refcount_block::set(bytes, to_usize(cluster.saturating_sub(first)), order, count);
        })?;
        if fits { Ok(()) } else { Err(Unsupported::References(self.new.refcount_bits()).into()) }
    }

    /// Copies every refcount into the new width.
    pub(super) fn convert_all<S: Resize>(&mut self, storage: &mut S) -> Result<(), Error> {
        let (old, new) = (self.old.refcount_block_entries(), self.new.refcount_block_entries());
        for index in 0..to_u64(self.old_table.len()) {
            let Some(block) = self.block_offset(&self.old_table, index)? else { continue };
            let first = index.saturating_mul(old);
            let mut needed = BTreeSet::new();
            self.each_counted(storage, first, first.saturating_add(old), |cluster, _| {
                needed.insert(cluster.checked_div(new).unwrap_or(0));
            })?;
            for index in needed {
                self.change(storage, index.saturating_mul(new), 0)?;
            }
            self.change(storage, self.old.index(block.0), -1)?;
        }
        Ok(())
    }

    /// Calls `each` with every cluster from `first` to before `end` that has references, and their number as it is stored.
    fn each_counted<S: BlockRead>(
        &mut self,
        storage: &S,
        first: u64,
        end: u64,
        mut each: impl FnMut(u64, u64),
    ) -> Result<(), Error> {
        let (old, order) = (self.old, self.old.refcount_order);
        let mut cluster = first;
        while cluster < end {
            let (index, place) = split(old, cluster);
            if index >= to_u64(self.old_table.len()) {
                break;
            }
            let rest = old.refcount_block_entries().saturating_sub(to_u64(place));
            let stop = end.min(cluster.saturating_add(rest));
            if let Some(bytes) = self.look_at(storage, index)? {
                each_in_block(bytes, order, place, stop.saturating_sub(cluster), |skipped, count| {
                    each(cluster.saturating_add(skipped), count);
                });
            }
            cluster = stop;
        }
        Ok(())
    }
}

/// Calls `each` with every refcount that is not 0 of the `count` from `place` on: how many are before it, and what it is.
fn each_in_block(block: &[u8], order: u32, place: usize, count: u64, mut each: impl FnMut(u64, u64)) {
    // Most of a block is zeros.
    let group = 512_usize.wrapping_shr(order);
    let end = place.saturating_add(to_usize(count));
    let mut at = place;
    while at < end {
        let stop = at.saturating_add(1).next_multiple_of(group).min(end);
        let bytes = at.wrapping_shl(order).wrapping_shr(3)..stop.wrapping_shl(order).div_ceil(8);
        if !block.get(bytes).is_some_and(is_zero) {
            for at in at..stop {
                let refcount = refcount_block::get(block, at, order);
                if refcount > 0 {
                    each(to_u64(at.saturating_sub(place)), refcount);
                }
            }
        }
        at = stop;
    }
}
