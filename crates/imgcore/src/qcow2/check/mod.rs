//! Checking an image: every reference is counted and held against the refcounts; and repairing it.
//!
//! ```text
//! header, L1 and L2 tables, snapshots, bitmaps, refcount table and blocks --> counts
//!                                                                               |  compared
//!                                             refcount table --> blocks --> refcounts
//! ```
//!
//! Nothing that the image names is opened, and a check writes nothing. What is broken is counted and passed over; memory grows with
//! what the file holds and not with what the image says.

mod bitmaps;
mod compare;
mod counts;
mod digest;
mod findings;
mod flags;
mod repair;
mod snapshots;
mod stored;
mod tables;
mod walk;

pub use self::repair::{Repair, Repaired};
use self::snapshots::Snapshots;
use self::walk::Walk;
use super::error::Error;
use super::image::Image;
use crate::block::BlockRead;

/// What a check has found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Check {
    /// References that are not counted, flags that contradict refcounts, and entries that break a rule.
    pub corruptions: u64,
    /// Clusters that are counted more often than they are referred to.
    pub leaks: u64,
    /// Clusters of which nothing can be said, as their refcount cannot be read.
    pub errors: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Those that have a cluster of the file.
    pub allocated_clusters: u64,
    /// Those that are compressed.
    pub compressed_clusters: u64,
    /// Those that do not follow the one before in the file.
    pub fragmented_clusters: u64,
    /// Bytes of the file up to the end of the last cluster in use.
    pub image_end: u64,
    /// A line of text for each finding, the first of them.
    pub lines: Vec<String>,
    /// Findings without a line.
    pub further: u64,
}

impl<S: BlockRead> Image<S> {
    /// Checks the image as it is stored; see [`Check`].
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the snapshot table or the bitmap directory cannot be made sense of, [`Error::Unsupported`] when
    /// counting would need too much memory, [`Error::Storage`].
    pub fn check(&self) -> Result<Check, Error> {
        let snapshots = snapshots::read(self)?;
        let mut walk = Walk::new(self)?;
        walk.everything(&snapshots)?;
        walk.refer_refcounts(&mut Vec::new())?;
        walk.finish()
    }
}

impl<S: BlockRead> Walk<'_, S> {
    /// Counts all references but those of the refcounts to themselves.
    fn everything(&mut self, snapshots: &Snapshots) -> Result<(), Error> {
        self.refer(0, self.geometry.cluster_size(), 1)?;
        self.active()?;
        self.snapshots(snapshots)?;
        self.bitmaps()
    }

    fn finish(mut self) -> Result<Check, Error> {
        let end = self.compare(&mut |_, _| {})?;
        let findings = self.findings;
        let (corruptions, leaks, errors) = (findings.corruptions, findings.leaks, findings.errors);
        let (lines, further) = findings.into_lines();
        Ok(Check {
            corruptions,
            leaks,
            errors,
            total_clusters: self.geometry.clusters(self.image.header.size),
            allocated_clusters: self.usage.allocated,
            compressed_clusters: self.usage.compressed,
            fragmented_clusters: self.usage.fragmented,
            image_end: end.max(1).saturating_mul(self.geometry.cluster_size()),
            lines,
            further,
        })
    }
}
