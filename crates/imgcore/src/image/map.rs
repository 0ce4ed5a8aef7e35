//! The map of a disk: which image of the chain stores which bytes, and where.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::disk::{Layer, named};
use super::policy::beside;
use super::{Disk, Format, Storage};
use crate::block::{self, BlockRead, ByteRange, ErrorKind, ExtentKind};
use crate::qcow2::{Image, Place};

/// A run of a disk that one image of the chain stores in one way and one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapEntry {
    /// The bytes of the disk.
    pub range: ByteRange,
    /// How far down the chain the image is: 0 for the disk's own.
    pub depth: usize,
    /// How it stores them.
    pub kind: MapKind,
    /// Where the first byte is in the file that holds the image's data, when it has a place there.
    pub offset: Option<u64>,
}

/// How an image stores a run of its disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapKind {
    /// As they are.
    Data,
    /// As they are, in a hole of the file: zeros.
    DataHole,
    /// Compressed.
    Compressed,
    /// As zeros that take no bytes.
    Zero,
    /// Not at all, and nothing below does: zeros.
    Unallocated,
}

impl MapKind {
    /// Returns whether the chain says something about the bytes.
    #[must_use]
    pub fn is_present(self) -> bool {
        self != Self::Unallocated
    }

    /// Returns whether the bytes are known to be zeros.
    #[must_use]
    pub fn is_zero(self) -> bool {
        matches!(self, Self::DataHole | Self::Zero | Self::Unallocated)
    }

    /// Returns whether the bytes are stored.
    #[must_use]
    pub fn is_data(self) -> bool {
        matches!(self, Self::Data | Self::DataHole | Self::Compressed)
    }

    /// Returns whether the bytes are compressed.
    #[must_use]
    pub fn is_compressed(self) -> bool {
        self == Self::Compressed
    }
}

impl MapEntry {
    /// Adds `next`, which follows, when both are one run.
    fn extend(&mut self, next: &Self) -> bool {
        let len = self.range.len();
        let joined = self.depth == next.depth
            && self.kind == next.kind
            && self.offset.map(|offset| offset.saturating_add(len)) == next.offset;
        if joined && let Some(range) = ByteRange::new(self.range.start(), next.range.end()) {
            self.range = range;
        }
        joined
    }
}

/// Gives the entries of the map of `range` to `sink`, first to last, neighbors that are one run joined.
///
/// `range` is cut to the disk, whose size counts in sectors of 512 bytes here. Memory does not grow with the number of
/// entries.
///
/// # Errors
///
/// The failure of an image or of `sink`, which ends the map.
pub fn map<E: From<block::Error>>(
    disk: &Disk,
    range: ByteRange,
    mut sink: impl FnMut(&MapEntry) -> Result<(), E>,
) -> Result<(), E> {
    let chain = MappedChain::new(disk);
    let mut waiting: Option<MapEntry> = None;
    let end = range.end().min(chain.size());
    let mut offset = range.start();
    while offset < end {
        let next = chain.entry_at(offset, end.saturating_sub(offset))?;
        offset = next.range.end();
        let joined = waiting.as_mut().is_some_and(|entry| entry.extend(&next));
        if !joined && let Some(entry) = waiting.replace(next) {
            sink(&entry)?;
        }
    }
    waiting.as_ref().map_or(Ok(()), sink)
}

/// Returns the file that holds the data of each image of the chain, as they are named when `name` names the first.
#[must_use]
pub fn map_files(disk: &Disk, name: &Path) -> Vec<PathBuf> {
    let mut name = name.to_owned();
    let mut files = Vec::new();
    for disk in disk.chain() {
        let image = disk.qcow2();
        let data = image.and_then(Image::data_storage).map(|file| file.path().to_owned());
        let next = image.and_then(Image::backing_file).map(|backing| beside(&name, &backing.name));
        files.push(data.unwrap_or(name));
        name = next.unwrap_or_default();
    }
    files
}

/// The images of a chain, as they are mapped.
#[derive(Debug)]
pub(super) struct MappedChain<'a> {
    links: Vec<Link<'a>>,
}

#[derive(Debug)]
struct Link<'a> {
    disk: &'a Disk,
    /// Whether holes of the file below data are looked for.
    sparse: OnceLock<bool>,
    /// Whether entries end where a part of a table ends that qemu-img reads at once.
    in_slices: bool,
}

impl<'a> MappedChain<'a> {
    pub(super) fn new(disk: &'a Disk) -> Self {
        let link = |disk| Link { disk, sparse: OnceLock::new(), in_slices: false };
        Self { links: disk.chain().map(link).collect() }
    }

    /// Lets entries end where those of qemu-img end that are not joined.
    pub(super) fn in_slices(mut self) -> Self {
        self.links.iter_mut().for_each(|link| link.in_slices = true);
        self
    }

    /// Returns what tells the image at `depth` from all others: its file, and its format.
    pub(super) fn identity(&self, depth: usize) -> Option<((u64, u64), Format)> {
        let disk = self.links.get(depth)?.disk;
        Some((disk.storage().identity().ok()?, disk.format()))
    }

    /// Returns the size of the disk in bytes, whole sectors.
    pub(super) fn size(&self) -> u64 {
        self.links.first().map_or(0, Link::size)
    }

    /// Returns the entry at `offset`, which lies inside the disk, of at most `limit` bytes; the next one may continue it.
    pub(super) fn entry_at(&self, offset: u64, limit: u64) -> Result<MapEntry, block::Error> {
        let mut limit = limit;
        // What the image above says when nothing below says more.
        let mut above = (0, None);
        for (depth, link) in self.links.iter().enumerate() {
            let rest = link.size().saturating_sub(offset);
            if rest == 0 {
                break;
            }
            limit = limit.min(rest);
            let (len, kind, place) = link.look(offset, limit)?;
            limit = len.clamp(1, limit);
            above = (depth, place);
            if kind != MapKind::Unallocated {
                return Ok(entry(offset, limit, depth, kind, place));
            }
        }
        Ok(entry(offset, limit, above.0, MapKind::Unallocated, above.1))
    }
}

fn entry(offset: u64, len: u64, depth: usize, kind: MapKind, place: Option<u64>) -> MapEntry {
    MapEntry { range: ByteRange::at(offset, len).unwrap_or_default(), depth, kind, offset: place }
}

impl Link<'_> {
    fn size(&self) -> u64 {
        self.disk.size().next_multiple_of(SECTOR)
    }

    /// Returns how many bytes at `offset` this image itself stores in which way, and where.
    fn look(&self, offset: u64, limit: u64) -> Result<(u64, MapKind, Option<u64>), block::Error> {
        let inside = self.disk.size().saturating_sub(offset).min(limit);
        match &self.disk.layer {
            // The rest of the last sector.
            Layer::Raw(_) if inside == 0 => Ok((limit, MapKind::Zero, Some(offset))),
            Layer::Raw(file) => {
                let (len, hole) = hole_at(file, offset, inside)?;
                Ok((len, if hole { MapKind::Zero } else { MapKind::Data }, Some(offset)))
            }
            Layer::Qcow2(_) if inside == 0 => Ok((limit, MapKind::Unallocated, None)),
            Layer::Qcow2(image) => self.look_in(image, offset, inside).map_err(|error| named(self.disk.path(), error)),
        }
    }

    fn look_in(&self, image: &Image<Storage>, offset: u64, limit: u64) -> Result<(u64, MapKind, Option<u64>), block::Error> {
        let limit = if self.in_slices { limit.min(slice_rest(image, offset)) } else { limit };
        let mapping = image.mapping_at(offset, limit)?;
        Ok(match mapping.place {
            Place::Unallocated(_) if image.backing_file().is_some() && self.disk.backing.is_none() => {
                return Err(block::Error::new(ErrorKind::Refused, "the image's backing file was not opened"));
            }
            Place::Unallocated(host) => (mapping.len, MapKind::Unallocated, host.map(|host| host.0)),
            Place::Zero(host) => (mapping.len, MapKind::Zero, host.map(|host| host.0)),
            Place::Compressed => (mapping.len, MapKind::Compressed, None),
            Place::Stored(host) => {
                let file = image.data_storage().unwrap_or_else(|| image.storage());
                let inside = file.size().saturating_sub(host.0).min(mapping.len);
                if inside == 0 || !*self.sparse.get_or_init(|| is_sparse(image)) {
                    (mapping.len, MapKind::Data, Some(host.0))
                } else {
                    let (len, hole) = hole_at(file, host.0, inside)?;
                    (len, if hole { MapKind::DataHole } else { MapKind::Data }, Some(host.0))
                }
            }
        })
    }
}

/// Returns the bytes of the disk from `offset` to the end of the slice that maps it: 64 KiB of an L2 table, or a smaller one.
fn slice_rest(image: &Image<Storage>, offset: u64) -> u64 {
    let entry = if image.extended_l2() { 16 } else { 8 };
    let entries = image.cluster_size().min(SLICE).checked_div(entry).unwrap_or(1);
    let span = entries.saturating_mul(image.cluster_size());
    span.saturating_sub(offset.checked_rem(span).unwrap_or(0))
}

/// Returns how many of the `limit` bytes at `offset` are stored or, with `true`, are a hole.
fn hole_at(file: &Storage, offset: u64, limit: u64) -> Result<(u64, bool), block::Error> {
    let extent = file.extent_at(offset)?;
    let len = extent.range.end().saturating_sub(offset).min(limit);
    Ok((len, extent.kind != ExtentKind::Data))
}

/// Returns whether so much less is stored than is in use that data is likely to lie in holes, as after preallocation.
///
/// Looking for holes takes a system call for each run of data, so it is done for such images alone, and for the same ones as
/// by qemu-img: those in whose file a tenth of the clusters, and at least two, are in use and not stored. An image whose
/// refcounts cannot be read counts as none of them.
fn is_sparse(image: &Image<Storage>) -> bool {
    let file = image.storage();
    let cluster_size = image.cluster_size();
    let Some(file) = file.as_file() else { return false };
    let Ok(metadata) = file.file().metadata() else { return false };
    let stored = metadata.blocks().saturating_mul(SECTOR).checked_div(cluster_size).unwrap_or(0);
    let all = file.size().div_ceil(cluster_size);
    let missing = all.checked_div(10).unwrap_or(0).max(2);
    !file.is_device() && image.uses_clusters(stored.saturating_add(missing)).unwrap_or(false)
}

pub(super) const SECTOR: u64 = 512;
const SLICE: u64 = 64 << 10;
