//! Getting ready to write, and storing the changed tables in order.

use super::refcounts::Refcounts;
use super::{StagedTable, Writing};
use crate::block::{self, BlockRead, ByteRange, ErrorKind, Hole, Resize};
use crate::qcow2::error::{Corrupt, Error, Unsupported};
use crate::qcow2::feature;
use crate::qcow2::header::Version;
use crate::qcow2::image::Image;
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::table::{encode_words, word_offset};

impl<S: BlockRead> Image<S> {
    /// Checks that the image is in a state in which it may be written; nothing is changed.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] with the reason.
    pub fn check_writable(&self) -> Result<(), Error> {
        // Spec: "Corrupt bit. If this bit is set then any data structure may be corrupt and the image must not be written to"
        let reasons = [
            (self.is_corrupt(), "that is marked as corrupt"),
            // Spec: "make sure to scan L1/L2 tables to repair refcounts before accessing the image."
            (self.is_dirty(), "that was not closed properly and needs a repair first"),
            (self.is_view, "as a snapshot shows it"),
        ];
        match reasons.iter().find(|(applies, _)| *applies) {
            Some((_, why)) => Err(Unsupported::Writing(why).into()),
            None => Ok(()),
        }
    }
}

impl<S: Resize> Image<S> {
    /// Gets ready for the first change: autoclear bits are cleared and bitmaps that record it are marked.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        self.refuse_after_failure()?;
        if self.writing.is_some() {
            return Ok(());
        }
        self.check_writable()?;
        if self.has_data_file() && self.data_file.is_none() {
            return Err(Unsupported::DataFile.into());
        }
        let refcounts = Refcounts::open(&self.storage, &self.header)?;
        // Spec: "An implementation may only write to an image with unknown auto-clear features if it clears the respective
        // bits from this field first."
        let autoclear = self.header.autoclear & feature::AUTOCLEAR;
        if autoclear != self.header.autoclear && self.header.version == Version::V3 {
            self.storage.write_all_at(&autoclear.to_be_bytes(), AUTOCLEAR)?;
            self.header.autoclear = autoclear;
            self.storage.flush()?;
        }
        self.start_recording()?;
        self.writing = Some(Box::new(Writing::new(refcounts)));
        Ok(())
    }

    /// Returns the state of writing, which [`Image::begin`] has made.
    pub(super) fn writing(&mut self) -> Result<&mut Writing, Error> {
        let missing = || block::Error::new(ErrorKind::ReadOnly, "the image is not open for writing");
        Ok(self.writing.as_mut().ok_or_else(missing)?)
    }

    /// Returns a cluster that was free.
    pub(super) fn allocate(&mut self) -> Result<HostOffset, Error> {
        let Some(writing) = self.writing.as_mut() else { return Err(Unsupported::Writing("for reading").into()) };
        let host = writing.refcounts.allocate(&self.storage)?;
        self.refuse_metadata(host)?;
        // The storage gets longer when something is written: once for many clusters.
        let end = host.plus(self.geometry().cluster_size()).0;
        let writing = self.writing()?;
        writing.allocated_end = writing.allocated_end.max(end);
        self.reserve_refcounts()?;
        Ok(host)
    }

    /// Returns a cluster that was free for a table, with its space on the host: what was acknowledged is not lost for want of it.
    pub(super) fn allocate_table(&mut self) -> Result<HostOffset, Error> {
        let host = self.allocate()?;
        let size = self.geometry().cluster_size();
        if let Err(error) = self.reserve(host, size) {
            self.free(host, size)?;
            return Err(error);
        }
        Ok(host)
    }

    /// Reserves the space of refcount blocks and tables that are new.
    fn reserve_refcounts(&mut self) -> Result<(), Error> {
        while let Some((host, len)) = self.writing.as_ref().and_then(|writing| writing.refcounts.unreserved()) {
            self.reserve(host, len)?;
            self.writing()?.refcounts.reserved();
        }
        Ok(())
    }

    fn reserve(&mut self, host: HostOffset, len: u64) -> Result<(), Error> {
        self.reach(host.plus(len).0)?;
        let range = ByteRange::at(host.0, len).unwrap_or_default();
        Ok(self.storage.write_zeroes_at(range, Hole::Keep)?)
    }

    /// Returns the first of `count` neighboring clusters that were free.
    pub(super) fn allocate_run(&mut self, count: u64) -> Result<HostOffset, Error> {
        let Some(writing) = self.writing.as_mut() else { return Err(Unsupported::Writing("for reading").into()) };
        let host = writing.refcounts.allocate_run(&self.storage, count)?;
        self.reach(host.plus(count.saturating_mul(self.geometry().cluster_size())).0)?;
        self.reserve_refcounts()?;
        Ok(host)
    }

    /// Gives up what refers to the `len` bytes at `host`, once nothing stored does any more.
    pub(super) fn free(&mut self, host: HostOffset, len: u64) -> Result<(), Error> {
        let geometry = self.geometry();
        let (first, end) = (geometry.index(host.0), geometry.clusters(host.plus(len).0));
        self.writing()?.freed.extend(first..end);
        Ok(())
    }

    /// Fails for a cluster that holds the header or a table: a sound image does not have guest data there.
    pub(super) fn refuse_metadata(&mut self, host: HostOffset) -> Result<(), Error> {
        let l1 = self.header.l1_offset;
        let l1_end = l1.plus(self.header.l1_entries.saturating_mul(8)).0;
        let geometry = self.geometry();
        let is_table = self.writing()?.refcounts.is_table(host);
        if geometry.index(host.0) == 0 || is_table || (l1.0..l1_end).contains(&host.0) {
            return Err(Corrupt::new("cluster", host.0, "it is the header or a table, and named as something else").into());
        }
        Ok(())
    }

    /// Makes the storage reach up to `end`.
    pub(in crate::qcow2) fn reach(&mut self, end: u64) -> Result<(), Error> {
        if end > self.storage.size() { Ok(self.storage.resize(end)?) } else { Ok(()) }
    }

    /// Returns whether the changed tables should be stored before more is written.
    pub(super) fn much_waits(&self) -> bool {
        let size = self.geometry().cluster_size();
        self.writing.as_ref().is_some_and(|writing| writing.waiting(size) > MOST_WAITING)
    }

    /// Stores the changed tables. All that was written is durable then.
    ///
    /// What fails stays in memory, is read from there, and may be stored another time.
    pub(in crate::qcow2) fn store(&mut self) -> Result<(), Error> {
        self.refuse_after_failure()?;
        self.store_in_order()
    }

    fn refuse_after_failure(&self) -> Result<(), Error> {
        if self.failed {
            return Err(block::Error::new(ErrorKind::Io, "an earlier write to the image has failed").into());
        }
        Ok(())
    }

    fn store_in_order(&mut self) -> Result<(), Error> {
        let allocated_end = self.writing.as_ref().map_or(0, |writing| writing.allocated_end);
        self.reach(allocated_end)?;
        // What the tables will refer to is stored before them, wherever it is.
        if let Some(file) = self.data_file.as_mut().filter(|_| self.writing.is_some()) {
            file.flush()?;
        }
        self.store_refcounts()?;
        self.storage.flush()?;
        let Some(writing) = self.writing.as_mut() else { return Ok(()) };
        for StagedTable { host, words } in writing.tables.values() {
            self.storage.write_all_at(&encode_words(words), host.0)?;
        }
        if !writing.tables.is_empty() {
            self.storage.flush()?;
        }
        for StagedTable { host, words } in std::mem::take(&mut writing.tables).into_values() {
            self.tables.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).insert(host.0, words);
        }
        self.store_l1()?;
        self.store_header()?;
        let Some(writing) = self.writing.as_mut() else { return Ok(()) };
        if writing.growing {
            // The header refers to what was given up still.
            return Ok(());
        }
        if !writing.freed.is_empty() {
            // What is freed may be where the last compressed cluster ends.
            writing.compressed_end = None;
        }
        let mut free = Vec::new();
        while let Some(cluster) = writing.freed.last().copied() {
            if writing.refcounts.release(&self.storage, cluster)? == 0 {
                free.push(cluster);
            }
            writing.freed.pop();
        }
        self.store_refcounts()?;
        self.give_back_clusters(free)
    }

    /// Gives the space of clusters, by index, back to the host: nothing stored refers to them any more.
    fn give_back_clusters(&mut self, mut free: Vec<u64>) -> Result<(), Error> {
        let geometry = self.geometry();
        free.sort_unstable();
        for run in free.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let first = geometry.offset(run.first().copied().unwrap_or(0)).unwrap_or(u64::MAX);
            let len = to_u64(run.len()).saturating_mul(geometry.cluster_size());
            let inside = ByteRange::new(0, self.storage.size()).and_then(|all| all.intersection(ByteRange::at(first, len)?));
            if let Some(range) = inside {
                self.storage.write_zeroes_at(range, Hole::Allow)?;
            }
        }
        Ok(())
    }

    fn store_refcounts(&mut self) -> Result<(), Error> {
        let Some(writing) = self.writing.as_mut() else { return Ok(()) };
        let end = writing.refcounts.end();
        if end > self.storage.size() {
            self.storage.resize(end)?;
        }
        if writing.refcounts.store(&mut self.storage)? {
            self.storage.flush()?;
            let mut fields = writing.refcounts.offset.0.to_be_bytes().to_vec();
            let count = u32::try_from(writing.refcounts.clusters).unwrap_or(u32::MAX);
            fields.extend_from_slice(&count.to_be_bytes());
            self.storage.write_all_at(&fields, REFCOUNT_TABLE)?;
            self.storage.flush()?;
            writing.refcounts.named();
            let (old, clusters) = (self.header.refcount_table_offset, self.header.refcount_table_clusters);
            self.header.refcount_table_offset = writing.refcounts.offset;
            self.header.refcount_table_clusters = writing.refcounts.clusters;
            self.free(old, clusters.saturating_mul(self.geometry().cluster_size()))?;
        }
        Ok(())
    }

    fn store_l1(&mut self) -> Result<(), Error> {
        let Some(writing) = self.writing.as_mut() else { return Ok(()) };
        if writing.l1_moved {
            self.storage.write_all_at(&encode_words(&self.l1), self.header.l1_offset.0)?;
        } else if !writing.l1_changed.is_empty() {
            for index in &writing.l1_changed {
                let word = self.l1.get(to_usize(*index)).copied().unwrap_or(0);
                self.storage.write_all_at(&word.to_be_bytes(), word_offset(self.header.l1_offset, *index))?;
            }
        } else {
            return Ok(());
        }
        self.storage.flush()?;
        writing.l1_moved = false;
        writing.l1_changed.clear();
        Ok(())
    }

    /// Stores the size of the disk and the place of the L1 table: neighbors in one sector.
    fn store_header(&mut self) -> Result<(), Error> {
        let Some(writing) = self.writing.as_mut() else { return Ok(()) };
        if !writing.header_changed {
            return Ok(());
        }
        let mut fields = self.header.size.to_be_bytes().to_vec();
        fields.extend_from_slice(&0_u32.to_be_bytes()); // crypt_method
        fields.extend_from_slice(&u32::try_from(to_u64(self.l1.len())).unwrap_or(u32::MAX).to_be_bytes());
        fields.extend_from_slice(&self.header.l1_offset.0.to_be_bytes());
        self.storage.write_all_at(&fields, SIZE_TO_L1)?;
        self.storage.flush()?;
        writing.header_changed = false;
        Ok(())
    }
}

/// Bytes of changed tables after which they are stored.
const MOST_WAITING: u64 = 16 << 20;

// Offsets in the header.
const SIZE_TO_L1: u64 = 24;
const REFCOUNT_TABLE: u64 = 48;
const AUTOCLEAR: u64 = 88;
