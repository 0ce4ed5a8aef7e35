//! Entries of the L1 and L2 tables.

use super::error::Corrupt;
use super::geometry::Geometry;
use super::offset::HostOffset;

/// What an L2 entry says about its cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    Standard(Standard),
    Compressed { start: HostOffset, len: u64 },
}

/// A standard cluster. Without extended entries it is a single subcluster.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Standard {
    /// Where the cluster is, when there is one.
    pub(super) host: Option<HostOffset>,
    /// Whether nothing else refers to it.
    pub(super) copied: bool,
    /// Subclusters whose bytes are at `host`, one bit each.
    pub(super) allocated: u32,
    /// Subclusters that read as zeros, one bit each.
    pub(super) zero: u32,
}

/// What the bytes of one subcluster are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SubclusterKind {
    /// As in the backing disk.
    Unallocated,
    /// Zeros.
    Zero,
    /// As in the host cluster.
    Allocated,
}

impl Standard {
    /// Returns what the bytes of subcluster `first` are, and the first subcluster behind it that differs or is in the next cluster.
    pub(super) fn run(&self, first: u32, geometry: Geometry) -> (SubclusterKind, u32) {
        let kind = self.kind(first);
        let mut next = first.saturating_add(1);
        while next < geometry.subclusters() && self.kind(next) == kind {
            next = next.saturating_add(1);
        }
        (kind, next)
    }

    pub(super) fn kind(&self, subcluster: u32) -> SubclusterKind {
        let bit = 1_u32.wrapping_shl(subcluster);
        if self.zero & bit != 0 {
            SubclusterKind::Zero
        } else if self.allocated & bit != 0 {
            SubclusterKind::Allocated
        } else {
            SubclusterKind::Unallocated
        }
    }
}

impl Entry {
    /// Reads an entry from its words; the second is 0 without extended entries. `at` is where it is stored.
    ///
    /// `external` says that guest clusters are in a data file of their own.
    pub(super) fn decode(words: [u64; 2], geometry: Geometry, external: bool, at: u64) -> Result<Self, Corrupt> {
        let corrupt = |rule| Corrupt::new("L2 entry", at, rule);
        let [word, bitmap] = words;
        if word & COMPRESSED != 0 {
            if external {
                // Spec: "neither compressed clusters nor internal snapshots are supported" with an external data file.
                return Err(corrupt("a compressed cluster beside an external data file"));
            }
            return Ok(Self::compressed(word, geometry));
        }
        let offset = word & OFFSET;
        // Spec: "Bits 9-55 of host cluster offset. Must be aligned to a cluster boundary."
        if !geometry.is_aligned(offset) {
            return Err(corrupt("the host offset is not the start of a cluster"));
        }
        let copied = word & COPIED != 0;
        // Spec: "The offset may only be 0 with bit 63 set (indicating a host cluster offset of 0) when an external data file
        // is used."
        let host = (offset != 0 || (external && copied)).then_some(HostOffset(offset));
        if !geometry.extended_l2 {
            let zero = u32::from(word & ZERO != 0);
            let allocated = if host.is_some() { 1_u32.saturating_sub(zero) } else { 0 };
            return Ok(Self::Standard(Standard { host, copied, allocated, zero }));
        }
        let (allocated, zero) = split(bitmap);
        // Spec: "1: the subcluster reads as zeros. In this case the allocation status bit must be unset."
        if allocated & zero != 0 {
            return Err(corrupt("a subcluster is both allocated and zero"));
        }
        // Spec: "1: the subcluster is allocated. In this case the host cluster offset field must contain a valid offset."
        if allocated != 0 && host.is_none() {
            return Err(corrupt("a subcluster is allocated in no cluster"));
        }
        Ok(Self::Standard(Standard { host, copied, allocated, zero }))
    }

    /// Spec: "Compressed Clusters Descriptor (x = 62 - (cluster_bits - 8))"
    fn compressed(word: u64, geometry: Geometry) -> Self {
        let x = 70_u32.saturating_sub(geometry.cluster_bits);
        let start = word & 1_u64.wrapping_shl(x).wrapping_sub(1) & COMPRESSED_OFFSET;
        let sectors = (word & !(COMPRESSED | COPIED)).wrapping_shr(x);
        let end = (start & !511).saturating_add(sectors.saturating_add(1).saturating_mul(512));
        Self::Compressed { start: HostOffset(start), len: end.saturating_sub(start) }
    }

    /// Returns the words of a standard entry.
    pub(super) fn encode(standard: Standard, geometry: Geometry) -> [u64; 2] {
        let offset = standard.host.map_or(0, |host| host.0);
        let copied = if standard.host.is_some() && standard.copied { COPIED } else { 0 };
        if geometry.extended_l2 {
            [offset | copied, u64::from(standard.zero).wrapping_shl(32) | u64::from(standard.allocated)]
        } else {
            [offset | copied | u64::from(standard.zero), 0]
        }
    }

    /// Returns the word of a compressed entry for `len` bytes at `start`, or `None` when the offset has no room in it.
    pub(super) fn encode_compressed(start: HostOffset, len: u64, geometry: Geometry) -> Option<u64> {
        let x = 70_u32.saturating_sub(geometry.cluster_bits);
        let last = start.0.checked_add(len)?.checked_sub(1)?;
        let sectors = last.wrapping_shr(9).checked_sub(start.0.wrapping_shr(9))?;
        let fits = start.0 & !(1_u64.wrapping_shl(x).wrapping_sub(1) & COMPRESSED_OFFSET) == 0;
        fits.then(|| COMPRESSED | sectors.wrapping_shl(x) | start.0)
    }
}

/// Returns the L2 table that an L1 entry names, if any, and whether nothing else refers to it.
pub(super) fn decode_l1(word: u64, geometry: Geometry, at: u64) -> Result<Option<(HostOffset, bool)>, Corrupt> {
    let offset = word & OFFSET;
    // Spec: "Bits 9-55 of the offset into the image file at which the L2 table starts. Must be aligned to a cluster boundary."
    if !geometry.is_aligned(offset) {
        return Err(Corrupt::new("L1 entry", at, "the L2 table's offset is not the start of a cluster"));
    }
    Ok((offset != 0).then_some((HostOffset(offset), word & COPIED != 0)))
}

/// Returns an L1 entry, or the first word of a standard one, marked as the only reference or not.
pub(super) fn marked(word: u64, copied: bool) -> u64 {
    if copied { word | COPIED } else { word & !COPIED }
}

/// Returns an L1 entry for a table to which nothing else refers.
pub(super) fn encode_l1(table: HostOffset) -> u64 {
    table.0 | COPIED
}

fn split(bitmap: u64) -> (u32, u32) {
    let low = u32::try_from(bitmap & u64::from(u32::MAX)).unwrap_or(0);
    (low, u32::try_from(bitmap.wrapping_shr(32)).unwrap_or(0))
}

pub(super) const COPIED: u64 = 1 << 63;
pub(super) const COMPRESSED: u64 = 1 << 62;
pub(super) const ZERO: u64 = 1;
/// Bits 9-55.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits 0-55.
pub(super) const COMPRESSED_OFFSET: u64 = 0x00ff_ffff_ffff_ffff;

#[cfg(test)]
mod tests {
    use super::{Entry, Geometry, HostOffset, Standard};

    const PLAIN: Geometry = Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4 };

    #[test]
    fn a_compressed_entry_counts_the_sectors_behind_the_first() {
        for (start, len, stored) in [(0x5_0000, 512, 512), (0x5_01ff, 2, 513), (0x5_0010, 1000, 1008)] {
            let word = Entry::encode_compressed(HostOffset(start), len, PLAIN).unwrap();
            let entry = Entry::decode([word, 0], PLAIN, false, 0).unwrap();
            assert_eq!(entry, Entry::Compressed { start: HostOffset(start), len: stored });
        }
        let large = Geometry { cluster_bits: 21, ..PLAIN };
        assert!(Entry::encode_compressed(HostOffset(1 << 49), 512, large).is_none());
    }

    #[test]
    fn standard_entries_survive_the_round_trip() {
        let extended = Geometry { extended_l2: true, ..PLAIN };
        let host = Some(HostOffset(0x30000));
        for (geometry, entry) in [
            (PLAIN, Standard { host, copied: true, allocated: 1, zero: 0 }),
            (PLAIN, Standard { host, copied: true, allocated: 0, zero: 1 }),
            (PLAIN, Standard { host: None, copied: false, allocated: 0, zero: 1 }),
            (extended, Standard { host, copied: true, allocated: 5, zero: 0x8000_0000 }),
        ] {
            let words = Entry::encode(entry, geometry);
            assert_eq!(Entry::decode(words, geometry, false, 0), Ok(Entry::Standard(entry)));
        }
        Entry::decode([0x8000_0000_0003_0200, 0], PLAIN, false, 0).unwrap_err();
        Entry::decode([0, 1], extended, false, 0).unwrap_err();
        Entry::decode([0x8000_0000_0003_0000, 1 << 32 | 1], extended, false, 0).unwrap_err();
    }
}
