//! Tables whose flags contradict the refcounts: copied with other flags.

use super::findings::Findings;
use super::repair::{Repair, Survey};
use super::stored::Holes;
use super::tables::{Table, weighted};
use crate::block::Resize;
use crate::qcow2::entry::{COMPRESSED, COPIED, OFFSET, ZERO};
use crate::qcow2::error::Error;
use crate::qcow2::geometry::Geometry;
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::shadow::Shadow;
use crate::qcow2::table::{encode_words, read_words};

/// Gives the tables of the disk the flags that go with the refcounts of `shadow`. What is changed is added to `changes`.
pub(super) fn repair<S: Resize>(survey: &Survey, shadow: &mut Shadow<'_, S>, changes: &mut Findings) -> Result<(), Error> {
    let geometry = shadow.header.geometry;
    let mut l1 = shadow.image().l1.clone();
    let named = l1.iter().zip(0_u64..).map(|(word, index)| (word & OFFSET, index)).filter(|(offset, _)| *offset != 0);
    let tables = weighted(named.collect());
    let mut moved = Vec::new();
    let mut holes = Holes::default();
    for table in tables {
        let storage = &shadow.image().storage;
        if !geometry.is_aligned(table.offset) || table.offset >= storage.size() {
            continue;
        }
        if holes.cover(storage, table.offset, geometry.cluster_size())? {
            continue;
        }
        let mut words = read_words(storage, "L2 table", HostOffset(table.offset), geometry.words(1))?;
        let external = shadow.image().has_data_file();
        if repair_entries(&mut words, survey, geometry, external, changes) {
            let host = move_table(survey, shadow, table, &words)?;
            moved.push((table.offset, (host.0, table.weight)));
        }
    }
    moved.sort_unstable();
    for (word, index) in l1.iter_mut().zip(0_u64..) {
        let offset = *word & OFFSET;
        if offset == 0 {
            if *word == COPIED && survey.what == Repair::All {
                changes.corruption(|| format!("Repairing L1 entry {word:x} has flags and no table; L1 entry corrupted"));
                *word = 0;
            }
            continue;
        }
        let place = moved.binary_search_by_key(&offset, |(old, _)| *old).ok().and_then(|at| moved.get(at));
        let own = word_flag(*word, survey, geometry);
        if own != (*word & COPIED != 0) {
            let count = survey.counts.get(geometry.index(offset));
            changes.corruption(|| {
                format!("Repairing OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={word:x} refcount={count}")
            });
        }
        *word = match place {
            Some((_, (host, weight))) => with_flag((*word & !OFFSET) | host, *weight == 1),
            None => with_flag(*word, own),
        };
    }
    place_l1(survey, shadow, &l1)
}

/// Returns whether an entry was changed.
fn repair_entries(words: &mut [u64], survey: &Survey, geometry: Geometry, external: bool, changes: &mut Findings) -> bool {
    let mut changed = false;
    for entry in words.chunks_exact_mut(to_usize(geometry.l2_words())) {
        let bitmap = entry.get(1).copied().unwrap_or(0);
        let Some(word) = entry.first_mut().filter(|word| **word != 0) else { continue };
        let host = *word & OFFSET;
        let new = if *word & COMPRESSED != 0 {
            // Spec: "0 for clusters that are unused, compressed or require COW."
            with_flag(*word, false)
        } else if host == 0 {
            continue;
        } else if survey.what == Repair::All && is_misplaced(*word, bitmap, geometry) {
            changes.corruption(|| {
                format!("Repairing offset={host:x}: Preallocated cluster is not properly aligned; L2 entry corrupted.")
            });
            changed = true;
            *word &= !(OFFSET | COPIED);
            continue;
        } else {
            with_flag(*word, external || word_flag(*word, survey, geometry))
        };
        if new != *word {
            changes.corruption(|| format!("Repairing OFLAG_COPIED data cluster: l2_entry={word:x}"));
            changed = true;
            *word = new;
        }
    }
    changed
}

/// Returns whether an entry is to say that nothing else refers to its cluster.
fn word_flag(word: u64, survey: &Survey, geometry: Geometry) -> bool {
    let cluster = geometry.index(word & OFFSET);
    // Where a refcount stays wrong, so does its flag.
    if survey.stays_wrong(cluster) { word & COPIED != 0 } else { survey.counts.get(cluster) == 1 }
}

/// Returns whether an entry names a cluster that cannot be one, and of which nobody sees a byte.
pub(super) fn is_misplaced(word: u64, bitmap: u64, geometry: Geometry) -> bool {
    let unseen = if geometry.extended_l2 { bitmap & u64::from(u32::MAX) == 0 } else { word & ZERO != 0 };
    word & COMPRESSED == 0 && unseen && !geometry.is_aligned(word & OFFSET)
}

fn move_table<S: Resize>(
    survey: &Survey,
    shadow: &mut Shadow<'_, S>,
    table: Table,
    words: &[u64],
) -> Result<HostOffset, Error> {
    let size = shadow.header.geometry.cluster_size();
    let weight = i64::try_from(table.weight).unwrap_or(i64::MAX);
    let host = shadow.allocate(1)?;
    shadow.write(host, &encode_words(words))?;
    shadow.refer(host, size, weight.saturating_sub(1))?;
    leave(survey, shadow, HostOffset(table.offset), size, weight)?;
    Ok(host)
}

/// Writes the L1 table to a new place, when it is another or something else is where it was.
fn place_l1<S: Resize>(survey: &Survey, shadow: &mut Shadow<'_, S>, l1: &[u64]) -> Result<(), Error> {
    let geometry = shadow.header.geometry;
    let (old, len) = (shadow.header.l1_offset, to_u64(l1.len()).saturating_mul(8));
    let mut clusters = geometry.index(old.0)..geometry.clusters(old.plus(len).0);
    let shared = clusters.any(|cluster| survey.counts.get(cluster) > 1);
    if l1.is_empty() || (!shared && l1 == shadow.image().l1.as_slice()) {
        return Ok(());
    }
    let host = shadow.allocate(geometry.clusters(len))?;
    shadow.write(host, &encode_words(l1))?;
    leave(survey, shadow, old, len, 1)?;
    shadow.header.l1_offset = host;
    Ok(())
}

/// Takes `count` references from the clusters under the `len` bytes at `old`, which something was moved out of.
///
/// A refcount that is too small stays as it is: not even all that is left is counted there.
fn leave<S: Resize>(survey: &Survey, shadow: &mut Shadow<'_, S>, old: HostOffset, len: u64, count: i64) -> Result<(), Error> {
    let geometry = shadow.header.geometry;
    for cluster in geometry.index(old.0)..geometry.clusters(old.plus(len).0) {
        if !survey.stays_wrong(cluster) {
            let host = HostOffset(cluster.saturating_mul(geometry.cluster_size()));
            shadow.refer(host, geometry.cluster_size(), count.saturating_neg())?;
        }
    }
    Ok(())
}

fn with_flag(word: u64, copied: bool) -> u64 {
    if copied { word | COPIED } else { word & !COPIED }
}
