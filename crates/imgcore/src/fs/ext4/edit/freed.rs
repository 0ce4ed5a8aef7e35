use std::collections::BTreeMap;
use std::ops::Range;

use crate::fs::ext4::bitmap::Bitmap;

/// Blocks or inodes that this run has freed: those of the old state, which are taken again only where nothing else is left.
///
/// What is put into other blocks needs no journal, and until the change is committed the old state is whole.
#[derive(Debug, Default)]
pub(super) struct Freed {
    /// By group: what is in use or was when the run began, and how many of these are free now.
    groups: BTreeMap<u32, (Bitmap, u32)>,
    /// Nothing else is left, so they are free as others are.
    is_all: bool,
}

impl Freed {
    /// Returns whether the bitmap of a group is wanted, as it is before something in it is freed.
    pub(super) fn wants(&self, group: u32) -> bool {
        !self.is_all && !self.groups.contains_key(&group)
    }

    /// Notes that `count` of a group become free; `before` is its bitmap where it was wanted.
    pub(super) fn note(&mut self, group: u32, before: Option<Bitmap>, count: u32) {
        if let Some(map) = before {
            self.groups.insert(group, (map, 0));
        }
        if let Some((_, freed)) = self.groups.get_mut(&group) {
            *freed = freed.saturating_add(count);
        }
    }

    /// Notes that these of a group are taken.
    pub(super) fn take(&mut self, group: u32, range: Range<u32>) {
        if let Some((map, _)) = self.groups.get_mut(&group) {
            map.set(range, true);
        }
    }

    /// Returns the bitmap to look for free ones in; `None` means that of the group.
    pub(super) fn map(&self, group: u32) -> Option<&Bitmap> {
        self.groups.get(&group).map(|(map, _)| map)
    }

    /// Returns how many free ones of a group are left for later.
    pub(super) fn count(&self, group: u32) -> u32 {
        self.groups.get(&group).map_or(0, |(_, freed)| *freed)
    }

    /// Gives all of them out from now on; returns `false` when that was so before.
    pub(super) fn give_out(&mut self) -> bool {
        self.groups.clear();
        !std::mem::replace(&mut self.is_all, true)
    }
}
