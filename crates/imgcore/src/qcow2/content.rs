use super::error::Error;
use super::geometry::Geometry;
use super::header::Version;
use super::options::CreateOptions;
use crate::block::{BlockRead, ByteRange, extents};

/// What a new image holds.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    pub(super) disk: &'a dyn BlockRead,
    pub(super) changed: &'a [ByteRange],
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

    /// Returns what becomes of zeros in an image with these options.
    pub(super) fn zeros(&self, options: &CreateOptions) -> Zeros<'a> {
        Zeros { below: options.backing.is_some().then_some(self.backing), version: options.version }
    }

    /// Returns the clusters of `runs` in pieces: those that are known to be zeros, and others of at most `max` bytes.
    pub(super) fn pieces(&self, geometry: Geometry, size: u64, runs: &[(u64, u64)], max: u64) -> Result<Vec<Piece>, Error> {
        let most = max.checked_div(geometry.cluster_size()).unwrap_or(1).max(1);
        let mut pieces = Vec::new();
        for &(first, end) in runs {
            let mut cluster = first;
            while cluster < end {
                let (zeros, known_until) = self.known(geometry, size, cluster, end)?;
                if zeros > cluster {
                    pieces.push(Piece { first: cluster, count: zeros.saturating_sub(cluster), zero: true });
                    cluster = zeros;
                    continue;
                }
                let count = known_until.saturating_sub(cluster).clamp(1, most).min(end.saturating_sub(cluster));
                match pieces.last_mut() {
                    Some(last) if !last.zero && last.end() == cluster && last.count.saturating_add(count) <= most => {
                        last.count = last.count.saturating_add(count);
                    }
                    _ => pieces.push(Piece { first: cluster, count, zero: false }),
                }
                cluster = cluster.saturating_add(count);
            }
        }
        Ok(pieces)
    }

    /// Returns up to which cluster all is known to be zeros from `cluster` on, and up to which the state is the same.
    fn known(&self, geometry: Geometry, size: u64, cluster: u64, end: u64) -> Result<(u64, u64), Error> {
        let start = cluster.saturating_mul(geometry.cluster_size());
        if start >= self.disk.size() {
            return Ok((end, end));
        }
        let extent = self.disk.extent_at(start)?;
        let until = extent.range.end();
        if !extent.reads_as_zeros() {
            return Ok((cluster, geometry.clusters(until)));
        }
        // What lies behind the content is zeros as well.
        let whole = if until >= self.disk.size().min(size) { end } else { geometry.index(until) };
        Ok((whole.min(end), geometry.clusters(until)))
    }
}

/// Neighboring clusters that are written together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    /// The first cluster.
    pub(super) first: u64,
    /// How many.
    pub(super) count: u64,
    /// Whether they are known to be zeros.
    pub(super) zero: bool,
}

impl Piece {
    fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// What becomes of clusters of zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zeros<'a> {
    /// `None` without a backing file; `Some(None)` with one that is not known.
    below: Option<Option<&'a dyn BlockRead>>,
    pub(super) version: Version,
}

impl Zeros<'_> {
    /// Returns whether the bytes of `range` would read as zeros without an entry.
    pub(super) fn are_below(&self, range: ByteRange) -> Result<bool, Error> {
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

/// Returns the clusters under `ranges` as ascending runs, first and behind the last, cut to a disk of `size` bytes.
pub(super) fn cluster_runs(geometry: Geometry, ranges: &[ByteRange], size: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = ranges
        .iter()
        .filter(|range| !range.is_empty())
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
