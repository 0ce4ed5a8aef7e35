//! How much of the trees of many files is read: each has a limit of its own, but thousands of files may say that they share the
//! blocks of the largest one.

use super::extent::ExtentTree;
use super::layout::Layout;

/// What is left for the trees of some files, taken together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Blocks that list others.
    nodes: u64,
    /// Runs of blocks that they list.
    pieces: u64,
}

impl Budget {
    pub(super) fn new(nodes: u64, pieces: u64) -> Self {
        Self { nodes, pieces }
    }

    /// Returns what the trees of all files take at most, when no two of them share a block.
    pub(super) fn of_all(layout: &Layout) -> Self {
        Self { nodes: layout.blocks_count.min(MOST_NODES), pieces: layout.blocks_count }
    }

    /// Takes the tree of one more file; returns `false` when that is too much.
    #[must_use]
    pub(super) fn spend(&mut self, tree: &ExtentTree) -> bool {
        let len = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        match (self.nodes.checked_sub(len(tree.nodes.len())), self.pieces.checked_sub(len(tree.extents.len()))) {
            (Some(nodes), Some(pieces)) => {
                *self = Self { nodes, pieces };
                true
            }
            _ => false,
        }
    }
}

/// The most blocks of trees that are read for one change: those of 16 TiB in block maps, as a rule.
const MOST_NODES: u64 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::Budget;
    use crate::fs::ext4::extent::{ExtentTree, FileExtent};

    #[test]
    fn trees_are_taken_until_one_is_too_much() {
        let extent = FileExtent { logical: 0, physical: 9, len: 1, unwritten: false };
        let tree = |nodes, pieces| ExtentTree { extents: vec![extent; pieces], nodes: vec![7; nodes] };
        let mut budget = Budget::new(2, 10);
        assert!(budget.spend(&tree(1, 4)) && budget.spend(&tree(1, 4)) && budget.spend(&tree(0, 2)));
        assert!(!budget.spend(&tree(0, 1)) && !budget.spend(&tree(1, 0)));
    }
}
