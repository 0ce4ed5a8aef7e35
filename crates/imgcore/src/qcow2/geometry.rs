use super::offset::{GuestOffset, to_usize};

/// The units of an image, and where a guest offset lies in its tables.
///
/// ```text
/// guest offset   | L1 index | L2 index | within the cluster |
///                                        ^ cluster_bits
///                           ^ cluster_bits - 3, or - 4 with extended entries
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Geometry {
    /// 9 to 21.
    pub(super) cluster_bits: u32,
    /// Whether L2 entries are 16 bytes with 32 subclusters.
    pub(super) extended_l2: bool,
    /// 0 to 6.
    pub(super) refcount_order: u32,
}

impl Geometry {
    /// Returns the bytes of a cluster.
    pub(super) fn cluster_size(self) -> u64 {
        1_u64.wrapping_shl(self.cluster_bits)
    }

    /// Returns the bytes of a cluster, for buffers.
    pub(super) fn cluster_len(self) -> usize {
        to_usize(self.cluster_size())
    }

    /// Returns the number of parts of a cluster that are allocated on their own.
    pub(super) fn subclusters(self) -> u32 {
        if self.extended_l2 { 32 } else { 1 }
    }

    /// Returns the bytes of such a part.
    pub(super) fn subcluster_size(self) -> u64 {
        if self.extended_l2 { self.cluster_size().wrapping_shr(5) } else { self.cluster_size() }
    }

    /// Returns the 64-bit words of an L2 entry.
    pub(super) fn l2_words(self) -> u64 {
        if self.extended_l2 { 2 } else { 1 }
    }

    fn l2_bits(self) -> u32 {
        self.cluster_bits.saturating_sub(if self.extended_l2 { 4 } else { 3 })
    }

    /// Returns the entries of an L2 table.
    pub(super) fn l2_entries(self) -> u64 {
        1_u64.wrapping_shl(self.l2_bits())
    }

    /// Returns the bytes of the disk that one L2 table maps.
    pub(super) fn l2_span(self) -> u64 {
        1_u64.wrapping_shl(self.cluster_bits.saturating_add(self.l2_bits()))
    }

    /// Returns the index of the L1 entry.
    pub(super) fn l1_index(self, guest: GuestOffset) -> u64 {
        guest.0.wrapping_shr(self.cluster_bits.saturating_add(self.l2_bits()))
    }

    /// Returns the index of the entry in its L2 table.
    pub(super) fn l2_index(self, guest: GuestOffset) -> u64 {
        guest.0.wrapping_shr(self.cluster_bits) & self.l2_entries().saturating_sub(1)
    }

    /// Returns the bytes between the start of the cluster and `offset`.
    pub(super) fn within(self, offset: u64) -> u64 {
        offset & self.cluster_size().saturating_sub(1)
    }

    /// Returns the index of the subcluster.
    pub(super) fn subcluster(self, offset: u64) -> u32 {
        let index = self.within(offset).checked_div(self.subcluster_size()).unwrap_or(0);
        u32::try_from(index).unwrap_or(0)
    }

    /// Returns the start of the cluster.
    pub(super) fn align_down(self, offset: u64) -> u64 {
        offset.saturating_sub(self.within(offset))
    }

    /// Returns whether `offset` is the start of a cluster.
    pub(super) fn is_aligned(self, offset: u64) -> bool {
        self.within(offset) == 0
    }

    /// Returns how many clusters `bytes` need.
    pub(super) fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// Returns the index of the cluster that holds `offset`.
    pub(super) fn index(self, offset: u64) -> u64 {
        offset.wrapping_shr(self.cluster_bits)
    }

    /// Returns the offset of the cluster `index`, or `None` beyond 64 bits.
    pub(super) fn offset(self, index: u64) -> Option<u64> {
        index.checked_mul(self.cluster_size())
    }

    /// Returns the L1 entries that a disk of `size` bytes needs.
    pub(super) fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_span())
    }

    /// Returns the bits of a refcount.
    pub(super) fn refcount_bits(self) -> u32 {
        1_u32.wrapping_shl(self.refcount_order)
    }

    /// Returns the largest refcount.
    pub(super) fn refcount_max(self) -> u64 {
        u64::MAX.wrapping_shr(64_u32.saturating_sub(self.refcount_bits()))
    }

    /// Returns the refcounts of a refcount block.
    pub(super) fn refcount_block_entries(self) -> u64 {
        1_u64.wrapping_shl(self.cluster_bits.saturating_add(3).saturating_sub(self.refcount_order))
    }

    /// Returns the entries of `clusters` clusters of a table of 64-bit words.
    pub(super) fn words(self, clusters: u64) -> u64 {
        clusters.saturating_mul(self.cluster_size()).wrapping_shr(3)
    }
}

#[cfg(test)]
mod tests {
    use super::{Geometry, GuestOffset};

    #[test]
    fn a_guest_offset_is_split_as_the_specification_says() {
        let plain = Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4 };
        assert_eq!((plain.l2_entries(), plain.l2_span()), (8192, 512 << 20));
        let guest = GuestOffset((3 << 29) + (5 << 16) + 7);
        assert_eq!((plain.l1_index(guest), plain.l2_index(guest), plain.within(guest.0)), (3, 5, 7));
        assert_eq!((plain.refcount_block_entries(), plain.refcount_max()), (32768, 65535));
        let extended = Geometry { extended_l2: true, refcount_order: 6, ..plain };
        assert_eq!((extended.l2_entries(), extended.subcluster_size()), (4096, 2048));
        assert_eq!((extended.subcluster(guest.0 + 4096), extended.refcount_max()), (2, u64::MAX));
        let bit = Geometry { refcount_order: 0, ..plain };
        assert_eq!((bit.refcount_max(), bit.refcount_block_entries()), (1, 524_288));
    }
}
