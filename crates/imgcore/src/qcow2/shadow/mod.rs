//! Changes of an image's metadata as a whole.
//!
//! ```text
//! old state   header --> L1, L2 tables, refcount table, refcount blocks, snapshot table, bitmap directory
//! new state   header --> the same where nothing changes, else copies in clusters that the old state does not use
//! ```
//!
//! Everything new is written beside the old and flushed; then one write of the header's first sector, which holds every place and
//! size, puts it in force. What the new state does not use is free in its refcounts at once. A cut leaves the old state or the
//! new one, and not even a leak.

mod header;
mod paths;
mod refcounts;
mod tables;

pub(super) use self::paths::L1;
use self::refcounts::NewRefcounts;
use super::error::Error;
use super::feature;
use super::header::Header;
use super::image::Image;
use super::offset::HostOffset;
use super::table::{len_of, read_words};
use crate::block::{ByteRange, Hole, Resize};

/// The new state of an image's metadata while it is made.
#[derive(Debug)]
pub(super) struct Shadow<'a, S> {
    image: &'a mut Image<S>,
    refcounts: NewRefcounts<'a>,
    /// The header as it will be, but for the refcount table. Change what is to change.
    pub(super) header: Header,
}

impl<S: Resize> Image<S> {
    /// Begins a change of the metadata, once everything that waits is stored.
    ///
    /// # Errors
    ///
    /// As [`Image::check_writable`] and [`crate::block::BlockWrite::flush`].
    pub(super) fn shadow(&mut self) -> Result<Shadow<'_, S>, Error> {
        self.check_writable()?;
        self.store_what_waits()?;
        let refcounts = NewRefcounts::open(&self.storage, &self.header)?;
        Ok(self.shadow_over(refcounts))
    }

    /// As [`Image::shadow`], but no stored refcount counts: each cluster begins at 0, and [`Shadow::refer`] says them all. `in_use`
    /// says which clusters, by index, anything refers to; the others are given out. The image's state is not asked for.
    pub(super) fn shadow_recounted<'a>(&'a mut self, in_use: &'a (dyn Fn(u64) -> bool + Sync)) -> Shadow<'a, S> {
        let refcounts = NewRefcounts::recounted(&self.header, in_use);
        self.shadow_over(refcounts)
    }

    fn shadow_over<'a>(&'a mut self, refcounts: NewRefcounts<'a>) -> Shadow<'a, S> {
        let mut header = self.header.clone();
        // Spec: "An implementation may only write to an image with unknown auto-clear features if it clears the respective
        // bits from this field first."
        header.autoclear &= feature::AUTOCLEAR;
        Shadow { image: self, refcounts, header }
    }

    fn store_what_waits(&mut self) -> Result<(), Error> {
        if self.writing.is_some() || self.failed { self.store() } else { Ok(()) }
    }

    /// Replaces the header, durably: the tables that it names are in force already.
    pub(super) fn replace_header(&mut self, header: Header) -> Result<(), Error> {
        header::replace(&mut self.storage, &header)?;
        self.adopt(header)
    }

    /// Takes over what a header that was stored says.
    fn adopt(&mut self, header: Header) -> Result<(), Error> {
        self.l1 = match header.l1_entries {
            0 => Vec::new(),
            entries => read_words(&self.storage, "L1 table", header.l1_offset, entries)?,
        };
        self.header = header;
        self.writing = None;
        self.forget();
        Ok(())
    }

    /// Gives space that nothing refers to back to the host: holes, and a shorter file.
    fn give_back(&mut self, free: &[ByteRange]) {
        for range in free.iter().rev() {
            let size = self.storage.size();
            if range.start() < size && range.end() >= size && self.storage.resize(range.start()).is_ok() {
                continue;
            }
            if let Some(range) = ByteRange::new(0, self.storage.size()).and_then(|all| all.intersection(*range)) {
                // The change is complete: where this fails, some space stays taken.
                let _kept = self.storage.write_zeroes_at(range, Hole::Allow);
            }
        }
    }
}

impl<S: Resize> Shadow<'_, S> {
    /// Returns the image in its old state.
    pub(super) fn image(&self) -> &Image<S> {
        self.image
    }

    /// Gives refcounts `1 << order` bits. Must come before any other change.
    pub(super) fn set_refcount_order(&mut self, order: u32) {
        self.header.geometry.refcount_order = order;
        self.refcounts.set_order(order);
    }

    /// Returns the first of `count` neighboring clusters that the old state does not use; each has one reference from now on.
    pub(super) fn allocate(&mut self, count: u64) -> Result<HostOffset, Error> {
        self.refcounts.allocate(&mut self.image.storage, count)
    }

    /// Adds `change` references to each cluster under the `len` bytes at `host`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when a refcount cannot hold so many, [`Error::Corrupt`] when it would fall below 0, or would rise
    /// from 0: there is a reference already that is not counted.
    pub(super) fn refer(&mut self, host: HostOffset, len: u64, change: i64) -> Result<(), Error> {
        let geometry = self.header.geometry;
        let (first, end) = (geometry.index(host.0), geometry.clusters(host.plus(len).0));
        self.refcounts.refer(&mut self.image.storage, first, end, change)
    }

    /// Returns the refcount of the cluster at `host` as it will be.
    pub(super) fn refcount(&mut self, host: HostOffset) -> Result<u64, Error> {
        let cluster = self.header.geometry.index(host.0);
        self.refcounts.get(&mut self.image.storage, cluster)
    }

    /// Writes `bytes` to clusters that were allocated here.
    pub(super) fn write(&mut self, host: HostOffset, bytes: &[u8]) -> Result<(), Error> {
        self.image.reach(host.plus(len_of(bytes)).0)?;
        Ok(self.image.storage.write_all_at(bytes, host.0)?)
    }

    /// Makes clusters that were allocated here read as zeros.
    pub(super) fn write_zeroes(&mut self, host: HostOffset, len: u64) -> Result<(), Error> {
        self.image.reach(host.plus(len).0)?;
        Ok(self.image.storage.write_zeroes_at(ByteRange::at(host.0, len).unwrap_or_default(), Hole::Allow)?)
    }

    /// Puts the new state in force, durably.
    ///
    /// # Errors
    ///
    /// The failure of the storage, after which the image cannot be written before it is opened again: it is in the old state or
    /// in the new one.
    pub(super) fn commit(self) -> Result<(), Error> {
        let Self { image, mut refcounts, mut header } = self;
        if let Some((offset, clusters)) = refcounts.store(&mut image.storage)? {
            header.refcount_table_offset = offset;
            header.refcount_table_clusters = clusters;
        }
        let free = refcounts.free(&mut image.storage)?;
        let stored = image.storage.flush().map_err(Error::from);
        let stored = stored.and_then(|()| header::replace(&mut image.storage, &header)).and_then(|()| image.adopt(header));
        if stored.is_err() {
            image.failed = true;
        } else {
            image.give_back(&free);
        }
        stored
    }
}
