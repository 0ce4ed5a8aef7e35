//! Reading: from a guest offset through the tables to bytes and extents.

use super::entry::{Entry, SubclusterKind};
use super::error::{Corrupt, Error};
use super::image::Image;
use super::offset::{GuestOffset, HostOffset, to_usize};
use super::table::{len_of, word_offset};
use crate::block::{self, BlockRead, ByteRange, ErrorKind, Extent, ExtentKind};

/// A run of bytes of the disk that are stored in one way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Run {
    pub(super) len: u64,
    pub(super) kind: RunKind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RunKind {
    /// As in the backing disk.
    Unallocated,
    /// Zeros.
    Zero,
    /// One after the other from this host offset on.
    Data(HostOffset),
    /// Inside the cluster whose compressed form is the `len` bytes at `start`.
    Compressed { start: HostOffset, len: u64 },
}

/// When neighbors make one run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Join {
    /// When one read serves both.
    Contiguous,
    /// When both are data, or both are not, wherever they lie.
    Allocation,
}

impl Run {
    /// Adds `next`, which follows, when `join` allows it.
    fn extend(&mut self, next: Self, join: Join) -> bool {
        let joined = match (self.kind, next.kind) {
            (RunKind::Unallocated, RunKind::Unallocated) | (RunKind::Zero, RunKind::Zero) => true,
            (RunKind::Data(here), RunKind::Data(there)) if join == Join::Contiguous => here.plus(self.len) == there,
            (RunKind::Data(_) | RunKind::Compressed { .. }, RunKind::Data(_) | RunKind::Compressed { .. }) => {
                join == Join::Allocation
            }
            _ => false,
        };
        if joined {
            self.len = self.len.saturating_add(next.len);
        }
        joined
    }
}

impl<S: BlockRead> Image<S> {
    /// Returns the run at `guest`, which lies inside the disk, of at most `limit` bytes; it ends with its L2 table.
    pub(super) fn run_at(&self, guest: GuestOffset, limit: u64, join: Join) -> Result<Run, Error> {
        let geometry = self.geometry();
        let Some(table) = self.mapped_table(geometry.l1_index(guest))? else {
            return Ok(Run { len: self.missing_tables(guest, limit), kind: RunKind::Unallocated });
        };
        let mut at = guest;
        let mut run: Option<Run> = None;
        loop {
            let entry = self.entry(&table, at)?;
            let next = self.first_of(entry, at)?;
            match &mut run {
                None => run = Some(next),
                Some(run) => {
                    if !run.extend(next, join) {
                        break;
                    }
                }
            }
            at = at.plus(next.len);
            let len = run.map_or(0, |run| run.len);
            if len >= limit || geometry.l1_index(at) != geometry.l1_index(guest) {
                break;
            }
        }
        let run = run.unwrap_or(Run { len: limit, kind: RunKind::Unallocated });
        Ok(Run { len: run.len.min(limit), ..run })
    }

    /// Returns how many bytes from `guest` on have no L2 table, up to `limit`.
    pub(super) fn missing_tables(&self, guest: GuestOffset, limit: u64) -> u64 {
        let geometry = self.geometry();
        let first = geometry.l1_index(guest);
        let mut last = first;
        loop {
            let end = last.saturating_add(1).saturating_mul(geometry.l2_span());
            let len = end.saturating_sub(guest.0);
            last = last.saturating_add(1);
            let missing = self.l1.get(to_usize(last)).is_none_or(|word| *word == 0);
            let staged = self.writing.as_ref().is_some_and(|writing| writing.table(last).is_some());
            if len >= limit || !missing || staged {
                return len.min(limit);
            }
        }
    }

    /// Returns what the table says about the cluster at `guest`.
    pub(super) fn entry(&self, table: &[u64], guest: GuestOffset) -> Result<Entry, Error> {
        let geometry = self.geometry();
        let index = geometry.l2_index(guest).saturating_mul(geometry.l2_words());
        let word = |index: u64| table.get(to_usize(index)).copied().unwrap_or(0);
        let bitmap = if geometry.extended_l2 { word(index.saturating_add(1)) } else { 0 };
        let l1 = self.l1.get(to_usize(geometry.l1_index(guest))).copied().unwrap_or(0);
        let at = word_offset(HostOffset(l1 & 0x00ff_ffff_ffff_fe00), index);
        let entry = Entry::decode([word(index), bitmap], geometry, self.has_data_file(), at)?;
        if let (true, Entry::Standard(standard)) = (self.has_data_file(), entry)
            && standard.host.is_some_and(|host| host.0 != geometry.align_down(guest.0))
        {
            // Spec: "The offset field in the Standard Cluster Descriptor must match the guest offset"
            return Err(Corrupt::new("L2 entry", at, "the offset in the data file is not the guest's").into());
        }
        Ok(entry)
    }

    /// Returns the first run of the cluster's rest from `guest` on.
    fn first_of(&self, entry: Entry, guest: GuestOffset) -> Result<Run, Error> {
        let geometry = self.geometry();
        let within = geometry.within(guest.0);
        let to_end = geometry.cluster_size().saturating_sub(within);
        let standard = match entry {
            Entry::Compressed { start, len } => {
                return Ok(Run { len: to_end, kind: RunKind::Compressed { start, len } });
            }
            Entry::Standard(standard) => standard,
        };
        let (kind, next) = standard.run(geometry.subcluster(guest.0), geometry);
        let len = u64::from(next).saturating_mul(geometry.subcluster_size()).saturating_sub(within);
        let kind = match (kind, standard.host) {
            (SubclusterKind::Unallocated, _) => RunKind::Unallocated,
            (SubclusterKind::Zero, _) => RunKind::Zero,
            (SubclusterKind::Allocated, Some(host)) => RunKind::Data(host.plus(within)),
            (SubclusterKind::Allocated, None) => {
                return Err(Corrupt::new("L2 entry", guest.0, "a subcluster is allocated in no cluster").into());
            }
        };
        Ok(Run { len, kind })
    }

    /// Fills `buf` with the bytes of the disk at `offset`, which may reach behind its end: those are zeros.
    pub(super) fn read_disk(&self, buf: &mut [u8], offset: GuestOffset) -> Result<(), Error> {
        let inside = to_usize(self.header.size.saturating_sub(offset.0)).min(buf.len());
        let (mut rest, behind) = buf.split_at_mut(inside);
        behind.fill(0);
        let mut at = offset;
        while !rest.is_empty() {
            let run = self.run_at(at, len_of(rest), Join::Contiguous)?;
            let (part, further) = rest.split_at_mut(to_usize(run.len).min(rest.len()));
            match run.kind {
                RunKind::Unallocated => self.read_backing(part, at)?,
                RunKind::Zero => part.fill(0),
                RunKind::Data(host) => self.read_clusters(host, part)?,
                // Nothing is left of the cluster that somebody would read next.
                RunKind::Compressed { start, len } if part.len() == self.geometry().cluster_len() => {
                    self.inflate_into(start, len, part)?;
                }
                RunKind::Compressed { start, len } => {
                    let cluster = self.inflate(start, len)?;
                    let from = to_usize(self.geometry().within(at.0));
                    let bytes = cluster.get(from..).and_then(|rest| rest.get(..part.len()));
                    part.copy_from_slice(bytes.unwrap_or_default());
                }
            }
            at = at.plus(run.len);
            rest = further;
        }
        Ok(())
    }

    /// Spec: "If there is no backing file or the backing file is smaller than the image, they shall read zeros for all parts
    /// that are not covered by the backing file."
    pub(super) fn read_backing(&self, buf: &mut [u8], offset: GuestOffset) -> Result<(), Error> {
        let Some(backing) = self.backing()? else {
            buf.fill(0);
            return Ok(());
        };
        let stored = to_usize(backing.size().saturating_sub(offset.0)).min(buf.len());
        let (covered, behind) = buf.split_at_mut(stored);
        behind.fill(0);
        if covered.is_empty() { Ok(()) } else { Ok(backing.read_exact_at(covered, offset.0)?) }
    }

    /// Returns the backing disk, or `None` when the image has none.
    ///
    /// # Errors
    ///
    /// Refused when the image names one and the caller did not give it.
    pub(super) fn backing(&self) -> Result<Option<&dyn BlockRead>, Error> {
        match &self.backing {
            Some(backing) => Ok(Some(backing.as_ref())),
            None if self.header.backing_name.is_none() => Ok(None),
            None => Err(block::Error::new(ErrorKind::Refused, "the image's backing file was not opened").into()),
        }
    }

    fn extent(&self, offset: GuestOffset) -> Result<Extent, Error> {
        let rest = self.header.size.saturating_sub(offset.0);
        let run = self.run_at(offset, rest, Join::Allocation)?;
        let range = ByteRange::at(offset.0, run.len).unwrap_or_default();
        let kind = match run.kind {
            RunKind::Zero => ExtentKind::Zero,
            RunKind::Data(_) | RunKind::Compressed { .. } => ExtentKind::Data,
            RunKind::Unallocated => return self.extent_below(range),
        };
        Ok(Extent::new(range, kind))
    }

    fn extent_below(&self, range: ByteRange) -> Result<Extent, Error> {
        match self.backing()? {
            Some(backing) if backing.size() > range.start() => {
                let extent = backing.extent_at(range.start())?;
                Ok(Extent::new(extent.range.intersection(range).unwrap_or(range), extent.kind))
            }
            _ => Ok(Extent::new(range, ExtentKind::Hole)),
        }
    }

    /// Returns the run at `offset` that this image itself stores, whatever lies below it.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`], and [`Error::Storage`] also when `offset` is at or behind the end of the disk.
    pub fn layer_at(&self, offset: u64) -> Result<Layer, Error> {
        if offset >= self.header.size {
            return Err(block::Error::out_of_bounds(offset, 1, self.header.size).into());
        }
        let rest = self.header.size.saturating_sub(offset);
        let run = self.run_at(GuestOffset(offset), rest, Join::Allocation)?;
        let range = ByteRange::at(offset, run.len).unwrap_or_default();
        Ok(match run.kind {
            RunKind::Unallocated => Layer::Unallocated(range),
            RunKind::Zero => Layer::Zero(range),
            RunKind::Data(_) | RunKind::Compressed { .. } => Layer::Data(range),
        })
    }
}

/// What an image itself says about a run of its disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layer {
    /// Nothing: it reads from the backing disk.
    Unallocated(ByteRange),
    /// Zeros.
    Zero(ByteRange),
    /// Bytes.
    Data(ByteRange),
}

impl<S: BlockRead> BlockRead for Image<S> {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        let len = len_of(buf);
        if offset.checked_add(len).is_none_or(|end| end > self.header.size) {
            return Err(block::Error::out_of_bounds(offset, len, self.header.size));
        }
        Ok(self.read_disk(buf, GuestOffset(offset))?)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        if offset >= self.header.size {
            return Err(block::Error::out_of_bounds(offset, 1, self.header.size));
        }
        Ok(self.extent(GuestOffset(offset))?)
    }
}
