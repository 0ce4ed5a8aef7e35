//! Places for clusters before anything is written there.

use crate::block::{ByteRange, Hole, Resize};
use crate::qcow2::entry::Standard;
use crate::qcow2::error::Error;
use crate::qcow2::image::Image;
use crate::qcow2::offset::{GuestOffset, HostOffset};
use crate::qcow2::options::Preallocation;

impl<S: Resize> Image<S> {
    /// Gives every cluster of `range`, which has none, a place that reads as zeros; or space as well.
    pub(super) fn preallocate(&mut self, range: ByteRange, preallocation: Preallocation) -> Result<(), Error> {
        let geometry = self.geometry();
        // A cluster in which the disk ended before is not new.
        let mut guest = range.start().next_multiple_of(geometry.cluster_size());
        while guest < range.end() {
            // Up to the end of an L2 table, and so many that they are stored now and then.
            let table_end = geometry.l1_index(GuestOffset(guest)).saturating_add(1).saturating_mul(geometry.l2_span());
            let end = table_end.min(range.end());
            let count = geometry.clusters(end.saturating_sub(guest));
            self.stage_entry(GuestOffset(guest))?;
            let first = self.places(GuestOffset(guest), count, preallocation)?;
            for index in 0..count {
                let offset = index.saturating_mul(geometry.cluster_size());
                let allocated = if geometry.extended_l2 { u32::MAX } else { 1 };
                let entry = Standard { host: Some(first.plus(offset)), copied: true, allocated, zero: 0 };
                self.set_entry(GuestOffset(guest).plus(offset), entry)?;
            }
            guest = end;
            if self.much_waits() {
                self.store()?;
            }
        }
        Ok(())
    }

    /// Returns the first of `count` neighboring places for the clusters from `guest` on; they read as zeros.
    fn places(&mut self, guest: GuestOffset, count: u64, preallocation: Preallocation) -> Result<HostOffset, Error> {
        let len = count.saturating_mul(self.geometry().cluster_size());
        if self.has_data_file() {
            let size = self.header.size;
            let range = ByteRange::new(guest.0, guest.plus(len).0.min(size)).unwrap_or_default();
            self.zero_data_file(range, Hole::Allow)?;
            preallocation.fill(self.data_file_mut()?, range)?;
            return Ok(HostOffset(guest.0));
        }
        let first = self.allocate_run(count)?;
        // The place may have been in use before.
        let range = ByteRange::at(first.0, len).unwrap_or_default();
        self.storage.write_zeroes_at(range, Hole::Allow)?;
        preallocation.fill(&mut self.storage, range)?;
        Ok(first)
    }
}
