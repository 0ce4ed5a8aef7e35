//! How much of the image's file its refcounts say is in use.

use std::collections::HashSet;

use super::error::{Corrupt, Error};
use super::image::Image;
use super::offset::{HostOffset, to_usize};
use super::refcount_block;
use super::table::{read_stored, read_words, word_offset};
use crate::block::BlockRead;

impl<S: BlockRead> Image<S> {
    /// Returns whether at least `least` clusters of the image's file have a refcount that is not zero.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the refcount table names something that is no block, [`Error::Storage`].
    pub fn uses_clusters(&self, least: u64) -> Result<bool, Error> {
        let geometry = self.geometry();
        let clusters = geometry.clusters(self.storage.size());
        let per_block = geometry.refcount_block_entries();
        let stored = geometry.words(self.header.refcount_table_clusters);
        let entries = clusters.div_ceil(per_block).min(stored);
        let table = read_words(&self.storage, "refcount table", self.header.refcount_table_offset, entries)?;
        let mut seen = HashSet::new();
        let mut block = vec![0; geometry.cluster_len()];
        let mut used = 0_u64;
        for (word, index) in table.iter().zip(0_u64..) {
            let offset = *word & OFFSET;
            let at = word_offset(self.header.refcount_table_offset, index);
            // Spec: "Must be aligned to a cluster boundary."
            if !geometry.is_aligned(offset) {
                return Err(Corrupt::new("refcount table entry", at, "the block's offset is not the start of a cluster").into());
            }
            if offset == 0 || self.lies_in_hole(HostOffset(offset))? {
                continue;
            }
            if !seen.insert(offset) {
                return Err(Corrupt::new("refcount table entry", at, "the block is named twice").into());
            }
            read_stored(&self.storage, "refcount block", HostOffset(offset), &mut block)?;
            let inside = clusters.saturating_sub(index.saturating_mul(per_block)).min(per_block);
            for cluster in 0..to_usize(inside) {
                used = used.saturating_add(u64::from(refcount_block::get(&block, cluster, geometry.refcount_order) != 0));
            }
            if used >= least {
                return Ok(true);
            }
        }
        Ok(used >= least)
    }
}

/// Bits 9-63.
const OFFSET: u64 = !511;
