//! Writing compressed clusters, which lie one behind the other and share host clusters.

use std::sync::PoisonError;

use crate::block::{self, ByteRange, Resize};
use crate::qcow2::entry::{Entry, Standard};
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::image::Image;
use crate::qcow2::offset::{GuestOffset, HostOffset};
use crate::qcow2::table::len_of;

impl<S: Resize> Image<S> {
    /// Stores the cluster at byte `offset` of the disk in the compressed form `stored`, made by a [`super::super::Deflater`].
    ///
    /// What was written is durable after a flush.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when `offset` is not the start of a cluster inside the disk, [`Error::Unsupported`] with an external
    /// data file or when the image has become too large for compressed clusters, otherwise as for other writes.
    pub fn write_compressed(&mut self, stored: &[u8], offset: u64) -> Result<(), Error> {
        let geometry = self.geometry();
        let size = self.header.size;
        if offset >= size || !geometry.is_aligned(offset) || len_of(stored) >= geometry.cluster_size() {
            return Err(block::Error::out_of_bounds(offset, geometry.cluster_size(), size).into());
        }
        if self.has_data_file() {
            return Err(Unsupported::Writing("with an external data file, which holds nothing compressed").into());
        }
        self.begin()?;
        self.note_change(ByteRange::at(offset, geometry.cluster_size()).unwrap_or_default());
        let guest = GuestOffset(offset);
        let old = self.stage_entry(guest)?;
        let host = self.place_compressed(len_of(stored))?;
        let too_far = Unsupported::Writing("that is too large for compressed clusters");
        let word = Entry::encode_compressed(host, len_of(stored), geometry).ok_or(too_far)?;
        self.reach(host.plus(len_of(stored)).0)?;
        self.storage.write_all_at(stored, host.0)?;
        // Another one may have begun here before.
        self.inflated.get_mut().unwrap_or_else(PoisonError::into_inner).remove(host.0);
        self.set_words(guest, [word, 0])?;
        match old {
            Entry::Compressed { start, len } => self.free(start, len)?,
            Entry::Standard(Standard { host: Some(host), .. }) => self.free(host, geometry.cluster_size())?,
            Entry::Standard(_) => {}
        }
        if self.much_waits() { self.store() } else { Ok(()) }
    }

    /// Returns room for `len` bytes, fewer than a cluster: behind the last compressed cluster where that is possible.
    fn place_compressed(&mut self, len: u64) -> Result<HostOffset, Error> {
        let geometry = self.geometry();
        let tail = self.writing()?.compressed_end.take().filter(|end| !geometry.is_aligned(end.0));
        let host = match tail {
            Some(tail) => self.behind(tail, len)?,
            None => self.allocate()?,
        };
        self.writing()?.compressed_end = Some(host.plus(len));
        Ok(host)
    }

    /// Returns room at `tail`, inside a cluster that is in use, or else at the start of a new cluster.
    fn behind(&mut self, tail: HostOffset, len: u64) -> Result<HostOffset, Error> {
        let geometry = self.geometry();
        let cluster_end = geometry.align_down(tail.0).saturating_add(geometry.cluster_size());
        let next = if tail.plus(len).0 > cluster_end { Some(self.allocate()?) } else { None };
        if next.is_some_and(|next| next.0 != cluster_end) {
            return Ok(next.unwrap_or(tail));
        }
        let cluster = geometry.index(tail.0);
        let storage = &self.storage;
        let shared = match &mut self.writing {
            Some(writing) => writing.refcounts.share(storage, cluster)?,
            None => false,
        };
        match (shared, next) {
            (true, _) => Ok(tail),
            (false, Some(next)) => Ok(next),
            (false, None) => self.allocate(),
        }
    }
}
