//! Growing the disk.

use std::cmp::Ordering;

use crate::block::{self, ByteRange, Hole, Resize};
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::header::{MAX_L1, Version};
use crate::qcow2::image::Image;
use crate::qcow2::offset::to_usize;

impl<S: Resize> Image<S> {
    fn grow(&mut self, size: u64) -> Result<(), Error> {
        let old = self.header.size;
        self.check_size(size)?;
        let cluster_end = old.next_multiple_of(self.geometry().cluster_size());
        let hides_more = size > cluster_end && self.backing()?.is_some_and(|backing| backing.size() > old);
        if self.header.version == Version::V2 && hides_more {
            // It has no zero clusters.
            return Err(Unsupported::Resize("growing a version 2 image over a longer backing file").into());
        }
        self.check_bitmaps_follow(size)?;
        self.begin()?;
        self.mark_all_bitmaps(size)?;
        // Everything up to here belongs to the old size.
        self.store()?;
        self.grow_l1(size)?;
        self.header.size = size;
        self.writing()?.header_changed = true;
        let stored = self.clear_new_space(old, size).and_then(|()| self.store());
        self.failed = stored.is_err();
        stored
    }

    pub(super) fn check_size(&self, size: u64) -> Result<(), Error> {
        if !size.is_multiple_of(512) {
            return Err(Error::InvalidOptions("The new size must be a multiple of 512".to_owned()));
        }
        if self.header.version == Version::V2 && self.header.snapshot_count > 0 {
            // Its snapshots do not record the size of their disk.
            return Err(Unsupported::Resize("resizing a version 2 image that has snapshots").into());
        }
        let l1 = self.geometry().l1_entries(size).saturating_mul(8);
        if l1 > MAX_L1 {
            return Err(Unsupported::TooLarge("L1 table", MAX_L1).into());
        }
        Ok(())
    }

    /// Moves the L1 table to a larger place when the new size needs more entries.
    fn grow_l1(&mut self, size: u64) -> Result<(), Error> {
        let geometry = self.geometry();
        let entries = geometry.l1_entries(size);
        if entries <= self.header.l1_entries {
            return Ok(());
        }
        let place = self.allocate_run(geometry.clusters(entries.saturating_mul(8)))?;
        let (old, old_len) = (self.header.l1_offset, self.header.l1_entries.saturating_mul(8));
        self.l1.resize(to_usize(entries), 0);
        self.header.l1_offset = place;
        self.header.l1_entries = entries;
        self.writing()?.l1_moved = true;
        if old_len > 0 { self.free(old, old_len) } else { Ok(()) }
    }

    /// Makes the new space read as zeros: the rest of the last cluster, and what the backing disk would show.
    fn clear_new_space(&mut self, old: u64, size: u64) -> Result<(), Error> {
        let cluster_end = old.next_multiple_of(self.geometry().cluster_size()).min(size);
        self.zero_disk(ByteRange::new(old, cluster_end).unwrap_or_default(), Hole::Allow)?;
        let below = self.backing()?.map_or(0, |backing| backing.size()).min(size);
        self.zero_disk(ByteRange::new(cluster_end, below).unwrap_or_default(), Hole::Allow)
    }
}

impl<S: Resize> Resize for Image<S> {
    fn resize(&mut self, size: u64) -> Result<(), block::Error> {
        match size.cmp(&self.header.size) {
            Ordering::Less => Ok(self.shrink(size)?),
            Ordering::Equal => Ok(()),
            Ordering::Greater => Ok(self.grow(size)?),
        }
    }
}
