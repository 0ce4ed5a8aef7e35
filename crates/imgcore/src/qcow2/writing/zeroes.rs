//! Zeroing: by an entry where whole clusters are zeroed, by bytes elsewhere.

use super::guest::bits;
use crate::block::{self, ByteRange, Hole, Resize};
use crate::qcow2::entry::{Entry, Standard};
use crate::qcow2::error::Error;
use crate::qcow2::header::Version;
use crate::qcow2::image::Image;
use crate::qcow2::offset::{GuestOffset, to_usize};
use crate::qcow2::read::{Join, RunKind};

/// What the backing disk means for zeros.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Below {
    /// Where it reads as zeros, nothing has to be said.
    Counts,
    /// It will be another one: the image itself must say everything.
    Changes,
}

impl<S: Resize> Image<S> {
    /// Makes `range` read as zeros whatever disk will lie below.
    ///
    /// # Errors
    ///
    /// As [`crate::block::BlockWrite::write_zeroes_at`].
    pub fn hold_zeroes(&mut self, range: ByteRange) -> Result<(), Error> {
        if range.end() > self.header.size {
            return Err(block::Error::out_of_bounds(range.start(), range.len(), self.header.size).into());
        }
        self.begin()?;
        self.note_change(range);
        self.zero_runs(range, Hole::Allow, Below::Changes)
    }

    /// Makes `range`, inside the disk, read as zeros.
    pub(super) fn zero_disk(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.zero_runs(range, hole, Below::Counts)
    }

    fn zero_runs(&mut self, range: ByteRange, hole: Hole, below: Below) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let geometry = self.geometry();
        let mut guest = GuestOffset(range.start());
        while guest.0 < range.end() {
            let rest = range.end().saturating_sub(guest.0);
            let run = self.run_at(guest, rest, Join::Allocation)?;
            let run_end = guest.plus(run.len);
            let zero_already = match run.kind {
                RunKind::Zero => true,
                RunKind::Unallocated if below == Below::Changes => false,
                RunKind::Unallocated => self.backing()?.is_none_or(|backing| backing.size() <= guest.0),
                RunKind::Data(_) | RunKind::Compressed { .. } => false,
            };
            if zero_already {
                guest = run_end;
                continue;
            }
            let cluster_end = geometry.align_down(guest.0).saturating_add(geometry.cluster_size());
            let end = run_end.0.min(cluster_end);
            self.zero_in_cluster(guest, end.min(range.end()), hole, below)?;
            guest = GuestOffset(end);
            if self.much_waits() {
                self.store()?;
            }
        }
        Ok(())
    }

    /// Zeroes from `guest` to before `end`, a run of one kind inside one cluster.
    fn zero_in_cluster(&mut self, guest: GuestOffset, end: u64, hole: Hole, below: Below) -> Result<(), Error> {
        let geometry = self.geometry();
        let part = geometry.subcluster_size();
        let start = guest.0.next_multiple_of(part);
        // What lies behind the end of the disk in its last cluster may become anything.
        let whole_end = if end >= self.header.size {
            end.next_multiple_of(part)
        } else {
            end.saturating_sub(end.checked_rem(part).unwrap_or(0))
        };
        if start >= whole_end || !self.can_zero_by_entry(guest, start, whole_end, below)? {
            return self.zero_bytes(guest.0, end);
        }
        self.zero_bytes(guest.0, start)?;
        if self.has_raw_data_file() || (self.has_data_file() && hole == Hole::Allow) {
            self.zero_data_file(ByteRange::new(start, whole_end.min(self.header.size)).unwrap_or_default(), hole)?;
        }
        self.zero_entry(GuestOffset(start), whole_end, hole)?;
        self.zero_bytes(whole_end.min(end), end)
    }

    fn zero_bytes(&mut self, start: u64, end: u64) -> Result<(), Error> {
        if start >= end {
            return Ok(());
        }
        self.write_disk(&vec![0; to_usize(end.saturating_sub(start))], GuestOffset(start))
    }

    /// Returns whether an entry can say that from `start` to `end`, whole subclusters, all is zeros.
    fn can_zero_by_entry(&mut self, guest: GuestOffset, start: u64, end: u64, below: Below) -> Result<bool, Error> {
        let geometry = self.geometry();
        let cluster = geometry.align_down(guest.0);
        let all = start == cluster && end == cluster.saturating_add(geometry.cluster_size());
        if self.header.version == Version::V2 {
            // Version 2 has no zero clusters: it can only give the cluster up, when nothing lies below.
            let covered = below == Below::Changes || self.backing()?.is_some_and(|backing| backing.size() > cluster);
            return Ok(all && !covered);
        }
        // A compressed cluster has no subclusters.
        Ok(all || matches!(self.stage_entry(guest)?, Entry::Standard(_)))
    }

    fn zero_entry(&mut self, start: GuestOffset, end: u64, hole: Hole) -> Result<(), Error> {
        let geometry = self.geometry();
        let first = geometry.subcluster(start.0);
        let last = geometry.subcluster(end.saturating_sub(1));
        let touched = bits(first, last);
        let zeroed = if self.header.version == Version::V2 { 0 } else { touched };
        match self.stage_entry(start)? {
            Entry::Compressed { start: host, len } => {
                self.set_entry(start, Standard { zero: zeroed, ..Standard::default() })?;
                self.free(host, len)
            }
            Entry::Standard(old) => {
                let mut entry = Standard { allocated: old.allocated & !touched, zero: old.zero | zeroed, ..old };
                let own = old.copied || self.has_data_file();
                let keep = hole == Hole::Keep && own && self.header.version == Version::V3;
                let given_up = old.host.filter(|_| entry.allocated == 0 && !keep);
                if given_up.is_some() {
                    entry = Standard { host: None, copied: false, ..entry };
                }
                self.set_entry(start, entry)?;
                match given_up {
                    Some(host) => self.free_guest(host),
                    None => Ok(()),
                }
            }
        }
    }
}
