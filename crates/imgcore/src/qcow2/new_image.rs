use super::counts::Counts;
use super::entry::{Entry, Standard, encode_l1};
use super::error::Error;
use super::geometry::Geometry;
use super::header::Header;
use super::offset::{GuestOffset, HostOffset, to_u64, to_usize};
use super::options::{CreateOptions, Preallocation};
use super::table::{encode_words, is_zero, len_of};
use crate::block::{ByteRange, Resize};

/// A new image that is written in one pass, from the first cluster of the disk to the last.
///
/// ```text
/// | header | clusters of an L2 table | the table | clusters … | L1 table | refcount blocks | refcount table |
/// ```
///
/// Guest data goes to the end as it comes, and each table behind what it maps as soon as nothing can change in it any more: a
/// refcount block once all of its clusters are given out, the rest at the end, the header last. Nothing has to be known
/// beforehand, and memory is a few tables, whatever the size of the disk.
#[derive(Debug)]
pub(super) struct NewImage<'a, T: ?Sized> {
    target: &'a mut T,
    header: Header,
    l1: Vec<u64>,
    /// The L2 table that is being filled, and its L1 index.
    table: Vec<u64>,
    table_index: Option<u64>,
    counts: Counts,
    /// What waits to be written, up to the end of all that was given out.
    out: Batch,
    /// The next free cluster.
    next: u64,
    /// Where the next compressed bytes may go: from here to `next`.
    gap: Option<u64>,
}

impl<'a, T: Resize + ?Sized> NewImage<'a, T> {
    /// Empties `target` and begins the image.
    pub(super) fn begin(target: &'a mut T, options: &CreateOptions) -> Result<Self, Error> {
        let header = options.header()?;
        let geometry = header.geometry;
        header.encode()?;
        // ext4 takes a file that was made empty for one that is rewritten in place, and stores it as soon as it is closed.
        if target.size() > 0 {
            target.resize(0)?;
        }
        let mut image = Self {
            l1: vec![0; to_usize(header.l1_entries)],
            table: Vec::new(),
            table_index: None,
            counts: Counts::new(geometry),
            out: Batch { start: geometry.cluster_size(), bytes: Vec::new() },
            next: 0,
            gap: None,
            target,
            header,
        };
        image.take(1)?;
        Ok(image)
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// Stores whole clusters from cluster `first` on.
    pub(super) fn put_data(&mut self, first: u64, bytes: &[u8]) -> Result<(), Error> {
        let size = self.geometry().cluster_size();
        let mut rest = bytes;
        self.allocate(first, self.geometry().clusters(len_of(bytes)), |image, host, count| {
            let (part, behind) = rest.split_at(to_usize(count.saturating_mul(size)).min(rest.len()));
            rest = behind;
            image.append(host, part)
        })
    }

    /// Gives `count` clusters from `first` on a place, where they read as zeros, with as much space as `mode` says.
    pub(super) fn put_preallocated(&mut self, first: u64, count: u64, mode: Preallocation) -> Result<(), Error> {
        let size = self.geometry().cluster_size();
        self.allocate(first, count, |image, host, count| {
            let range = ByteRange::at(host.0, count.saturating_mul(size)).unwrap_or_default();
            image.reach(range.end())?;
            Ok(mode.fill(image.target, range)?)
        })
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
        self.turn_to(cluster)?;
        let fresh = at(geometry, self.next)?.0;
        let shared = |start: &u64| self.counts.refcount(geometry.index(*start)) < geometry.refcount_max();
        let start = self.gap.filter(shared).unwrap_or(fresh);
        let Some(word) = Entry::encode_compressed(HostOffset(start), len_of(bytes), geometry) else { return Ok(false) };
        let end = start.saturating_add(len_of(bytes));
        let (first, last) = (geometry.index(start), geometry.clusters(end));
        self.counts.add(first, last.saturating_sub(first));
        self.next = self.next.max(last);
        self.gap = (!geometry.is_aligned(end)).then_some(end);
        self.append(HostOffset(start), bytes)?;
        self.set(cluster, [word, 0])?;
        Ok(true)
    }

    /// Gives `count` guest clusters the next host clusters; `fill` is told of each run of them.
    fn allocate(
        &mut self,
        first: u64,
        count: u64,
        mut fill: impl FnMut(&mut Self, HostOffset, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let geometry = self.geometry();
        let mut cluster = first;
        let end = first.saturating_add(count);
        while cluster < end {
            self.turn_to(cluster)?;
            // A table goes behind the clusters that it maps.
            let last = cluster.saturating_add(1).next_multiple_of(geometry.l2_entries()).min(end);
            let host = self.take(last.saturating_sub(cluster))?;
            for index in 0..last.saturating_sub(cluster) {
                let host = host.plus(index.saturating_mul(geometry.cluster_size()));
                self.set(cluster.saturating_add(index), Entry::encode(standard(Some(host), geometry), geometry))?;
            }
            fill(self, host, last.saturating_sub(cluster))?;
            cluster = last;
        }
        Ok(())
    }

    /// Gives out the next `count` clusters.
    fn take(&mut self, count: u64) -> Result<HostOffset, Error> {
        let host = at(self.geometry(), self.next)?;
        self.counts.add(self.next, count);
        self.next = self.next.saturating_add(count);
        at(self.geometry(), self.next)?;
        self.gap = None;
        Ok(host)
    }

    /// Sets the entry of a guest cluster. Clusters come in ascending order.
    fn set(&mut self, cluster: u64, words: [u64; 2]) -> Result<(), Error> {
        self.turn_to(cluster)?;
        let geometry = self.geometry();
        let guest = GuestOffset(at(geometry, cluster)?.0);
        let place = to_usize(geometry.l2_index(guest).saturating_mul(geometry.l2_words()));
        let entry = self.table.get_mut(place..).unwrap_or_default();
        for (to, from) in entry.iter_mut().zip(words).take(to_usize(geometry.l2_words())) {
            *to = from;
        }
        Ok(())
    }

    /// Makes the table of a guest cluster the one that is filled, and stores what is complete then.
    fn turn_to(&mut self, cluster: u64) -> Result<(), Error> {
        let geometry = self.geometry();
        let index = geometry.l1_index(GuestOffset(at(geometry, cluster)?.0));
        if self.table_index != Some(index) {
            self.finish_table()?;
            self.table.clear();
            self.table.resize(to_usize(geometry.words(1)), 0);
            self.table_index = Some(index);
        }
        Ok(())
    }

    fn finish_table(&mut self) -> Result<(), Error> {
        let Some(index) = self.table_index.take() else { return Ok(()) };
        let host = self.take(1)?;
        if let Some(word) = self.l1.get_mut(to_usize(index)) {
            *word = encode_l1(host);
        }
        let bytes = encode_words(&self.table);
        self.append(host, &bytes)?;
        loop {
            let host = at(self.geometry(), self.next)?;
            let Some(block) = self.counts.take_complete(self.next, host)? else { return Ok(()) };
            self.take(1)?;
            self.append(host, &block)?;
        }
    }

    /// Writes `bytes`, for which the place has been given out, with what comes before and behind them.
    fn append(&mut self, host: HostOffset, bytes: &[u8]) -> Result<(), Error> {
        if self.out.end() != host.0 {
            self.flush()?;
            self.out.start = host.0;
        }
        if bytes.len() < BATCH {
            self.out.bytes.extend_from_slice(bytes);
            return if self.out.bytes.len() >= BATCH { self.flush() } else { Ok(()) };
        }
        self.flush()?;
        self.reach(host.plus(len_of(bytes)).0)?;
        write_sparse(self.target, host.0, bytes)?;
        self.out.start = host.plus(len_of(bytes)).0;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.reach(self.out.end())?;
        write_sparse(self.target, self.out.start, &self.out.bytes)?;
        self.out.start = self.out.end();
        self.out.bytes.clear();
        Ok(())
    }

    /// Makes the target reach up to `end`, with some room for what will follow.
    fn reach(&mut self, end: u64) -> Result<(), Error> {
        let size = self.target.size();
        // A device may have room for no more than this.
        if end > size && self.target.resize(end.saturating_add(end.min(ROOM))).is_err() {
            self.target.resize(end)?;
        }
        Ok(())
    }

    /// Writes what is left: data, tables, and the header. Nothing is flushed.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.finish_table()?;
        let geometry = self.geometry();
        let l1 = encode_words(&self.l1);
        self.header.l1_offset = self.take(geometry.clusters(len_of(&l1)).max(1))?;
        self.append(self.header.l1_offset, &l1)?;
        let (blocks, table) = self.counts.missing(self.next);
        let first = self.take(blocks)?;
        self.header.refcount_table_offset = self.take(table)?;
        self.header.refcount_table_clusters = table;
        for index in 0..blocks {
            let host = first.plus(index.saturating_mul(geometry.cluster_size()));
            let block = self.counts.take(host)?;
            self.append(host, &block)?;
        }
        let words = encode_words(self.counts.placed());
        self.append(self.header.refcount_table_offset, &words)?;
        self.flush()?;
        let end = at(geometry, self.next)?.0;
        if self.target.size() != end {
            self.target.resize(end)?;
        }
        Ok(self.target.write_all_at(&self.header.encode()?, 0)?)
    }
}

/// Bytes that wait to be written together.
#[derive(Debug, Default)]
struct Batch {
    start: u64,
    bytes: Vec<u8>,
}

impl Batch {
    fn end(&self) -> u64 {
        self.start.saturating_add(len_of(&self.bytes))
    }
}

/// Writes `bytes`, but for long runs of zeros: `target` is new, so that its holes read as zeros already.
pub(super) fn write_sparse<T: Resize + ?Sized>(target: &mut T, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let mut rest = bytes;
    let mut offset = offset;
    while !rest.is_empty() {
        let zeros: usize = rest.chunks(HOLE).take_while(|chunk| is_zero(chunk)).map(<[u8]>::len).sum();
        let (skipped, behind) = rest.split_at(zeros);
        let stored: usize = behind.chunks(HOLE).take_while(|chunk| !is_zero(chunk)).map(<[u8]>::len).sum();
        let (run, behind) = behind.split_at(stored);
        offset = offset.saturating_add(len_of(skipped));
        if !run.is_empty() {
            target.write_all_at(run, offset)?;
        }
        offset = offset.saturating_add(to_u64(run.len()));
        rest = behind;
    }
    Ok(())
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
/// Bytes by which the file is ahead of what was written, at most.
const ROOM: u64 = 64 << 20;
