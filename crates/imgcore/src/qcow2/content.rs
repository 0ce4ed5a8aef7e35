use super::error::Error;
use super::geometry::Geometry;
use super::header::Version;
use super::options::CreateOptions;
use crate::block::{BlockRead, ByteRange, Extent};

/// What a new image holds.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    pub(super) disk: &'a dyn BlockRead,
    /// What differs from what lies below; `None` when that is to be found out.
    changed: Option<&'a [ByteRange]>,
    backing: Option<&'a dyn BlockRead>,
}

impl<'a> Content<'a> {
    /// Returns the content that differs in `changed` from the backing disk, or from zeros; `disk` shows all of it.
    #[must_use]
    pub fn new(disk: &'a dyn BlockRead, changed: &'a [ByteRange]) -> Self {
        Self { disk, changed: Some(changed), backing: None }
    }

    /// Returns the content that differs anywhere from the backing disk, or from zeros; clusters are compared to find out where.
    #[must_use]
    pub fn whole(disk: &'a dyn BlockRead) -> Self {
        Self { disk, changed: None, backing: None }
    }

    /// Says what lies below, so that zeros over zeros take no entry.
    #[must_use]
    pub fn over(self, backing: &'a dyn BlockRead) -> Self {
        Self { backing: Some(backing), ..self }
    }

    /// Returns the disk with which clusters are to be compared.
    pub(super) fn compared(&self) -> Option<&'a dyn BlockRead> {
        self.backing.filter(|_| self.changed.is_none())
    }

    /// Returns what becomes of zeros in an image with these options.
    pub(super) fn zeros(&self, options: &CreateOptions) -> Zeros<'a> {
        Zeros { below: options.backing.is_some().then_some(self.backing), version: options.version }
    }

    /// Returns the clusters of a disk of `size` bytes in pieces: those that are known to be zeros, and others of at most `max`
    /// bytes. With `all` it is every cluster, otherwise those of what changed.
    pub(super) fn pieces(&self, geometry: Geometry, size: u64, all: bool, max: u64) -> Pieces<'a> {
        let runs = match self.changed.filter(|_| !all) {
            Some(changed) => cluster_runs(geometry, changed, size),
            None => vec![(0, geometry.clusters(size))],
        };
        let most = max.checked_div(geometry.cluster_size()).unwrap_or(1).max(1);
        Pieces { disk: self.disk, geometry, size, most, runs: runs.into_iter(), run: (0, 0), extent: None }
    }
}

/// The clusters of a content, from the first to the last.
pub(super) struct Pieces<'a> {
    disk: &'a dyn BlockRead,
    geometry: Geometry,
    size: u64,
    /// The most clusters of a piece that is read.
    most: u64,
    runs: std::vec::IntoIter<(u64, u64)>,
    /// What is left of the run: its first cluster, and the one behind the last.
    run: (u64, u64),
    /// The last extent that was looked up.
    extent: Option<Extent>,
}

impl Pieces<'_> {
    fn piece(&mut self) -> Result<Piece, Error> {
        let (first, end) = self.run;
        let zeros = self.known(first, end)?.0;
        if zeros > first {
            self.run.0 = zeros;
            return Ok(Piece { first, count: zeros.saturating_sub(first), zero: true });
        }
        let limit = first.saturating_add(self.most).min(end);
        let mut cluster = first;
        while cluster < limit {
            let (zeros, known_until) = self.known(cluster, end)?;
            // Few zeros are found again when they are read; a piece of their own costs more.
            if zeros >= limit {
                break;
            }
            cluster = known_until.max(cluster.saturating_add(1)).min(limit);
        }
        self.run.0 = cluster;
        Ok(Piece { first, count: cluster.saturating_sub(first), zero: false })
    }

    /// Returns up to which cluster all is known to be zeros from `cluster` on, and up to which the state is the same.
    fn known(&mut self, cluster: u64, end: u64) -> Result<(u64, u64), Error> {
        let start = cluster.saturating_mul(self.geometry.cluster_size());
        if start >= self.disk.size() {
            return Ok((end, end));
        }
        let extent = match self.extent.filter(|extent| extent.range.contains(start)) {
            Some(extent) => extent,
            None => *self.extent.insert(self.disk.extent_at(start)?),
        };
        let until = extent.range.end();
        if !extent.reads_as_zeros() {
            return Ok((cluster, self.geometry.clusters(until)));
        }
        // What lies behind the content is zeros as well.
        let whole = if until >= self.disk.size().min(self.size) { end } else { self.geometry.index(until) };
        Ok((whole.min(end), self.geometry.clusters(until)))
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.run.0 >= self.run.1 {
            self.run = self.runs.next()?;
        }
        Some(self.piece())
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

/// What becomes of clusters of zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zeros<'a> {
    /// `None` without a backing file; `Some(None)` with one that is not known.
    below: Option<Option<&'a dyn BlockRead>>,
    pub(super) version: Version,
}

impl Zeros<'_> {
    /// Returns whether `cluster` would read as zeros without an entry, and the cluster up to which that is so; `end` at most.
    pub(super) fn are_below(&self, geometry: Geometry, cluster: u64, end: u64) -> Result<(bool, u64), Error> {
        let start = cluster.saturating_mul(geometry.cluster_size());
        let disk = match self.below {
            None => return Ok((true, end)),
            Some(None) => return Ok((false, end)),
            Some(Some(disk)) => disk,
        };
        if start >= disk.size() {
            return Ok((true, end));
        }
        let extent = disk.extent_at(start)?;
        let until = extent.range.end();
        if !extent.reads_as_zeros() {
            return Ok((false, geometry.clusters(until).min(end)));
        }
        if until >= disk.size() {
            return Ok((true, end));
        }
        // A cluster that is only known to begin with zeros needs its entry.
        let whole = geometry.index(until);
        Ok(if whole > cluster { (true, whole.min(end)) } else { (false, cluster.saturating_add(1)) })
    }
}

/// Returns the clusters under `ranges` as ascending runs, first and behind the last, cut to a disk of `size` bytes.
fn cluster_runs(geometry: Geometry, ranges: &[ByteRange], size: u64) -> Vec<(u64, u64)> {
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
