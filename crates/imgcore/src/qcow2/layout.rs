use super::error::{Error, Unsupported};
use super::geometry::Geometry;
use super::header::MAX_REFCOUNT_TABLE;

/// Where a new image's structures lie, in clusters.
///
/// ```text
/// | header | refcount table | refcount blocks | L1 table | L2 tables | clusters …
/// 0        1                blocks            l1         l2          data
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    pub(super) table_clusters: u64,
    pub(super) block_count: u64,
    pub(super) l1_clusters: u64,
    /// The most L2 tables.
    pub(super) l2_count: u64,
    /// The first cluster for guest data.
    pub(super) data: u64,
}

impl Layout {
    /// Returns the layout for at most `l2_count` L2 tables and `data_count` clusters of data.
    pub(super) fn plan(geometry: Geometry, l1_entries: u64, l2_count: u64, data_count: u64) -> Result<Self, Error> {
        let l1_clusters = geometry.clusters(l1_entries.saturating_mul(8)).max(1);
        let other = 1_u64.saturating_add(l1_clusters).saturating_add(l2_count);
        let mut layout = Self { table_clusters: 1, block_count: 1, l1_clusters, l2_count, data: 0 };
        // Each round only adds; the sums grow by less than an eighth per round, so this ends after a few.
        loop {
            layout.data = other.saturating_add(layout.table_clusters).saturating_add(layout.block_count);
            let total = layout.data.saturating_add(data_count);
            let blocks = total.div_ceil(geometry.refcount_block_entries());
            let table = geometry.clusters(blocks.saturating_mul(8));
            if table.saturating_mul(geometry.cluster_size()) > MAX_REFCOUNT_TABLE {
                return Err(Unsupported::TooLarge("refcount table", MAX_REFCOUNT_TABLE).into());
            }
            if blocks <= layout.block_count && table <= layout.table_clusters {
                return Ok(layout);
            }
            layout.block_count = layout.block_count.max(blocks);
            layout.table_clusters = layout.table_clusters.max(table);
        }
    }

    /// Returns the first refcount block's cluster.
    pub(super) fn blocks(&self) -> u64 {
        self.table_clusters.saturating_add(1)
    }

    /// Returns the L1 table's first cluster.
    pub(super) fn l1(&self) -> u64 {
        self.blocks().saturating_add(self.block_count)
    }

    /// Returns the first L2 table's cluster.
    pub(super) fn l2(&self) -> u64 {
        self.l1().saturating_add(self.l1_clusters)
    }
}

#[cfg(test)]
mod tests {
    use super::{Geometry, Layout};

    #[test]
    fn the_blocks_count_every_cluster_and_themselves() {
        for cluster_bits in [9, 12, 16, 21] {
            for refcount_order in [0, 4, 6] {
                let geometry = Geometry { cluster_bits, extended_l2: false, refcount_order };
                for data in [0, 1, 63, 64, 4000, 100_000] {
                    let layout = Layout::plan(geometry, 5, 3, data).unwrap();
                    assert!(layout.block_count * geometry.refcount_block_entries() >= layout.data + data);
                    assert!(layout.table_clusters * geometry.cluster_size() / 8 >= layout.block_count);
                    assert_eq!(layout.l2() + layout.l2_count, layout.data);
                }
            }
        }
        let tiny = Geometry { cluster_bits: 9, extended_l2: false, refcount_order: 6 };
        Layout::plan(tiny, 5, 3, 1 << 30).unwrap_err();
    }
}
