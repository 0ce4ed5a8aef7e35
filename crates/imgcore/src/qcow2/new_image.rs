use super::entry::{Entry, Standard, encode_l1};
use super::error::Error;
use super::geometry::Geometry;
use super::header::Header;
use super::layout::Layout;
use super::offset::{GuestOffset, HostOffset, to_usize};
use super::options::CreateOptions;
use super::refcount_block;
use super::table::{encode_words, is_zero, len_of};
use crate::block::{ByteRange, Hole, Resize};

/// A new image that is written in one pass, from the first cluster of the disk to the last.
///
/// Guest data goes behind the place of the tables as it comes; the tables are written when nothing can change in them any
/// more, the header last. Memory is a few MiB and, for compressed images, four bytes for each cluster.
#[derive(Debug)]
pub(super) struct NewImage<'a, T: ?Sized> {
    target: &'a mut T,
    header: Header,
    layout: Layout,
    l1: Vec<u64>,
    /// The L2 table that is being filled, and its L1 index.
    table: Vec<u64>,
    table_index: Option<u64>,
    tables: Batch,
    tables_used: u64,
    data: Batch,
    /// The next free cluster.
    next: u64,
    /// Where the next compressed bytes may go: from here to the end of its cluster.
    gap: ByteRange,
    /// The refcounts of clusters from `layout.data` on, when they are not all 1.
    counts: Vec<u32>,
}

/// Bytes that wait to be written together.
#[derive(Debug, Default)]
struct Batch {
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, T: Resize + ?Sized> NewImage<'a, T> {
    /// Empties `target` and sets out the image, whose L2 tables and clusters will not be more than the given numbers.
    pub(super) fn begin(target: &'a mut T, options: &CreateOptions, l2_count: u64, data_count: u64) -> Result<Self, Error> {
        let mut header = options.header()?;
        let geometry = header.geometry;
        let layout = Layout::plan(geometry, header.l1_entries, l2_count, data_count)?;
        header.refcount_table_offset = at(geometry, 1)?;
        header.refcount_table_clusters = layout.table_clusters;
        header.l1_offset = at(geometry, layout.l1())?;
        header.encode()?;
        target.resize(0)?;
        target.resize(at(geometry, layout.data.saturating_add(data_count))?.0)?;
        Ok(Self {
            l1: vec![0; to_usize(header.l1_entries)],
            table: Vec::new(),
            table_index: None,
            tables: Batch { start: at(geometry, layout.l2())?.0, bytes: Vec::new() },
            tables_used: 0,
            data: Batch { start: at(geometry, layout.data)?.0, bytes: Vec::new() },
            next: layout.data,
            gap: ByteRange::default(),
            counts: Vec::new(),
            target,
            header,
            layout,
        })
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// Stores whole clusters from cluster `first` on.
    pub(super) fn put_data(&mut self, first: u64, bytes: &[u8]) -> Result<(), Error> {
        let count = self.geometry().clusters(len_of(bytes));
        let host = self.allocate(first, count)?;
        if self.data.start.saturating_add(len_of(&self.data.bytes)) != host.0 {
            self.data.flush(self.target)?;
            self.data.start = host.0;
        }
        if bytes.len() >= BATCH {
            self.data.flush(self.target)?;
            self.target.write_all_at(bytes, host.0)?;
            self.data.start = host.plus(len_of(bytes)).0;
            return Ok(());
        }
        self.data.bytes.extend_from_slice(bytes);
        if self.data.bytes.len() >= BATCH { self.data.flush(self.target) } else { Ok(()) }
    }

    /// Gives `count` clusters from `first` on a place, where they read as zeros, with space for them if `space` says so.
    pub(super) fn put_preallocated(&mut self, first: u64, count: u64, space: bool) -> Result<(), Error> {
        let host = self.allocate(first, count)?;
        let range = ByteRange::at(host.0, count.saturating_mul(self.geometry().cluster_size())).unwrap_or_default();
        if space {
            self.target.write_zeroes_at(range, Hole::Keep)?;
        }
        Ok(())
    }

    /// Makes `count` clusters from `first` on those of an external data file.
    pub(super) fn put_external(&mut self, first: u64, count: u64) -> Result<(), Error> {
        let geometry = self.geometry();
        for cluster in first..first.saturating_add(count) {
            let host = Some(at(geometry, cluster)?);
            self.set(cluster, Entry::encode(standard(host, geometry), geometry))?;
        }
        Ok(())
    }

    /// Makes `count` clusters from `first` on read as zeros, whatever the backing disk holds. Version 3 only.
    pub(super) fn put_zero(&mut self, first: u64, count: u64) -> Result<(), Error> {
        let geometry = self.geometry();
        let zero = if geometry.extended_l2 { u32::MAX } else { 1 };
        let words = Entry::encode(Standard { zero, ..Standard::default() }, geometry);
        for cluster in first..first.saturating_add(count) {
            self.set(cluster, words)?;
        }
        Ok(())
    }

    /// Stores `bytes` as the compressed form of a cluster.
    ///
    /// Returns whether that was possible; if not, nothing has changed.
    pub(super) fn put_compressed(&mut self, cluster: u64, bytes: &[u8]) -> Result<bool, Error> {
        let geometry = self.geometry();
        let len = len_of(bytes);
        let start = self.gap_for(len)?;
        let Some(word) = Entry::encode_compressed(HostOffset(start), len, geometry) else { return Ok(false) };
        let end = start.saturating_add(len);
        self.next = self.next.max(geometry.clusters(end));
        self.gap = ByteRange::new(end, geometry.clusters(end).saturating_mul(geometry.cluster_size())).unwrap_or_default();
        for host in geometry.index(start)..geometry.clusters(end) {
            self.count(host);
        }
        if self.data.start.saturating_add(len_of(&self.data.bytes)) != start {
            self.data.flush(self.target)?;
            self.data.start = start;
        }
        self.data.bytes.extend_from_slice(bytes);
        if self.data.bytes.len() >= BATCH {
            self.data.flush(self.target)?;
        }
        self.set(cluster, [word, 0])?;
        Ok(true)
    }

    /// Returns where `len` compressed bytes go: into the gap if they fit it or if the clusters behind it are free.
    fn gap_for(&self, len: u64) -> Result<u64, Error> {
        let geometry = self.geometry();
        let fresh = at(geometry, self.next)?.0;
        let full = self.refcount(geometry.index(self.gap.start())) >= geometry.refcount_max();
        if self.gap.is_empty() || full || (self.gap.len() < len && self.gap.end() != fresh) {
            return Ok(fresh);
        }
        Ok(self.gap.start())
    }

    fn refcount(&self, host: u64) -> u64 {
        let index = host.checked_sub(self.layout.data).map(to_usize);
        index.and_then(|index| self.counts.get(index)).map_or(0, |count| u64::from(*count))
    }

    fn count(&mut self, host: u64) {
        let index = to_usize(host.saturating_sub(self.layout.data));
        if self.counts.len() <= index {
            self.counts.resize(index.saturating_add(1), 0);
        }
        if let Some(count) = self.counts.get_mut(index) {
            *count = count.saturating_add(1);
        }
    }

    /// Gives `count` guest clusters the next host clusters.
    fn allocate(&mut self, first: u64, count: u64) -> Result<HostOffset, Error> {
        let geometry = self.geometry();
        let start = at(geometry, self.next)?;
        for step in 0..count {
            let host = at(geometry, self.next)?;
            let words = Entry::encode(standard(Some(host), geometry), geometry);
            self.set(first.saturating_add(step), words)?;
            self.count(self.next);
            self.next = self.next.saturating_add(1);
        }
        Ok(start)
    }

    /// Sets the entry of a guest cluster. Clusters come in ascending order.
    fn set(&mut self, cluster: u64, words: [u64; 2]) -> Result<(), Error> {
        let geometry = self.geometry();
        let guest = GuestOffset(at(geometry, cluster)?.0);
        let index = geometry.l1_index(guest);
        if self.table_index != Some(index) {
            self.finish_table()?;
            self.table = vec![0; to_usize(geometry.words(1))];
            self.table_index = Some(index);
        }
        let place = to_usize(geometry.l2_index(guest).saturating_mul(geometry.l2_words()));
        let entry = self.table.get_mut(place..).unwrap_or_default();
        for (to, from) in entry.iter_mut().zip(words).take(to_usize(geometry.l2_words())) {
            *to = from;
        }
        Ok(())
    }

    fn finish_table(&mut self) -> Result<(), Error> {
        let Some(index) = self.table_index.take() else { return Ok(()) };
        let host = at(self.geometry(), self.layout.l2().saturating_add(self.tables_used))?;
        self.tables_used = self.tables_used.saturating_add(1);
        if let Some(word) = self.l1.get_mut(to_usize(index)) {
            *word = encode_l1(host);
        }
        self.tables.bytes.extend_from_slice(&encode_words(&self.table));
        if self.tables.bytes.len() >= BATCH { self.tables.flush(self.target) } else { Ok(()) }
    }

    /// Writes what is left: data, tables, and the header. Nothing is flushed.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.finish_table()?;
        let geometry = self.geometry();
        self.data.flush(self.target)?;
        self.target.resize(at(geometry, self.next)?.0)?;
        let mut front = Batch { start: 0, bytes: self.header.encode()? };
        front.pad_to(at(geometry, 1)?.0);
        for block in 0..self.layout.block_count {
            let host = at(geometry, self.layout.blocks().saturating_add(block))?;
            front.bytes.extend_from_slice(&host.0.to_be_bytes());
        }
        front.pad_to(at(geometry, self.layout.blocks())?.0);
        for block in 0..self.layout.block_count {
            let bytes = self.refcount_block(block);
            front.bytes.extend_from_slice(&bytes);
            front.flush_if_large(self.target)?;
        }
        front.bytes.extend_from_slice(&encode_words(&self.l1));
        front.flush_if_large(self.target)?;
        front.pad_to(at(geometry, self.layout.l2())?.0);
        if front.end() == self.tables.start {
            front.bytes.append(&mut self.tables.bytes);
        } else {
            self.tables.flush(self.target)?;
        }
        front.flush(self.target)
    }

    fn refcount_block(&self, block: u64) -> Vec<u8> {
        let geometry = self.geometry();
        let mut bytes = vec![0; geometry.cluster_len()];
        let first = block.saturating_mul(geometry.refcount_block_entries());
        let last = first.saturating_add(geometry.refcount_block_entries()).min(self.next);
        let tables_end = self.layout.l2().saturating_add(self.tables_used);
        for host in first..last {
            let count = if host < tables_end { 1 } else { self.refcount(host) };
            if count > 0 {
                refcount_block::set(&mut bytes, to_usize(host.saturating_sub(first)), geometry.refcount_order, count);
            }
        }
        bytes
    }
}

impl Batch {
    fn end(&self) -> u64 {
        self.start.saturating_add(len_of(&self.bytes))
    }

    fn pad_to(&mut self, offset: u64) {
        self.bytes.resize(to_usize(offset.saturating_sub(self.start)), 0);
    }

    fn flush_if_large<T: Resize + ?Sized>(&mut self, target: &mut T) -> Result<(), Error> {
        if self.bytes.len() >= BATCH { self.flush(target) } else { Ok(()) }
    }

    /// Writes the bytes, but for long runs of zeros: the target has been emptied, so its holes read as zeros already.
    fn flush<T: Resize + ?Sized>(&mut self, target: &mut T) -> Result<(), Error> {
        let mut rest = self.bytes.as_slice();
        let mut offset = self.start;
        while !rest.is_empty() {
            let zeros: usize = rest.chunks(HOLE).take_while(|chunk| is_zero(chunk)).map(<[u8]>::len).sum();
            let (skipped, behind) = rest.split_at(zeros);
            let bytes: usize = behind.chunks(HOLE).take_while(|chunk| !is_zero(chunk)).map(<[u8]>::len).sum();
            let (run, behind) = behind.split_at(bytes);
            offset = offset.saturating_add(len_of(skipped));
            if !run.is_empty() {
                target.write_all_at(run, offset)?;
            }
            offset = offset.saturating_add(len_of(run));
            rest = behind;
        }
        self.start = self.end();
        self.bytes.clear();
        Ok(())
    }
}

/// Returns the entry of a wholly allocated cluster.
fn standard(host: Option<HostOffset>, geometry: Geometry) -> Standard {
    let allocated = if geometry.extended_l2 { u32::MAX } else { 1 };
    Standard { host, copied: true, allocated, zero: 0 }
}

/// Returns the offset of a cluster of the new image.
fn at(geometry: Geometry, cluster: u64) -> Result<HostOffset, Error> {
    // An L1 or L2 entry has 56 bits.
    let offset = geometry.offset(cluster).filter(|offset| *offset < 1 << 56);
    offset.map(HostOffset).ok_or_else(|| Error::InvalidOptions("the image is too large".to_owned()))
}

/// Bytes that are written together: enough that system calls cost little, few enough that memory is not touched for it.
const BATCH: usize = 256 << 10;
/// Bytes of zeros that are worth a hole: fewer would cost more in extents than they save.
const HOLE: usize = 16 << 10;
