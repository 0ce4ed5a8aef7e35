//! Growing the disk.

use std::cmp::Ordering;

use crate::block::{self, ByteRange, Hole, Resize};
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::header::{MAX_L1, Version};
use crate::qcow2::image::Image;
use crate::qcow2::offset::to_usize;
use crate::qcow2::options::Preallocation;

impl<S: Resize> Image<S> {
    /// Makes the disk larger, with places or space for what is new. New space reads as zeros.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOptions`] when `size` is not larger, otherwise as [`Resize::resize`].
    pub fn grow(&mut self, size: u64, preallocation: Preallocation) -> Result<(), Error> {
        if size <= self.header.size {
            return Err(Error::InvalidOptions("preallocation is for growing images".to_owned()));
        }
        // Spec: with a raw data file, all clusters are preallocated; see "Raw external data".
        let raw = self.has_raw_data_file() && preallocation == Preallocation::Off;
        let preallocation = if raw { Preallocation::Metadata } else { preallocation };
        let old = self.header.size;
        self.check_size(size)?;
        let cluster_end = old.next_multiple_of(self.geometry().cluster_size());
        let hides_more = size > cluster_end && self.backing()?.is_some_and(|backing| backing.size() > old);
        if self.header.version == Version::V2
            && hides_more
            && matches!(preallocation, Preallocation::Off | Preallocation::Metadata)
        {
            // It has no zero clusters.
            return Err(Unsupported::Resize("growing a version 2 image over a longer backing file").into());
        }
        self.check_bitmaps_follow(size)?;
        self.begin()?;
        self.mark_all_bitmaps(size)?;
        // Everything up to here belongs to the old size.
        self.store()?;
        self.resize_data_file(old, size)?;
        self.writing()?.growing = true;
        let stored = self.grow_tables(old, size, preallocation);
        self.failed = stored.is_err();
        stored
    }

    /// Makes and fills larger tables, and puts them in force in one step.
    fn grow_tables(&mut self, old: u64, size: u64, preallocation: Preallocation) -> Result<(), Error> {
        let old_l1 = (self.header.l1_offset, self.header.l1_entries.saturating_mul(8));
        self.grow_l1(size)?;
        self.header.size = size;
        self.fill_new_space(old, size, preallocation)?;
        if self.header.l1_offset != old_l1.0 && old_l1.1 > 0 {
            self.free(old_l1.0, old_l1.1)?;
        }
        let writing = self.writing()?;
        writing.growing = false;
        writing.header_changed = true;
        self.store()
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
        self.l1.resize(to_usize(entries), 0);
        self.header.l1_offset = place;
        self.header.l1_entries = entries;
        self.writing()?.l1_moved = true;
        Ok(())
    }

    /// Makes the new space read as zeros: the rest of the last cluster, and what the backing disk would show.
    fn fill_new_space(&mut self, old: u64, size: u64, preallocation: Preallocation) -> Result<(), Error> {
        let cluster_end = old.next_multiple_of(self.geometry().cluster_size()).min(size);
        self.zero_disk(ByteRange::new(old, cluster_end).unwrap_or_default(), Hole::Allow)?;
        if preallocation != Preallocation::Off {
            return self.preallocate(ByteRange::new(cluster_end, size).unwrap_or_default(), preallocation);
        }
        let below = self.backing()?.map_or(0, |backing| backing.size()).min(size);
        self.zero_disk(ByteRange::new(cluster_end, below).unwrap_or_default(), Hole::Allow)
    }
}

impl<S: Resize> Resize for Image<S> {
    fn resize(&mut self, size: u64) -> Result<(), block::Error> {
        match size.cmp(&self.header.size) {
            Ordering::Less => Ok(self.shrink(size)?),
            Ordering::Equal => Ok(()),
            Ordering::Greater => Ok(self.grow(size, Preallocation::Off)?),
        }
    }
}
