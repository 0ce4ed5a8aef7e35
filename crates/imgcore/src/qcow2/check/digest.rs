//! What an L2 table refers to, clusters next to each other as one item.

use crate::qcow2::entry::{COMPRESSED, COMPRESSED_OFFSET, COPIED, Entry, OFFSET, ZERO};
use crate::qcow2::geometry::Geometry;
use crate::qcow2::offset::to_usize;

/// What one or more entries of an L2 table say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Item {
    /// Standard clusters that follow each other.
    Run(Run),
    /// A compressed cluster.
    Compressed { start: u64, len: u64 },
    /// An entry breaks a rule.
    Fault(Fault),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Run {
    pub(super) host: u64,
    pub(super) count: u64,
    pub(super) copied: bool,
    /// The word of the first entry.
    pub(super) word: u64,
    /// The index of the first entry.
    pub(super) index: u64,
}

/// A rule that an entry breaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    Reserved(u64),
    Misaligned(u64),
    /// Of a cluster whose bytes nobody sees.
    MisalignedUnused(u64),
    Subclusters(u64),
    SubclustersNowhere,
    CompressedCopied(u64),
    CompressedSubclusters {
        index: u64,
        word: u64,
    },
    CompressedExternal {
        index: u64,
        word: u64,
    },
}

impl Fault {
    pub(super) fn line(self) -> String {
        match self {
            Self::Reserved(word) => format!("ERROR found l2 entry with reserved bits set: {word:x}"),
            Self::Misaligned(host) => {
                format!("ERROR offset={host:x}: Data cluster is not properly aligned; L2 entry corrupted.")
            }
            Self::MisalignedUnused(host) => {
                format!("ERROR offset={host:x}: Preallocated cluster is not properly aligned; L2 entry corrupted.")
            }
            Self::Subclusters(host) => {
                format!("ERROR offset={host:x}: Allocated cluster has corrupted subcluster allocation bitmap")
            }
            Self::SubclustersNowhere => "ERROR: Unallocated cluster has non-zero subcluster allocation map".to_owned(),
            Self::CompressedCopied(start) => {
                format!("ERROR: coffset={start:#x}: copied flag must never be set for compressed clusters")
            }
            Self::CompressedSubclusters { index, word } => {
                format!("ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry={word:#x}")
            }
            Self::CompressedExternal { index, word } => {
                format!("ERROR compressed cluster {index} with data file, entry={word:#x}")
            }
        }
    }
}

/// Returns what the entries in `words`, a table of an image in these units, refer to. `external` says that guest clusters are in a
/// data file of their own.
pub(super) fn digest(words: &[u64], geometry: Geometry, external: bool) -> Vec<Item> {
    let mut items = Vec::new();
    let each = to_usize(geometry.l2_words());
    let size = geometry.cluster_size();
    let mut open: Option<Run> = None;
    let mut index = 0_u64;
    for entry in words.chunks_exact(each) {
        let (word, bitmap) = (entry.first().copied().unwrap_or(0), entry.get(1).copied().unwrap_or(0));
        let here = index;
        index = index.saturating_add(1);
        if word == 0 && bitmap == 0 {
            continue;
        }
        // Most entries continue what the one before began.
        if let Some(run) = &mut open
            && bitmap & bitmap.wrapping_shr(32) == 0
            && word == run.word.wrapping_add(run.count.wrapping_mul(size))
            && here == run.index.wrapping_add(run.count)
        {
            run.count = run.count.wrapping_add(1);
            continue;
        }
        items.extend(open.take().map(Item::Run));
        open = entry_of(word, bitmap, here, geometry, external, &mut items);
    }
    items.extend(open.map(Item::Run));
    items
}

/// Adds what an entry says to `items`, but for the run that it begins, if it does.
fn entry_of(word: u64, bitmap: u64, index: u64, geometry: Geometry, external: bool, items: &mut Vec<Item>) -> Option<Run> {
    let fault = |items: &mut Vec<Item>, fault| items.push(Item::Fault(fault));
    if word & COMPRESSED != 0 {
        if external {
            // Spec: "neither compressed clusters nor internal snapshots are supported" with an external data file.
            fault(items, Fault::CompressedExternal { index, word });
        } else {
            let start =
                word & 1_u64.wrapping_shl(70_u32.saturating_sub(geometry.cluster_bits)).wrapping_sub(1) & COMPRESSED_OFFSET;
            if word & COPIED != 0 {
                // Spec: "0 for clusters that are unused, compressed or require COW."
                fault(items, Fault::CompressedCopied(start));
            }
            // Spec: "If the cluster is compressed then the subcluster bitmap is not used and must be zero": it has no parts.
            if geometry.extended_l2 && bitmap != 0 {
                fault(items, Fault::CompressedSubclusters { index, word });
            } else if let Ok(Entry::Compressed { start, len }) = Entry::decode([word, 0], geometry, external, 0) {
                items.push(Item::Compressed { start: start.0, len });
            }
        }
        return None;
    }
    // Spec: "1 - 8: Reserved (set to 0)" and "56 - 61: Reserved (set to 0)"
    if word & RESERVED != 0 {
        fault(items, Fault::Reserved(word));
    }
    let host = word & OFFSET;
    let copied = word & COPIED != 0;
    let (allocated, zero) = (bitmap & u64::from(u32::MAX), bitmap.wrapping_shr(32));
    // A cluster of zeros at offset 0 of a data file is taken for none.
    let is_first = host == 0 && external && copied && (geometry.extended_l2 || word & ZERO == 0);
    if host == 0 && !is_first {
        if allocated != 0 {
            fault(items, Fault::SubclustersNowhere);
        }
        return None;
    }
    if allocated & zero != 0 {
        // Spec: "1: the subcluster reads as zeros. In this case the allocation status bit must be unset."
        fault(items, Fault::Subclusters(host));
    }
    let run = Run { host, count: 1, copied, word, index };
    // Spec: "Must be aligned to a cluster boundary."
    if geometry.is_aligned(host) && word & RESERVED == 0 {
        return Some(run);
    }
    if !geometry.is_aligned(host) {
        let seen = if geometry.extended_l2 { allocated != 0 } else { word & ZERO == 0 };
        fault(items, if seen { Fault::Misaligned(host) } else { Fault::MisalignedUnused(host) });
    }
    items.push(Item::Run(run));
    None
}

/// Bits 1-8 and 56-61.
const RESERVED: u64 = 0x3f00_0000_0000_01fe;

#[cfg(test)]
mod tests {
    use super::{COMPRESSED, COPIED, Fault, Geometry, Item, Run, digest};

    const PLAIN: Geometry = Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4 };

    #[test]
    fn clusters_that_follow_each_other_are_one_item_and_others_are_not() {
        let words = [0, COPIED | 0x5_0000, COPIED | 0x6_0000, 0x7_0000, 0, 0x8_0000, 1, COMPRESSED | 0x9_0010];
        let run = |host, count, word, index| Item::Run(Run { host, count, copied: word & COPIED != 0, word, index });
        let wanted = [
            run(0x5_0000, 2, COPIED | 0x5_0000, 1),
            run(0x7_0000, 1, 0x7_0000, 3),
            run(0x8_0000, 1, 0x8_0000, 5),
            Item::Compressed { start: 0x9_0010, len: 512 - 16 },
        ];
        assert_eq!(digest(&words, PLAIN, false), wanted);
    }

    #[test]
    fn each_broken_rule_is_a_fault() {
        for (word, external, fault) in [
            (0x5_0002, false, Fault::Reserved(0x5_0002)),
            (0x5_0200, false, Fault::Misaligned(0x5_0200)),
            (0x5_0201, false, Fault::MisalignedUnused(0x5_0200)),
            (COMPRESSED | COPIED | 0x5_0000, false, Fault::CompressedCopied(0x5_0000)),
            (COMPRESSED, true, Fault::CompressedExternal { index: 0, word: COMPRESSED }),
        ] {
            assert_eq!(digest(&[word], PLAIN, external).first(), Some(&Item::Fault(fault)));
        }
        let extended = Geometry { extended_l2: true, ..PLAIN };
        for (words, fault) in [
            ([0x5_0000, (1 << 32) | 1], Fault::Subclusters(0x5_0000)),
            ([0, 1], Fault::SubclustersNowhere),
            ([COMPRESSED, 1], Fault::CompressedSubclusters { index: 0, word: COMPRESSED }),
            ([0x5_0200, 1 << 32], Fault::MisalignedUnused(0x5_0200)),
        ] {
            assert_eq!(digest(&words, extended, false).first(), Some(&Item::Fault(fault)));
        }
    }
}
