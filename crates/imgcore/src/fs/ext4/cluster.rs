//! Which clusters a file has: those in which one of its blocks lies, as a whole.
//!
//! ```text
//! file's blocks    |  0  1  2  3 |  4  5  6  7 |  8  9 10 11 |       clusters of 4 blocks
//! extents             [====]  [=======]           [=]                three of them, in three clusters
//! ```
//!
//! A block of a file has the same place in its cluster on the disk as it has in the file, so blocks of one cluster of the file lie in
//! one cluster of the disk. Without `bigalloc` a cluster is a block.
//!
//! Spec: "Bigalloc".

use super::extent::FileExtent;

/// Returns the clusters that extents of one file, which ascend, lie in: first block and number of blocks of each run, no cluster
/// twice. `size` is that of a cluster in blocks, here and below.
pub(super) fn clusters_of(extents: &[FileExtent], size: u32) -> Vec<(u64, u32)> {
    clusters_from(extents, 0, size)
}

/// Returns the clusters that extents of one file lie in, but for those of `kept`, which is what they begin with.
pub(super) fn clusters_behind(extents: &[FileExtent], kept: &[FileExtent], size: u32) -> Vec<(u64, u32)> {
    let floor = kept.last().map_or(0, |last| last.logical_end().div_ceil(u64::from(size)));
    clusters_from(extents, floor, size)
}

/// Returns the clusters that extents lie in from cluster `floor` of the file on.
fn clusters_from(extents: &[FileExtent], mut floor: u64, size: u32) -> Vec<(u64, u32)> {
    let size = u64::from(size);
    let mut runs = Vec::new();
    for extent in extents {
        let start = u64::from(extent.logical).checked_div(size).unwrap_or_default();
        let end = extent.logical_end().div_ceil(size);
        let first = start.max(floor);
        if first >= end {
            continue;
        }
        let skipped = first.saturating_sub(start).saturating_mul(size);
        let block = start_of(extent.physical, size).saturating_add(skipped);
        let blocks = end.saturating_sub(first).saturating_mul(size);
        runs.push((block, u32::try_from(blocks).unwrap_or(u32::MAX)));
        floor = end;
    }
    runs
}

/// Returns a run of blocks with all of its first and its last cluster.
pub(super) fn whole((start, len): (u64, u32), size: u32) -> (u64, u32) {
    let size = u64::from(size);
    let first = start_of(start, size);
    let blocks = start.saturating_add(u64::from(len)).next_multiple_of(size).saturating_sub(first);
    (first, u32::try_from(blocks).unwrap_or(u32::MAX))
}

/// Returns the first block of the cluster that `block` lies in.
fn start_of(block: u64, size: u64) -> u64 {
    block.saturating_sub(block.checked_rem(size).unwrap_or_default())
}

/// Returns the rule that an extent breaks, given the one before it in the file.
pub(super) fn broken_rule(before: Option<&FileExtent>, extent: &FileExtent, size: u32) -> Option<&'static str> {
    let size = u64::from(size);
    let logical = u64::from(extent.logical);
    if extent.physical.checked_rem(size) != logical.checked_rem(size) {
        return Some("a block has the same place in its cluster as in that of the file");
    }
    let before = before.filter(|before| logical < before.logical_end().next_multiple_of(size))?;
    let gap = logical.saturating_sub(u64::from(before.logical));
    (before.physical.saturating_add(gap) != extent.physical).then_some("a cluster of a file lies in one cluster of the disk")
}

#[cfg(test)]
mod tests {
    use super::{FileExtent, broken_rule, clusters_behind, clusters_of, whole};

    fn extent(logical: u32, physical: u64, len: u32) -> FileExtent {
        FileExtent { logical, physical, len, unwritten: false }
    }

    #[test]
    fn a_cluster_that_several_extents_share_is_listed_once() {
        let all = [extent(1, 41, 2), extent(3, 43, 4), extent(7, 47, 1), extent(9, 81, 1), extent(100, 16, 9)];
        assert_eq!(clusters_of(&all, 4), [(40, 4), (44, 4), (80, 4), (16, 12)]);
        assert_eq!((whole((41, 2), 4), whole((43, 2), 4), whole((43, 2), 1)), ((40, 4), (40, 8), (43, 2)));
        assert_eq!(clusters_behind(&all, &all[..1], 4), [(44, 4), (80, 4), (16, 12)]);
        assert_eq!(clusters_behind(&all, &[extent(1, 41, 2), extent(3, 43, 2)], 4), [(80, 4), (16, 12)]);
        assert_eq!(clusters_behind(&all, &all, 4), []);
        assert_eq!(clusters_of(&all, 1), [(41, 2), (43, 4), (47, 1), (81, 1), (16, 9)]);
        assert_eq!(clusters_behind(&all, &[extent(1, 41, 1)], 1), [(42, 1), (43, 4), (47, 1), (81, 1), (16, 9)]);
    }

    #[test]
    fn extents_are_aligned_and_share_clusters_only_within_one() {
        assert_eq!(broken_rule(None, &extent(3, 11, 9), 4), None);
        assert!(broken_rule(None, &extent(3, 12, 9), 4).unwrap().contains("same place"));
        assert_eq!(broken_rule(Some(&extent(0, 8, 2)), &extent(3, 11, 9), 4), None);
        assert!(broken_rule(Some(&extent(0, 8, 2)), &extent(3, 15, 9), 4).unwrap().contains("one cluster"));
        assert_eq!(broken_rule(Some(&extent(0, 8, 2)), &extent(4, 0, 9), 4), None);
    }
}
