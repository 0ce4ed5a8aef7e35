//! Writing guest data: in place where the cluster is the image's own, elsewhere where it is shared or not there.

use std::sync::{Arc, PoisonError};

use super::StagedTable;
use crate::block::{self, BlockWrite, ByteRange, Hole, Resize};
use crate::qcow2::entry::{Entry, Standard, decode_l1, encode_l1};
use crate::qcow2::error::{Corrupt, Error};
use crate::qcow2::image::Image;
use crate::qcow2::offset::{GuestOffset, HostOffset, to_usize};
use crate::qcow2::table::{len_of, word_offset};

/// Bytes of the caller's buffer that go to one place.
struct Direct {
    host: HostOffset,
    start: usize,
    len: usize,
}

impl<S: Resize> Image<S> {
    pub(super) fn write_disk(&mut self, buf: &[u8], offset: GuestOffset) -> Result<(), Error> {
        self.begin()?;
        let geometry = self.geometry();
        let mut direct: Option<Direct> = None;
        let mut done = 0_usize;
        while let Some(rest) = buf.get(done..).filter(|rest| !rest.is_empty()) {
            let guest = offset.plus(len_of(buf.get(..done).unwrap_or_default()));
            let to_end = to_usize(geometry.cluster_size().saturating_sub(geometry.within(guest.0)));
            let part = rest.get(..to_end).unwrap_or(rest);
            match (self.write_cluster(part, guest)?, &mut direct) {
                (None, _) => {}
                (Some(host), Some(run))
                    if run.host.plus(len_of(buf.get(..run.len).unwrap_or_default())) == host
                        && run.start.saturating_add(run.len) == done =>
                {
                    run.len = run.len.saturating_add(part.len());
                }
                (Some(host), _) => {
                    self.write_direct(buf, direct.replace(Direct { host, start: done, len: part.len() }))?;
                }
            }
            done = done.saturating_add(part.len());
            if self.much_waits() {
                // Data is stored before the tables that name it.
                self.write_direct(buf, direct.take())?;
                self.store()?;
            }
        }
        self.write_direct(buf, direct)
    }

    fn write_direct(&mut self, buf: &[u8], direct: Option<Direct>) -> Result<(), Error> {
        let Some(Direct { host, start, len }) = direct else { return Ok(()) };
        let part = buf.get(start..start.saturating_add(len)).unwrap_or_default();
        self.write_clusters(part, host)
    }

    /// Writes the bytes of standard clusters. A file may end inside its last one, but not before it.
    fn write_clusters(&mut self, bytes: &[u8], host: HostOffset) -> Result<(), Error> {
        if self.has_data_file() {
            return self.write_data_file(bytes, host);
        }
        let geometry = self.geometry();
        let end = host.plus(len_of(bytes));
        let known = self.storage.size().max(self.writing()?.allocated_end);
        if geometry.align_down(end.0.saturating_sub(1)) >= known {
            return Err(Corrupt::new("cluster", geometry.align_down(host.0), "it lies behind the end of the image").into());
        }
        self.reach(end.0)?;
        Ok(self.storage.write_all_at(bytes, host.0)?)
    }

    /// Writes `part` of one cluster, or returns where the caller has to write it.
    fn write_cluster(&mut self, part: &[u8], guest: GuestOffset) -> Result<Option<HostOffset>, Error> {
        let geometry = self.geometry();
        let within = geometry.within(guest.0);
        match self.stage_entry(guest)? {
            Entry::Compressed { start, len } => {
                let mut cluster = self.inflate(start, len)?.to_vec();
                overlay(&mut cluster, part, within);
                let host = self.allocate()?;
                self.write_clusters(&cluster, host)?;
                self.set_entry(guest, whole(host, geometry.extended_l2))?;
                self.free(start, len)?;
                Ok(None)
            }
            Entry::Standard(standard) => self.write_standard(part, guest, standard),
        }
    }

    fn write_standard(&mut self, part: &[u8], guest: GuestOffset, old: Standard) -> Result<Option<HostOffset>, Error> {
        let geometry = self.geometry();
        let within = geometry.within(guest.0);
        let end = within.saturating_add(len_of(part));
        let first = geometry.subcluster(within);
        let last = geometry.subcluster(end.saturating_sub(1));
        let touched = bits(first, last);
        let external = self.has_data_file();
        let own = old.host.filter(|_| old.copied || external);
        if let Some(host) = own {
            if !external {
                self.refuse_metadata(host)?;
            }
            if old.allocated & touched == touched {
                return Ok(Some(host.plus(within)));
            }
        }
        let host = match own {
            Some(host) => host,
            None => self.allocate_guest(guest)?,
        };
        // What a shared cluster holds moves along.
        let moves = own.is_none() && old.allocated & !touched != 0;
        let size = geometry.subcluster_size();
        let (from, to) = if moves {
            (0, geometry.cluster_size())
        } else {
            (u64::from(first).saturating_mul(size), u64::from(last).saturating_add(1).saturating_mul(size))
        };
        let direct = from == within && to == end;
        if !direct {
            let mut filled = vec![0; to_usize(to.saturating_sub(from))];
            self.read_disk(&mut filled, GuestOffset(geometry.align_down(guest.0)).plus(from))?;
            overlay(&mut filled, part, within.saturating_sub(from));
            self.write_clusters(&filled, host.plus(from))?;
        }
        let entry = Standard { host: Some(host), copied: true, allocated: old.allocated | touched, zero: old.zero & !touched };
        self.set_entry(guest, entry)?;
        if let (None, Some(shared)) = (own, old.host) {
            self.free_guest(shared)?;
        }
        Ok(direct.then(|| host.plus(from)))
    }

    /// Returns the entry for `guest`, in a table that can be changed.
    pub(super) fn stage_entry(&mut self, guest: GuestOffset) -> Result<Entry, Error> {
        let words = self.stage_table(guest)?;
        self.entry(&words, guest)
    }

    /// Makes the L2 table for `guest` one that can be changed, and returns it.
    fn stage_table(&mut self, guest: GuestOffset) -> Result<Arc<Vec<u64>>, Error> {
        let geometry = self.geometry();
        let index = geometry.l1_index(guest);
        if let Some(words) = self.writing()?.table(index) {
            return Ok(words);
        }
        let word = self.l1.get(to_usize(index)).copied().unwrap_or(0);
        let at = word_offset(self.header.l1_offset, index);
        let old = decode_l1(word, geometry, at)?;
        let words = match self.l2_table(index)? {
            Some(words) => words,
            None => Arc::new(vec![0; to_usize(geometry.words(1))]),
        };
        let (host, words) = match old {
            Some((host, true)) => {
                self.refuse_metadata(host)?;
                (host, words)
            }
            shared => {
                let host = self.allocate_table()?;
                if let Some(word) = self.l1.get_mut(to_usize(index)) {
                    *word = encode_l1(host);
                }
                self.writing()?.l1_changed.insert(index);
                if let Some((old, _)) = shared {
                    self.free(old, geometry.cluster_size())?;
                }
                (host, words)
            }
        };
        // The cached copy is out of date from now on.
        self.tables.get_mut().unwrap_or_else(PoisonError::into_inner).remove(host.0);
        self.empty_tables.get_mut().unwrap_or_else(PoisonError::into_inner).remove(host.0);
        self.writing()?.tables.insert(index, StagedTable { host, words: Arc::clone(&words) });
        Ok(words)
    }

    /// Sets the entry for `guest` in its staged table.
    pub(super) fn set_entry(&mut self, guest: GuestOffset, entry: Standard) -> Result<(), Error> {
        self.set_words(guest, Entry::encode(entry, self.geometry()))
    }

    /// Sets the words of the entry for `guest` in its staged table.
    pub(super) fn set_words(&mut self, guest: GuestOffset, words: [u64; 2]) -> Result<(), Error> {
        let geometry = self.geometry();
        let (index, place) = (geometry.l1_index(guest), geometry.l2_index(guest).saturating_mul(geometry.l2_words()));
        if let Some(table) = self.writing()?.tables.get_mut(&index) {
            let place = Arc::make_mut(&mut table.words).get_mut(to_usize(place)..).unwrap_or_default();
            for (to, from) in place.iter_mut().zip(words).take(to_usize(geometry.l2_words())) {
                *to = from;
            }
        }
        Ok(())
    }

    fn inside(&self, offset: u64, len: u64) -> Result<ByteRange, block::Error> {
        let size = self.header.size;
        let range = ByteRange::at(offset, len).filter(|range| range.end() <= size);
        range.ok_or_else(|| block::Error::out_of_bounds(offset, len, size))
    }
}

impl<S: Resize> BlockWrite for Image<S> {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), block::Error> {
        let range = self.inside(offset, len_of(buf))?;
        self.begin()?;
        self.note_change(range);
        Ok(self.write_disk(buf, GuestOffset(offset))?)
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), block::Error> {
        self.inside(range.start(), range.len())?;
        self.begin()?;
        self.note_change(range);
        Ok(self.zero_disk(range, hole)?)
    }

    fn flush(&mut self) -> Result<(), block::Error> {
        Ok(self.store()?)
    }
}

/// Copies `part` over the bytes of `cluster` from `within` on.
fn overlay(cluster: &mut [u8], part: &[u8], within: u64) {
    let place = cluster.get_mut(to_usize(within)..).and_then(|rest| rest.get_mut(..part.len()));
    if let Some(place) = place {
        place.copy_from_slice(part);
    }
}

/// Returns the bits of the subclusters from `first` to `last`.
pub(super) fn bits(first: u32, last: u32) -> u32 {
    let upto = |bit: u32| if bit >= 32 { u32::MAX } else { 1_u32.wrapping_shl(bit).wrapping_sub(1) };
    upto(last.saturating_add(1)) & !upto(first)
}

/// Returns the entry of a cluster that is wholly at `host`.
fn whole(host: HostOffset, extended: bool) -> Standard {
    Standard { host: Some(host), copied: true, allocated: if extended { u32::MAX } else { 1 }, zero: 0 }
}
