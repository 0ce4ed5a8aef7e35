//! New images: empty ones, and ones that are written in a single pass.

use super::error::Error;
use super::geometry::Geometry;
use super::header::Version;
use super::new_image::NewImage;
use super::offset::to_usize;
use super::options::{CreateOptions, Preallocation};
use super::table::is_zero;
use crate::block::{BlockRead, ByteRange, Resize, extents};

/// Makes `target` an image that holds nothing yet.
///
/// What was in `target` is gone. Nothing is flushed. The external data file, if there is one, is the caller's to make.
///
/// # Errors
///
/// [`Error::InvalidOptions`] before the first change, [`Error::Storage`].
pub fn create<T: Resize + ?Sized>(target: &mut T, options: &CreateOptions) -> Result<(), Error> {
    let header = options.header()?;
    let geometry = header.geometry;
    let clusters = geometry.clusters(header.size);
    let raw = options.data_file.as_ref().map(|file| file.raw);
    // A raw data file has every cluster in its place from the beginning.
    let allocated = options.preallocation != Preallocation::Off || raw == Some(true);
    if !allocated {
        return NewImage::begin(target, options, 0, 0)?.finish();
    }
    let data = if raw.is_some() { 0 } else { clusters };
    let mut image = NewImage::begin(target, options, header.l1_entries, data)?;
    if raw.is_some() {
        image.put_external(0, clusters)?;
    } else {
        image.put_preallocated(0, clusters, options.preallocation == Preallocation::Full)?;
    }
    image.finish()
}

/// What a new image holds.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    disk: &'a dyn BlockRead,
    changed: &'a [ByteRange],
    backing: Option<&'a dyn BlockRead>,
}

impl<'a> Content<'a> {
    /// Returns the content that differs in `changed` from the backing disk, or from zeros; `disk` shows all of it.
    #[must_use]
    pub fn new(disk: &'a dyn BlockRead, changed: &'a [ByteRange]) -> Self {
        Self { disk, changed, backing: None }
    }

    /// Says what lies below, so that zeros over zeros take no entry.
    #[must_use]
    pub fn over(self, backing: &'a dyn BlockRead) -> Self {
        Self { backing: Some(backing), ..self }
    }
}

/// Makes `target` an image whose allocated clusters are those that the changes of `content` touch.
///
/// The rest of such a cluster is filled from the content. Clusters of zeros become zero clusters, or stay unallocated where
/// nothing but zeros lies under them. What was in `target` is gone; it is written from front to back in large pieces, and the
/// same content gives the same bytes. Nothing is flushed.
///
/// # Errors
///
/// [`Error::InvalidOptions`] before the first change, also for preallocation and an external data file;
/// [`Error::Storage`] when either side fails.
pub fn write_image<T: Resize + ?Sized>(target: &mut T, options: &CreateOptions, content: &Content<'_>) -> Result<(), Error> {
    if options.data_file.is_some() || options.preallocation != Preallocation::Off {
        return Err(Error::InvalidOptions("an image is written without preallocation and data file".to_owned()));
    }
    let header = options.header()?;
    let geometry = header.geometry;
    let runs = cluster_runs(geometry, content.changed, header.size);
    let clusters = runs.iter().fold(0_u64, |sum, (first, end)| sum.saturating_add(end.saturating_sub(*first)));
    let mut image = NewImage::begin(target, options, count_tables(geometry, &runs), clusters)?;
    let zeros = Zeros { below: options.backing.is_some().then_some(content.backing), version: options.version };
    let mut buf = Vec::new();
    for (first, end) in runs {
        let mut cluster = first;
        while cluster < end {
            cluster = write_some(&mut image, content.disk, &zeros, (cluster, end), &mut buf)?;
        }
    }
    image.finish()
}

/// What becomes of clusters of zeros.
struct Zeros<'a> {
    /// `None` without a backing file; `Some(None)` with one that is not known.
    below: Option<Option<&'a dyn BlockRead>>,
    version: Version,
}

impl Zeros<'_> {
    /// Returns whether the bytes of `range` would read as zeros without an entry.
    fn are_below(&self, range: ByteRange) -> Result<bool, Error> {
        let Some(below) = self.below else { return Ok(true) };
        let Some(disk) = below else { return Ok(false) };
        let Some(range) = ByteRange::new(0, disk.size()).and_then(|all| all.intersection(range)) else { return Ok(true) };
        for extent in extents(disk, range) {
            if !extent?.reads_as_zeros() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Writes clusters from `first` on, and before `end`; returns the first that is left.
fn write_some<T: Resize + ?Sized>(
    image: &mut NewImage<'_, T>,
    disk: &dyn BlockRead,
    zeros: &Zeros<'_>,
    (first, end): (u64, u64),
    buf: &mut Vec<u8>,
) -> Result<u64, Error> {
    let geometry = image.geometry();
    let size = geometry.cluster_size();
    let start = first.saturating_mul(size);
    let extent = if start < disk.size() { Some(disk.extent_at(start)?) } else { None };
    let zero_end = match extent {
        Some(extent) if !extent.reads_as_zeros() => start,
        Some(extent) if extent.range.end() < disk.size() => extent.range.end(),
        _ => image.size().max(start.saturating_add(size)),
    };
    let zero_clusters = if zero_end >= image.size() { end } else { geometry.index(zero_end).min(end) };
    if zero_clusters > first {
        put_zeros(image, zeros, first, zero_clusters.saturating_sub(first), buf)?;
        return Ok(zero_clusters);
    }
    let data_end = extent.map_or(start, |extent| extent.range.end());
    let count = geometry.clusters(data_end).saturating_sub(first).clamp(1, CHUNK.div_ceil(size));
    let count = count.min(end.saturating_sub(first));
    buf.clear();
    buf.resize(to_usize(count.saturating_mul(size)), 0);
    let stored = to_usize(disk.size().saturating_sub(start)).min(buf.len());
    disk.read_exact_at(buf.get_mut(..stored).unwrap_or_default(), start)?;
    put_clusters(image, zeros, first, buf)?;
    Ok(first.saturating_add(count))
}

/// Puts clusters, those of zeros as such, neighbors of one kind together.
fn put_clusters<T: Resize + ?Sized>(
    image: &mut NewImage<'_, T>,
    zeros: &Zeros<'_>,
    first: u64,
    bytes: &[u8],
) -> Result<(), Error> {
    let len = image.geometry().cluster_len();
    let kinds: Vec<bool> = bytes.chunks(len).map(is_zero).collect();
    let mut cluster = first;
    let mut rest = bytes;
    for same in kinds.chunk_by(|a, b| a == b) {
        let (part, behind) = rest.split_at(same.len().saturating_mul(len).min(rest.len()));
        let count = super::offset::to_u64(same.len());
        if same.first() == Some(&true) {
            put_zeros(image, zeros, cluster, count, &mut Vec::new())?;
        } else {
            image.put_data(cluster, part)?;
        }
        cluster = cluster.saturating_add(count);
        rest = behind;
    }
    Ok(())
}

fn put_zeros<T: Resize + ?Sized>(
    image: &mut NewImage<'_, T>,
    zeros: &Zeros<'_>,
    first: u64,
    count: u64,
    buf: &mut Vec<u8>,
) -> Result<(), Error> {
    let size = image.geometry().cluster_size();
    let range = ByteRange::at(first.saturating_mul(size), count.saturating_mul(size)).unwrap_or_default();
    if zeros.are_below(range)? {
        return Ok(());
    }
    if zeros.version == Version::V3 {
        return image.put_zero(first, count);
    }
    buf.clear();
    buf.resize(image.geometry().cluster_len(), 0);
    for cluster in first..first.saturating_add(count) {
        image.put_data(cluster, buf)?;
    }
    Ok(())
}

/// Returns the clusters under `ranges` as ascending runs, first and behind the last, cut to a disk of `size` bytes.
pub(super) fn cluster_runs(geometry: Geometry, ranges: &[ByteRange], size: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = ranges
        .iter()
        .map(|range| (geometry.index(range.start()), geometry.clusters(range.end().min(size))))
        .filter(|(first, end)| first < end)
        .collect();
    runs.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    for (first, end) in runs {
        match joined.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((first, end)),
        }
    }
    joined
}

/// Returns how many L2 tables have an entry for one of `runs`.
pub(super) fn count_tables(geometry: Geometry, runs: &[(u64, u64)]) -> u64 {
    let entries = geometry.l2_entries();
    let mut count = 0_u64;
    let mut next = 0;
    for (first, end) in runs {
        let from = first.checked_div(entries).unwrap_or(0).max(next);
        next = end.div_ceil(entries).max(next);
        count = count.saturating_add(next.saturating_sub(from));
    }
    count
}

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;
