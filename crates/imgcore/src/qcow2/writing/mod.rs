//! Writing in place.
//!
//! Guest data goes to its cluster at once; tables are changed in memory and stored together, in an order that leaves the old
//! or the new content after a power cut at any write:
//!
//! ```text
//! data, refcount blocks | refcount table | L2 tables | L1 table | header | refcounts of what is free now
//!                       ^                ^           ^          ^        ^                         flushes
//! ```
//!
//! A cluster that is given up stays taken until nothing stored refers to it any more; leaked clusters are the only trace that a
//! cut can leave.

mod compressed;
mod data_file;
mod guest;
mod preallocate;
mod refcounts;
mod resize;
mod shrink;
mod store;
mod zeroes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::refcounts::Refcounts;
use super::offset::{HostOffset, to_u64};

/// What writing has changed and not stored yet.
#[derive(Debug)]
pub(super) struct Writing {
    refcounts: Refcounts,
    /// Changed L2 tables by their L1 index.
    tables: BTreeMap<u64, StagedTable>,
    /// Changed entries of the L1 table.
    l1_changed: BTreeSet<u64>,
    /// Whether the L1 table is a new one, which the header does not name yet.
    l1_moved: bool,
    /// Whether the header's size or L1 table differs from what is stored.
    header_changed: bool,
    /// Whether the tables are for a larger disk, which the header must not name before they are whole.
    growing: bool,
    /// Clusters, by index, that lose a reference once nothing stored refers to them.
    freed: Vec<u64>,
    /// Behind the last cluster that was allocated: the storage may end before it until all is stored.
    allocated_end: u64,
    /// Where the next compressed cluster may begin, in the middle of a cluster that holds others.
    compressed_end: Option<HostOffset>,
}

#[derive(Debug)]
struct StagedTable {
    host: HostOffset,
    words: Arc<Vec<u64>>,
}

impl Writing {
    fn new(refcounts: Refcounts) -> Self {
        Self {
            refcounts,
            tables: BTreeMap::new(),
            l1_changed: BTreeSet::new(),
            l1_moved: false,
            header_changed: false,
            growing: false,
            freed: Vec::new(),
            allocated_end: 0,
            compressed_end: None,
        }
    }

    /// Returns the changed L2 table for the L1 entry `index`.
    pub(super) fn table(&self, index: u64) -> Option<Arc<Vec<u64>>> {
        self.tables.get(&index).map(|table| Arc::clone(&table.words))
    }

    /// Returns the bytes that wait to be stored, roughly.
    fn waiting(&self, cluster_size: u64) -> u64 {
        let tables = to_u64(self.tables.len()).saturating_mul(cluster_size);
        tables.saturating_add(self.refcounts.waiting()).saturating_add(to_u64(self.freed.len()).saturating_mul(8))
    }
}
