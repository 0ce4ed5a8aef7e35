//! Version 2 for an image of version 3.
//!
//! A zero cluster becomes an unallocated one where nothing lies below, and a cluster of zeros elsewhere. What a table is shared
//! by shares the new one as well.

use std::collections::BTreeMap;

use super::not_deflated;
use crate::block::Resize;
use crate::qcow2::compression::Compression;
use crate::qcow2::entry::{Entry, Standard, decode_l1, marked};
use crate::qcow2::error::Error;
use crate::qcow2::extension::Extension;
use crate::qcow2::header::Version;
use crate::qcow2::offset::HostOffset;
use crate::qcow2::shadow::{L1, Shadow};
use crate::qcow2::table::encode_words;

/// Where tables that have changed are now. Only those that are shared are remembered.
type Moved = BTreeMap<HostOffset, HostOffset>;

impl<S: Resize> Shadow<'_, S> {
    pub(super) fn downgrade(&mut self) -> Result<(), Error> {
        let mut moved = Moved::new();
        let active = self.active_l1()?;
        let words = self.without_zero_clusters(&active, &mut moved)?;
        self.replace_l1(&words)?;
        let old = self.image().snapshots()?;
        let mut snapshots = old.clone();
        for snapshot in &mut snapshots {
            let l1 = self.snapshot_l1(snapshot)?;
            let words = self.without_zero_clusters(&l1, &mut moved)?;
            if words != l1.words {
                self.refer(snapshot.l1_offset, snapshot.l1_entries.saturating_mul(8), -1)?;
                snapshot.l1_offset = self.put_l1(&words)?;
            }
        }
        if snapshots != old {
            self.replace_snapshots(&old, &snapshots)?;
        }
        self.drop_bitmaps()?;
        let header = &mut self.header;
        header.version = Version::V2;
        header.compression = Compression::Zlib;
        (header.incompatible, header.compatible, header.autoclear) = (0, 0, 0);
        header.further_fields.clear();
        header.extensions.retain(|extension| extension.kind != Extension::FEATURE_NAMES);
        Ok(())
    }

    /// Returns an L1 table for tables without zero clusters.
    fn without_zero_clusters(&mut self, l1: &L1, moved: &mut Moved) -> Result<Vec<u64>, Error> {
        let mut words = Vec::with_capacity(l1.words.len());
        for word in &l1.words {
            words.push(match decode_l1(*word, self.header.geometry, l1.place.0)? {
                None => *word,
                Some((host, copied)) => match moved.get(&host).copied() {
                    Some(place) => marked(self.follow_moved(host, place)?.0, copied),
                    None => self.move_without_zeros(host, moved)?.map_or(*word, |place| marked(place.0, copied)),
                },
            });
        }
        Ok(words)
    }

    /// Moves a way from the table at `host` to the one at `place`, which stands for it.
    fn follow_moved(&mut self, host: HostOffset, place: HostOffset) -> Result<HostOffset, Error> {
        let (old, new) = (self.table_at(host)?, self.table_at(place)?);
        let differ = old.iter().zip(&new).filter(|(old, new)| old != new);
        let (gone, added): (Vec<u64>, Vec<u64>) = differ.unzip();
        self.refer_entries(&gone, host, -1)?;
        self.refer_entries(&added, place, 1)?;
        let size = self.header.geometry.cluster_size();
        self.refer(host, size, -1)?;
        self.refer(place, size, 1)?;
        Ok(place)
    }

    /// Moves the first way to the table at `host` to a new table without zero clusters. Returns its place, unless it has none.
    fn move_without_zeros(&mut self, host: HostOffset, moved: &mut Moved) -> Result<Option<HostOffset>, Error> {
        let geometry = self.header.geometry;
        let deflated = self.header.compression == Compression::Zlib;
        let words = self.table_at(host)?;
        let ways = self.refcount(host)?;
        let mut new = words.clone();
        for word in &mut new {
            match Entry::decode([*word, 0], geometry, false, host.0)? {
                Entry::Compressed { .. } if !deflated => return Err(not_deflated()),
                Entry::Standard(standard) if standard.zero != 0 => *word = self.plain_entry(standard, ways)?,
                _ => {}
            }
        }
        if new == words {
            return Ok(None);
        }
        let place = self.allocate(1)?;
        self.write(place, &encode_words(&new))?;
        self.refer(host, geometry.cluster_size(), -1)?;
        if ways > 1 {
            moved.insert(host, place);
        }
        Ok(Some(place))
    }

    /// Returns an entry that reads as zeros in the place of a zero cluster, in a table to which so many ways lead.
    fn plain_entry(&mut self, zero: Standard, ways: u64) -> Result<u64, Error> {
        let size = self.header.geometry.cluster_size();
        if let Some(host) = zero.host {
            self.refer(host, size, -1)?;
        }
        // The backing file may be longer one day than it is now.
        if self.header.backing_name.is_none() {
            return Ok(0);
        }
        let host = self.allocate(1)?;
        self.write_zeroes(host, size)?;
        Ok(marked(host.0, ways == 1))
    }
}
