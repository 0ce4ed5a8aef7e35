//! References of L2 tables to clusters.

use super::Shadow;
use crate::block::{ByteRange, Resize};
use crate::qcow2::entry::Entry;
use crate::qcow2::error::Error;
use crate::qcow2::geometry::Geometry;
use crate::qcow2::offset::{HostOffset, to_usize};

impl<S: Resize> Shadow<'_, S> {
    /// Adds `change` references to every cluster that `words`, entries of an L2 table stored at `table`, refers to.
    ///
    /// # Errors
    ///
    /// As [`Shadow::refer`]; [`Error::Corrupt`] for an entry that breaks a rule.
    pub(in crate::qcow2) fn refer_entries(&mut self, words: &[u64], table: HostOffset, change: i64) -> Result<(), Error> {
        let external = self.image.has_data_file();
        let geometry = self.image.geometry();
        // Neighbors are counted together.
        let mut run = ByteRange::default();
        for words in words.chunks(to_usize(geometry.l2_words())) {
            let Some((host, len)) = clusters_of(words, geometry, external, table)? else { continue };
            let next = ByteRange::at(host.0, len).unwrap_or_default();
            let joined =
                ByteRange::new(run.start(), next.end()).filter(|_| run.end() == next.start() && geometry.is_aligned(run.end()));
            if let Some(joined) = joined {
                run = joined;
            } else {
                self.refer(HostOffset(run.start()), run.len(), change)?;
                run = next;
            }
        }
        self.refer(HostOffset(run.start()), run.len(), change)
    }
}

/// Returns the bytes of the image that an L2 entry refers to.
fn clusters_of(
    words: &[u64],
    geometry: Geometry,
    external: bool,
    table: HostOffset,
) -> Result<Option<(HostOffset, u64)>, Error> {
    let words = [words.first().copied().unwrap_or(0), words.get(1).copied().unwrap_or(0)];
    if words[0] == 0 {
        return Ok(None);
    }
    Ok(match Entry::decode(words, geometry, external, table.0)? {
        Entry::Compressed { start, len } => Some((start, len)),
        // Clusters of a data file are not counted.
        Entry::Standard(standard) => standard.host.filter(|_| !external).map(|host| (host, geometry.cluster_size())),
    })
}
