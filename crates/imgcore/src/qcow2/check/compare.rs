//! References held against refcounts.

use std::collections::HashMap;

use super::stored::{Block, are_ones, tally};
use super::walk::Walk;
use crate::block::BlockRead;
use crate::qcow2::error::Error;
use crate::qcow2::offset::to_usize;
use crate::qcow2::refcount_block;

/// What a whole block counts: how many clusters, and the last of them.
type Tallies = HashMap<u64, (u64, Option<u64>)>;

impl<S: BlockRead> Walk<'_, S> {
    /// Compares every cluster of the file. `low` is told which have a refcount that is too small, and that refcount.
    ///
    /// Returns the index behind the last cluster in use.
    pub(super) fn compare(&mut self, low: &mut dyn FnMut(u64, u64)) -> Result<u64, Error> {
        let clusters = self.geometry.clusters(self.image.storage.size());
        let entries = self.geometry.refcount_block_entries();
        let mut tallies = Tallies::new();
        let mut end = 0;
        let mut index = 0_u64;
        while let Some(next) = self.next_block(index, clusters) {
            let first = next.saturating_mul(entries);
            let count = entries.min(clusters.saturating_sub(first));
            let used = match self.stored.block(next)? {
                Block::Misaligned => {
                    self.findings.unreadable(first, count);
                    None
                }
                Block::Zeros => self.compare_part(&[], first, count, low),
                Block::Counts(bytes) => {
                    let empty = self.counts.next_page(first).is_none_or(|(page, _)| page >= first.saturating_add(count));
                    let whole = count == entries && empty && !self.findings.keeps_lines();
                    if whole {
                        let offset = self.stored.offset(next);
                        let order = self.geometry.refcount_order;
                        let (leaks, last) = *tallies.entry(offset).or_insert_with(|| tally(&bytes, order, entries));
                        self.findings.further_leaks(leaks);
                        last.map(|last| first.saturating_add(last))
                    } else {
                        self.compare_part(&bytes, first, count, low)
                    }
                }
            };
            end = used.map_or(end, |last| last.saturating_add(1));
            index = next.saturating_add(1);
        }
        Ok(end)
    }

    /// Returns the next block from `index` on that is there or has references in its area.
    fn next_block(&self, index: u64, clusters: u64) -> Option<u64> {
        let entries = self.geometry.refcount_block_entries();
        let tail = self.stored.table.get(to_usize(index)..).unwrap_or_default();
        let stored = tail.iter().position(|word| word & super::stored::OFFSET != 0);
        let stored = stored.map(|at| index.saturating_add(crate::qcow2::offset::to_u64(at)));
        let referred = self.counts.next_page(index.saturating_mul(entries));
        let referred = referred.map(|(cluster, _)| cluster.wrapping_shr(entries.trailing_zeros()));
        let next = stored.into_iter().chain(referred).min()?;
        (next.saturating_mul(entries) < clusters).then_some(next)
    }

    /// Compares `count` clusters from `first` on with the refcounts in `block`, which are 0 where it is empty. Returns the last
    /// cluster in use.
    fn compare_part(&mut self, block: &[u8], first: u64, count: u64, low: &mut dyn FnMut(u64, u64)) -> Option<u64> {
        let order = self.geometry.refcount_order;
        let mut last = None;
        let mut place = 0_u64;
        while place < count {
            let cluster = first.saturating_add(place);
            if block.is_empty() {
                // Nothing is stored: on to the next reference.
                let (next, _) = self.counts.next_page(cluster)?;
                place = place.max(next.saturating_sub(first));
                if place >= count {
                    break;
                }
            }
            let here = count.saturating_sub(place).min(STEP);
            let cluster = first.saturating_add(place);
            let sound = are_ones(block, to_usize(place), to_usize(here), order) && self.counts.all_ones(cluster, here);
            if sound {
                last = Some(cluster.saturating_add(here).saturating_sub(1));
            } else {
                for place in place..place.saturating_add(here) {
                    let stored = refcount_block::get(block, to_usize(place), order);
                    last = self.compare_one(first.saturating_add(place), stored, low).or(last);
                }
            }
            place = place.saturating_add(here);
        }
        last
    }

    /// Returns the cluster if it is in use.
    fn compare_one(&mut self, cluster: u64, stored: u64, low: &mut dyn FnMut(u64, u64)) -> Option<u64> {
        let references = self.counts.get(cluster);
        if stored > references {
            self.findings.leak(|| format!("Leaked cluster {cluster} refcount={stored} reference={references}"));
        } else if stored < references {
            low(cluster, stored);
            self.findings.corruption(|| format!("ERROR cluster {cluster} refcount={stored} reference={references}"));
        }
        (stored > 0 || references > 0).then_some(cluster)
    }
}

/// Clusters that are compared at a time.
const STEP: u64 = 512;
