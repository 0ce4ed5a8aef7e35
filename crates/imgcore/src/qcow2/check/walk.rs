//! Counting references: everything that the header leads to.

use super::counts::Counts;
use super::digest::{Fault, Item, Run};
use super::findings::Findings;
use super::stored::Stored;
use super::tables::Table;
use crate::block::BlockRead;
use crate::qcow2::error::Error;
use crate::qcow2::geometry::Geometry;
use crate::qcow2::image::Image;

/// The state of a check while it goes through an image.
#[derive(Debug)]
pub(super) struct Walk<'a, S> {
    pub(super) image: &'a Image<S>,
    pub(super) geometry: Geometry,
    pub(super) counts: Counts,
    pub(super) stored: Stored<'a, S>,
    pub(super) findings: Findings,
    pub(super) usage: Usage,
    /// Whether entries that name no proper place, for clusters of which nobody sees a byte, are taken for empty ones.
    pub(super) drops_misplaced: bool,
    /// How many there were.
    pub(super) misplaced: u64,
    /// Clusters behind the end of the file to which something refers, when they are to be known.
    pub(super) beyond: Option<Counts>,
    /// Whether a table ends far behind the end of the file.
    pub(super) cuts_table: bool,
    /// L1 entries with a flag and no table.
    pub(super) bare_flags: u64,
    /// Clusters with more references than a refcount can count.
    pub(super) overflows: u64,
}

/// How the disk's clusters are stored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) allocated: u64,
    pub(super) compressed: u64,
    pub(super) fragmented: u64,
}

impl<'a, S: BlockRead> Walk<'a, S> {
    pub(super) fn new(image: &'a Image<S>) -> Result<Self, Error> {
        Ok(Self {
            image,
            geometry: image.geometry(),
            counts: Counts::new(image.geometry().refcount_max()),
            stored: Stored::open(&image.storage, &image.header)?,
            findings: Findings::default(),
            usage: Usage::default(),
            drops_misplaced: false,
            misplaced: 0,
            beyond: None,
            cuts_table: false,
            bare_flags: 0,
            overflows: 0,
        })
    }

    /// Counts `weight` references to every cluster under the `len` bytes at `offset`.
    pub(super) fn refer(&mut self, offset: u64, len: u64, weight: u64) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        let size = self.geometry.cluster_size();
        let end = offset.saturating_add(len);
        let first = self.geometry.index(offset);
        let count = self.geometry.clusters(end).saturating_sub(first);
        if end >= self.image.storage.size().saturating_add(size) {
            if let Some(beyond) = &mut self.beyond {
                beyond.add(first, count, 1, &mut |_| {})?;
            }
            self.cuts_table |= count > 1 && offset < self.image.storage.size();
            self.findings.corruptions_of_a_kind(weight, || {
                format!(
                    "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
                     offset {offset:#x} size {len:#x}"
                )
            });
            return Ok(());
        }
        self.add(first, count, weight)
    }

    fn add(&mut self, first: u64, count: u64, weight: u64) -> Result<(), Error> {
        let (findings, overflows, geometry) = (&mut self.findings, &mut self.overflows, self.geometry);
        self.counts.add(first, count, weight, &mut |cluster| {
            *overflows = overflows.saturating_add(1);
            findings.corruption(|| {
                let offset = geometry.offset(cluster).unwrap_or(u64::MAX);
                format!("ERROR: overflow cluster offset={offset:#x}: it has more references than a refcount can count")
            });
        })
    }

    /// Takes in what an L2 table says. Flags and usage are those of an `active` table.
    pub(super) fn take_in(&mut self, table: Table, items: &[Item], active: bool) -> Result<(), Error> {
        let weight = table.weight;
        // Only tables in their proper place are written anew.
        let drops = self.drops_misplaced && active && self.geometry.is_aligned(table.offset);
        let (mut next, mut is_misplaced) = (None, false);
        let mut usage = Usage::default();
        for item in items {
            match *item {
                Item::Fault(fault) => {
                    self.findings.corruptions_of_a_kind(weight, || fault.line());
                    is_misplaced = matches!(fault, Fault::MisalignedUnused(_)) && drops;
                    if is_misplaced {
                        self.misplaced = self.misplaced.saturating_add(weight);
                    }
                }
                Item::Compressed { start, len } => {
                    usage.allocated = usage.allocated.saturating_add(1);
                    usage.compressed = usage.compressed.saturating_add(1);
                    usage.fragmented = usage.fragmented.saturating_add(1);
                    self.refer(start, len, weight)?;
                }
                // Its fault came just before.
                Item::Run(_) if std::mem::take(&mut is_misplaced) => {}
                Item::Run(run) => {
                    usage.allocated = usage.allocated.saturating_add(run.count);
                    usage.fragmented = usage.fragmented.saturating_add(u64::from(next.is_some_and(|next| next != run.host)));
                    next = Some(run.host.saturating_add(run.count.saturating_mul(self.geometry.cluster_size())));
                    self.refer_run(run, weight)?;
                    if active {
                        self.check_flags(run, weight)?;
                    }
                }
            }
        }
        if active {
            let add = |sum: &mut u64, part: u64| *sum = sum.saturating_add(part.saturating_mul(weight));
            add(&mut self.usage.allocated, usage.allocated);
            add(&mut self.usage.compressed, usage.compressed);
            add(&mut self.usage.fragmented, usage.fragmented);
        }
        Ok(())
    }

    fn refer_run(&mut self, run: Run, weight: u64) -> Result<(), Error> {
        if self.image.has_data_file() {
            return Ok(());
        }
        let size = self.geometry.cluster_size();
        if !self.geometry.is_aligned(run.host) {
            return self.refer(run.host, size, weight);
        }
        let inside =
            self.geometry.clusters(self.image.storage.size()).saturating_sub(self.geometry.index(run.host)).min(run.count);
        self.add(self.geometry.index(run.host), inside, weight)?;
        for cluster in inside..run.count {
            self.refer(run.host.saturating_add(cluster.saturating_mul(size)), size, weight)?;
        }
        Ok(())
    }

    /// Spec: "Bit 63: 0 for clusters that are unused, compressed or require COW. 1 for standard clusters whose refcount is exactly
    /// one."
    fn check_flags(&mut self, run: Run, weight: u64) -> Result<(), Error> {
        let external = self.image.has_data_file();
        if external && run.copied {
            return Ok(());
        }
        let first = self.geometry.index(run.host);
        if !external && run.copied && self.stored.all_ones(first, run.count)? {
            return Ok(());
        }
        for place in 0..run.count {
            let count = if external { Some(1) } else { self.stored.count(first.saturating_add(place))? };
            let Some(count) = count else { continue };
            if (count == 1) != run.copied {
                let word = run.word.wrapping_add(place.wrapping_mul(self.geometry.cluster_size()));
                self.findings.flag(weight, || format!("ERROR OFLAG_COPIED data cluster: l2_entry={word:x} refcount={count}"));
            }
        }
        Ok(())
    }

    /// Counts the refcount table and its blocks, which come last: a block is to have no other reference.
    /// Adds the clusters of both to `structure`.
    pub(super) fn refer_refcounts(&mut self, structure: &mut Vec<u64>) -> Result<(), Error> {
        let header = &self.image.header;
        let size = self.geometry.cluster_size();
        self.refer(header.refcount_table_offset.0, header.refcount_table_clusters.saturating_mul(size), 1)?;
        let first = self.geometry.index(header.refcount_table_offset.0);
        structure.extend(first..first.saturating_add(header.refcount_table_clusters));
        let clusters = self.geometry.clusters(self.image.storage.size());
        let table = std::mem::take(&mut self.stored.table);
        let mut result = Ok(());
        for (word, index) in table.iter().zip(0_u64..).filter(|(word, _)| **word != 0) {
            let offset = word & super::stored::OFFSET;
            // Spec: "0 - 8: Reserved (set to 0)"
            if word & !super::stored::OFFSET != 0 {
                self.findings.corruption(|| format!("ERROR refcount table entry {index} has reserved bits set"));
            } else if !self.geometry.is_aligned(offset) {
                // Spec: "Must be aligned to a cluster boundary."
                let line = || format!("ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted");
                self.findings.corruption(line);
            } else if self.geometry.index(offset) >= clusters {
                self.findings.corruption(|| format!("ERROR refcount block {index} is outside image"));
            } else {
                result = self.refer(offset, size, 1);
                structure.push(self.geometry.index(offset));
                let count = self.counts.get(self.geometry.index(offset));
                if count != 1 {
                    self.findings.corruption(|| format!("ERROR refcount block {index} refcount={count}"));
                }
            }
            if result.is_err() {
                break;
            }
        }
        self.stored.table = table;
        result
    }
}
