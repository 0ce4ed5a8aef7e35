//! Repairing an image: refcounts are made anew from what refers to clusters, and what contradicts them follows.
//!
//! ```text
//! survey      references, as they will be once entries without a meaning are gone
//! new state   refcount table and blocks · L2 tables and the L1 table with other flags · snapshot table
//!             all in clusters that nothing refers to, put in force by one write of the header
//! ```
//!
//! After a cut at any write the image is the old one or the repaired one. Entries that may mean something, such as an L2 entry
//! that points behind the end of the file, are left for people to look at.

use std::collections::BTreeMap;

use super::Check;
use super::counts::Counts;
use super::findings::Findings;
use super::snapshots::{self, Snapshots};
use super::walk::Walk;
use crate::block::{BlockRead, Resize};
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::extension::Extension;
use crate::qcow2::feature;
use crate::qcow2::image::Image;
use crate::qcow2::offset::{HostOffset, to_u64};
use crate::qcow2::shadow::Shadow;
use crate::qcow2::table::len_of;

/// What is repaired.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repair {
    /// Clusters that are counted more often than they are referred to.
    Leaks,
    /// Everything that can be.
    All,
}

/// What a repair has done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Repaired {
    /// What was found at first.
    pub found: Check,
    /// A line for each thing that was changed, the first of them.
    pub changes: Vec<String>,
    /// Leaks that were repaired.
    pub leaks: u64,
    /// Corruptions that were repaired.
    pub corruptions: u64,
    /// What is found now.
    pub left: Check,
}

impl Repaired {
    /// Returns what a check that changed nothing has found.
    #[must_use]
    pub fn unchanged(found: Check) -> Self {
        Self { left: found.clone(), found, ..Self::default() }
    }

    /// Returns whether something was repaired.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.leaks > 0 || self.corruptions > 0
    }
}

/// References as they will be, and what contradicts them.
pub(super) struct Survey {
    /// References but those of the refcounts to themselves.
    pub(super) counts: Counts,
    /// The clusters of the refcount table and of its blocks, in ascending order.
    structure: Vec<u64>,
    snapshots: Snapshots,
    pub(super) what: Repair,
    /// Clusters with a refcount that is too small, and that refcount.
    low: BTreeMap<u64, u64>,
    /// What a new refcount structure repairs.
    found: Findings,
    /// Clusters behind the end of the file to which something refers.
    beyond: Counts,
    /// Where to look for free clusters: behind the file, when some cluster may be meant by an entry that is left.
    free_from: u64,
}

impl<S: Resize> Image<S> {
    /// Repairs what can be repaired, durably. The marks that the image is dirty or corrupt go when nothing is wrong any more.
    ///
    /// # Errors
    ///
    /// As [`Image::check`]; [`Error::Unsupported`] when the image has no room for the change. Nothing has changed then.
    pub fn repair(&mut self, what: Repair) -> Result<Repaired, Error> {
        let found = self.check()?;
        let mut repaired = Repaired::unchanged(found);
        // One repair may show the next: clusters that tables were moved out of have fewer references.
        for _ in 0..ROUNDS {
            let left = &repaired.left;
            if (left.corruptions, left.leaks, left.errors) == (0, 0, 0) || !self.repair_once(what, &mut repaired)? {
                break;
            }
            repaired.left = self.check()?;
        }
        let is_sound = repaired.left.corruptions == 0 && repaired.left.errors == 0;
        if is_sound && (self.is_dirty() || self.is_corrupt()) {
            self.clear_marks()?;
        }
        Ok(repaired)
    }

    /// Returns whether anything was changed.
    fn repair_once(&mut self, what: Repair, repaired: &mut Repaired) -> Result<bool, Error> {
        let survey = Survey::make(self, what)?;
        let Some(survey) = survey else { return Ok(false) };
        let in_use = |cluster: u64| survey.is_in_use(cluster);
        let mut shadow = self.shadow_recounted(&in_use);
        survey.recount(&mut shadow)?;
        let mut changes = Findings::default();
        let incomplete = what == Repair::All && survey.snapshots.is_incomplete;
        if incomplete {
            survey.rewrite_snapshots(&mut shadow)?;
            changes.corruption(|| "Repairing the snapshot table".to_owned());
        }
        super::flags::repair(&survey, &mut shadow, &mut changes)?;
        let (leaks, corruptions) = match what {
            Repair::Leaks => (survey.found.leaks, 0),
            Repair::All => (survey.found.leaks, survey.found.corruptions),
        };
        if leaks == 0 && corruptions == 0 && changes.corruptions == 0 {
            return Ok(false);
        }
        if shadow.header.autoclear & feature::BITMAPS == 0 {
            // Spec: "the bitmaps extension data must be considered inconsistent": what it named may be given to others now.
            shadow.header.extensions.retain(|extension| extension.kind != Extension::BITMAPS);
        }
        shadow.commit()?;
        repaired.leaks = repaired.leaks.saturating_add(leaks);
        repaired.corruptions = repaired.corruptions.saturating_add(corruptions).saturating_add(changes.corruptions);
        let (lines, _) = survey.found.into_lines();
        let is_done = |line: &&String| what == Repair::All || line.starts_with(LEAKED);
        repaired.changes.extend(lines.iter().filter(is_done).filter(|line| !line.starts_with(UNREADABLE)).map(|line| {
            let line = line.strip_prefix(LEAKED).or_else(|| line.strip_prefix("ERROR ")).unwrap_or(line);
            format!("Repairing {line}")
        }));
        repaired.changes.extend(changes.into_lines().0);
        Ok(true)
    }

    fn clear_marks(&mut self) -> Result<(), Error> {
        let mut header = self.header.clone();
        header.incompatible &= !(feature::DIRTY | feature::CORRUPT);
        header.autoclear &= feature::AUTOCLEAR;
        self.replace_header(header)
    }
}

impl Survey {
    /// Counts references; `None` when they cannot be what refcounts are made from.
    fn make<S: BlockRead>(image: &Image<S>, what: Repair) -> Result<Option<Self>, Error> {
        let snapshots = snapshots::read(image)?;
        let mut walk = Walk::new(image)?;
        walk.drops_misplaced = what == Repair::All;
        walk.beyond = Some(Counts::new(u64::MAX));
        walk.everything(&snapshots)?;
        if walk.overflows > 0 || walk.cuts_table {
            // Refcounts of this width cannot say the truth; or the file would have to become longer than all that a table is to have.
            return Ok(None);
        }
        let counts = walk.counts.clone();
        let Some(beyond) = walk.beyond.take() else { return Ok(None) };
        let (dropped, lasting) = (walk.misplaced, walk.findings.corruptions);
        let incomplete = to_u64(snapshots.entries.iter().filter(|entry| entry.is_incomplete(image.header.version)).count());
        let flags = walk.findings.flag_faults;
        let mut structure = Vec::new();
        let mut low = BTreeMap::new();
        walk.findings = Findings::default();
        walk.refer_refcounts(&mut structure)?;
        structure.sort_unstable();
        walk.compare(&mut |cluster, stored| {
            if low.len() < MOST_LOW {
                low.insert(cluster, stored);
            }
        })?;
        // The file grows by what is written anew, and entries that point behind its end would be faults of another kind then.
        let unclear =
            what == Repair::Leaks && (low.len() >= MOST_LOW || walk.findings.errors > 0 || beyond.next_page(0).is_some());
        if unclear {
            return Ok(None);
        }
        // Flags follow refcounts and are repaired with them; so is a snapshot table.
        let repairable = dropped.saturating_add(flags).saturating_add(incomplete).saturating_add(walk.bare_flags);
        let geometry = image.geometry();
        let free_from = if lasting > repairable { geometry.clusters(image.storage.size()) } else { 0 };
        Ok(Some(Self { counts, structure, snapshots, what, low, found: walk.findings, beyond, free_from }))
    }

    fn is_in_use(&self, cluster: u64) -> bool {
        let is_named = self.counts.get(cluster) > 0 || self.beyond.get(cluster) > 0;
        cluster < self.free_from || is_named || self.structure.binary_search(&cluster).is_ok()
    }

    /// Returns whether the refcount of a cluster is too small and stays so.
    pub(super) fn stays_wrong(&self, cluster: u64) -> bool {
        self.what == Repair::Leaks && self.low.contains_key(&cluster)
    }

    /// Returns the refcount that a cluster will have, but for what the repair itself changes.
    fn refcount(&self, cluster: u64) -> u64 {
        let count = self.counts.get(cluster);
        match self.low.get(&cluster) {
            Some(low) if self.what == Repair::Leaks => *low,
            _ => count,
        }
    }

    fn recount<S: Resize>(&self, shadow: &mut Shadow<'_, S>) -> Result<(), Error> {
        let size = shadow.header.geometry.cluster_size();
        let mut next = 0;
        while let Some((first, end)) = self.counts.next_page(next) {
            for cluster in first..end {
                let count = self.refcount(cluster);
                if count > 0 {
                    let bits = shadow.header.geometry.refcount_bits();
                    let count = i64::try_from(count).map_err(|_| Unsupported::References(bits))?;
                    shadow.refer(HostOffset(cluster.saturating_mul(size)), size, count)?;
                }
            }
            next = end;
        }
        Ok(())
    }

    /// Writes the snapshot table with all that version 3 demands.
    fn rewrite_snapshots<S: Resize>(&self, shadow: &mut Shadow<'_, S>) -> Result<(), Error> {
        let header = &shadow.header;
        let table = self.snapshots.encode(header.version, header.size);
        let (old, clusters) = (header.snapshots_offset, header.geometry.clusters(len_of(&table)));
        let inside = old.0.saturating_add(self.snapshots.len)
            < shadow.image().storage.size().saturating_add(header.geometry.cluster_size());
        let host = shadow.allocate(clusters)?;
        shadow.write(host, &table)?;
        shadow.header.snapshots_offset = host;
        if inside {
            shadow.refer(old, self.snapshots.len, -1)?;
        }
        Ok(())
    }
}

/// How often an image is looked at and repaired.
const ROUNDS: usize = 4;
/// Clusters with too small a refcount that are remembered.
const MOST_LOW: usize = 1 << 20;
/// How the line about a refcount that cannot be read begins.
const UNREADABLE: &str = "Can't ";
/// How the line about a leak begins.
const LEAKED: &str = "Leaked ";
