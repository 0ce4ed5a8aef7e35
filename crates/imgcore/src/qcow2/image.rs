use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use super::bitmap::{self, Bitmap, Recording};
use super::cache::Cache;
use super::compression::{Compression, Inflater};
use super::entry::decode_l1;
use super::error::{Error, Unsupported};
use super::extension::Extension;
use super::feature;
use super::geometry::Geometry;
use super::header::{Header, Version};
use super::offset::{HostOffset, to_usize};
use super::snapshots::{self, Snapshot};
use super::table::{read_stored, read_words, word_offset};
use super::writing::Writing;
use crate::block::BlockRead;

/// A qcow2 image over its storage.
///
/// It opens nothing by itself: what lies below it is given to it, with [`Image::set_backing`] and [`Image::set_data_file`].
/// Reading works from many threads at once; memory is bounded whatever the image says.
#[derive(Debug)]
pub struct Image<S> {
    pub(super) storage: S,
    pub(super) data_file: Option<S>,
    pub(super) backing: Option<Arc<dyn BlockRead>>,
    pub(super) header: Header,
    /// The active L1 table.
    pub(super) l1: Vec<u64>,
    /// L2 tables by their offset.
    pub(super) tables: Mutex<Cache<Arc<Vec<u64>>>>,
    /// The offsets of L2 tables without an entry.
    pub(super) empty_tables: Mutex<Cache<()>>,
    /// Inflated clusters by the offset of their compressed form.
    pub(super) inflated: Mutex<Cache<Arc<Vec<u8>>>>,
    /// Decompressors that no thread uses at the moment.
    pub(super) inflaters: Mutex<Vec<Inflater>>,
    /// What writing has changed and not stored yet.
    pub(super) writing: Option<Box<Writing>>,
    /// What the bitmaps are to be told.
    pub(super) recording: Option<Box<Recording>>,
    /// Whether storing has failed, so that memory and storage may differ.
    pub(super) failed: bool,
    /// Whether it reads as a snapshot shows it.
    pub(super) is_view: bool,
}

/// What an image says about its backing file. Following it is the caller's decision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackingFile {
    /// The name as stored: a path, absolute or relative to the image, or anything else.
    pub name: Vec<u8>,
    /// The format as stored.
    pub format: Option<String>,
}

/// What an image says about its external data file. Following it is the caller's decision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataFile {
    /// The name, where there is one.
    pub name: Option<Vec<u8>>,
    /// Whether it can be read as a raw image by itself.
    pub raw: bool,
}

impl<S: BlockRead> Image<S> {
    /// Reads the header and the L1 table of the image in `storage`.
    ///
    /// # Errors
    ///
    /// [`Error::NotQcow2`], [`Error::Corrupt`] when the header or the place of a table breaks a rule,
    /// [`Error::Unsupported`] for encryption, unknown features and tables beyond QEMU's limits, [`Error::Storage`].
    pub fn open(storage: S) -> Result<Self, Error> {
        let header = Header::read(&storage)?;
        let l1 = match header.l1_entries {
            0 => Vec::new(),
            entries => read_words(&storage, "L1 table", header.l1_offset, entries)?,
        };
        let cluster_len = header.geometry.cluster_len();
        Ok(Self {
            storage,
            data_file: None,
            backing: None,
            l1,
            tables: Mutex::new(Cache::new(TABLE_CACHE, cluster_len)),
            empty_tables: Mutex::new(Cache::new(TABLE_CACHE, size_of::<u64>())),
            inflated: Mutex::new(Cache::new(INFLATED_CACHE, cluster_len)),
            inflaters: Mutex::default(),
            header,
            writing: None,
            recording: None,
            failed: false,
            is_view: false,
        })
    }

    /// Gives the image the disk from which unallocated clusters read.
    pub fn set_backing(&mut self, backing: Arc<dyn BlockRead>) {
        self.backing = Some(backing);
    }

    /// Gives the image the file that holds its guest clusters.
    pub fn set_data_file(&mut self, data_file: S) {
        self.data_file = Some(data_file);
    }

    /// Returns what the image says about its backing file.
    #[must_use]
    pub fn backing_file(&self) -> Option<BackingFile> {
        let name = self.header.backing_name.clone()?;
        let format = self.header.extension(Extension::BACKING_FORMAT);
        Some(BackingFile { name, format: format.map(|format| String::from_utf8_lossy(format).into_owned()) })
    }

    /// Returns what the image says about its external data file.
    #[must_use]
    pub fn data_file(&self) -> Option<DataFile> {
        self.has_data_file().then(|| DataFile {
            name: self.header.extension(Extension::DATA_FILE).map(<[u8]>::to_vec),
            raw: self.header.autoclear & feature::RAW_DATA_FILE != 0,
        })
    }

    pub(super) fn has_data_file(&self) -> bool {
        self.header.incompatible & feature::DATA_FILE != 0
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// Forgets what was read of tables and clusters.
    pub(super) fn forget(&mut self) {
        let cluster_len = self.geometry().cluster_len();
        self.tables = Mutex::new(Cache::new(TABLE_CACHE, cluster_len));
        self.empty_tables = Mutex::new(Cache::new(TABLE_CACHE, size_of::<u64>()));
        self.inflated = Mutex::new(Cache::new(INFLATED_CACHE, cluster_len));
    }

    /// Returns the storage below.
    #[must_use]
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Returns the external data file that it was given.
    #[must_use]
    pub fn data_storage(&self) -> Option<&S> {
        self.data_file.as_ref()
    }

    /// Returns the storage below. What was written and not flushed is lost.
    #[must_use]
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// Returns the version of the format.
    #[must_use]
    pub fn version(&self) -> Version {
        self.header.version
    }

    /// Returns the bytes of a cluster.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.geometry().cluster_size()
    }

    /// Returns the bits of a refcount.
    #[must_use]
    pub fn refcount_bits(&self) -> u32 {
        self.geometry().refcount_bits()
    }

    /// Returns whether clusters are allocated in 32 parts.
    #[must_use]
    pub fn extended_l2(&self) -> bool {
        self.geometry().extended_l2
    }

    /// Returns how compressed clusters are stored.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.header.compression
    }

    /// Returns whether refcount updates may be postponed.
    #[must_use]
    pub fn lazy_refcounts(&self) -> bool {
        self.header.compatible & feature::LAZY_REFCOUNTS != 0
    }

    /// Returns whether the header has a feature bit that is not known here; such an incompatible one is refused anyway.
    #[must_use]
    pub fn has_unknown_features(&self) -> bool {
        self.header.compatible & !feature::LAZY_REFCOUNTS != 0 || self.header.autoclear & !feature::AUTOCLEAR != 0
    }

    /// Returns whether the image was not closed properly, so that its refcounts may be wrong.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.header.incompatible & feature::DIRTY != 0
    }

    /// Returns whether another program found the image corrupt and marked it.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.header.incompatible & feature::CORRUPT != 0
    }

    /// Reads the list of internal snapshots.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the table breaks a rule, [`Error::Storage`].
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, Error> {
        snapshots::read_all(&self.storage, &self.header)
    }

    /// Reads the list of persistent bitmaps.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the directory breaks a rule, [`Error::Storage`].
    pub fn bitmaps(&self) -> Result<Vec<Bitmap>, Error> {
        bitmap::read_all(&self.storage, &self.header)
    }

    /// Returns the L2 table for the L1 entry `index`, or `None` when there is none.
    pub(super) fn l2_table(&self, index: u64) -> Result<Option<Arc<Vec<u64>>>, Error> {
        if let Some(table) = self.writing.as_ref().and_then(|writing| writing.table(index)) {
            return Ok(Some(table));
        }
        let word = self.l1.get(to_usize(index)).copied().unwrap_or(0);
        let at = word_offset(self.header.l1_offset, index);
        let Some((offset, _)) = decode_l1(word, self.geometry(), at)? else { return Ok(None) };
        if let Some(table) = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(offset.0) {
            return Ok(Some(table));
        }
        let table = Arc::new(read_words(&self.storage, "L2 table", offset, self.geometry().words(1))?);
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).insert(offset.0, Arc::clone(&table));
        Ok(Some(table))
    }

    /// As [`Image::l2_table`], but `None` also for a table without an entry, so that nobody looks for one twice.
    pub(super) fn mapped_table(&self, index: u64) -> Result<Option<Arc<Vec<u64>>>, Error> {
        if let Some(table) = self.writing.as_ref().and_then(|writing| writing.table(index)) {
            return Ok(Some(table));
        }
        let word = self.l1.get(to_usize(index)).copied().unwrap_or(0);
        let at = word_offset(self.header.l1_offset, index);
        let Some((offset, _)) = decode_l1(word, self.geometry(), at)? else { return Ok(None) };
        if self.empty_tables.lock().unwrap_or_else(PoisonError::into_inner).get(offset.0).is_some() {
            return Ok(None);
        }
        if let Some(table) = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(offset.0) {
            return Ok(Some(table));
        }
        let table = if self.lies_in_hole(offset)? { None } else { self.l2_table(index)? };
        if table.as_ref().is_none_or(|words| words.iter().all(|word| *word == 0)) {
            self.empty_tables.lock().unwrap_or_else(PoisonError::into_inner).insert(offset.0, ());
            return Ok(None);
        }
        Ok(table)
    }

    /// Returns whether the cluster at `offset` has never been written.
    pub(super) fn lies_in_hole(&self, offset: HostOffset) -> Result<bool, Error> {
        if offset.0 >= self.storage.size() {
            return Ok(false);
        }
        let extent = self.storage.extent_at(offset.0)?;
        let end = offset.plus(self.geometry().cluster_size()).0.min(self.storage.size());
        Ok(extent.reads_as_zeros() && extent.range.end() >= end)
    }

    /// Returns the cluster whose compressed form is the `len` bytes at `start`.
    pub(super) fn inflate(&self, start: HostOffset, len: u64) -> Result<Arc<Vec<u8>>, Error> {
        if let Some(cluster) = self.inflated.lock().unwrap_or_else(PoisonError::into_inner).get(start.0) {
            return Ok(cluster);
        }
        let mut cluster = vec![0; self.geometry().cluster_len()];
        self.inflate_into(start, len, &mut cluster)?;
        let cluster = Arc::new(cluster);
        self.inflated.lock().unwrap_or_else(PoisonError::into_inner).insert(start.0, Arc::clone(&cluster));
        Ok(cluster)
    }

    /// Fills `cluster` from its compressed form, the `len` bytes at `start`.
    pub(super) fn inflate_into(&self, start: HostOffset, len: u64, cluster: &mut [u8]) -> Result<(), Error> {
        let free = self.inflaters.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut inflater = free.unwrap_or_else(|| Inflater::new(self.compression()));
        inflater.stored.resize(to_usize(len), 0);
        read_stored(&self.storage, "compressed cluster", start, &mut inflater.stored)?;
        let done = inflater.inflate(cluster);
        // There are no more of them than threads that read.
        self.inflaters.lock().unwrap_or_else(PoisonError::into_inner).push(inflater);
        if done {
            return Ok(());
        }
        let rule = "it does not decompress to a cluster";
        Err(super::error::Corrupt::new("compressed cluster", start.0, rule).into())
    }

    /// Fills `buf` with the bytes of standard clusters.
    pub(super) fn read_clusters(&self, host: HostOffset, buf: &mut [u8]) -> Result<(), Error> {
        match (&self.data_file, self.has_data_file()) {
            (None, false) => {
                // What lies behind the end of the file was never written. It reads as zeros, as in QEMU; a check finds it.
                let stored = to_usize(self.storage.size().saturating_sub(host.0)).min(buf.len());
                let (inside, behind) = buf.split_at_mut(stored);
                behind.fill(0);
                Ok(if inside.is_empty() { Ok(()) } else { self.storage.read_exact_at(inside, host.0) }?)
            }
            (Some(file), true) => {
                let stored = to_usize(file.size().saturating_sub(host.0)).min(buf.len());
                let (inside, behind) = buf.split_at_mut(stored);
                behind.fill(0);
                Ok(if inside.is_empty() { Ok(()) } else { file.read_exact_at(inside, host.0) }?)
            }
            _ => Err(Unsupported::DataFile.into()),
        }
    }
}

/// Bytes of L2 tables that are kept: enough to map 128 GiB of clusters of 64 KiB.
const TABLE_CACHE: usize = 16 << 20;

/// Bytes of inflated clusters that are kept: a cluster is usually read in pieces, one after the other.
const INFLATED_CACHE: usize = 4 << 20;
