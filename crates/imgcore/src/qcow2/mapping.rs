//! Where the disk is stored, as a map of the image shows it.

use super::entry::{Entry, SubclusterKind, marked};
use super::error::{Corrupt, Error};
use super::image::Image;
use super::offset::{GuestOffset, HostOffset, to_u64, to_usize};
use crate::block::{self, BlockRead};

/// A run of the disk, and where it is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// Bytes of the run.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

/// Where the bytes of a run are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// In the backing disk; a place in the image may be set aside for them.
    Unallocated(Option<HostOffset>),
    /// Nowhere, as they are zeros; a place may be set aside for them.
    Zero(Option<HostOffset>),
    /// One after the other from this offset of the image, or of its data file, on.
    Stored(HostOffset),
    /// In compressed clusters.
    Compressed,
}

impl Place {
    /// Returns whether bytes at `next`, which come `len` bytes behind those here, continue the run.
    fn continues(self, len: u64, next: Self) -> bool {
        match (self, next) {
            (Self::Unallocated(here), Self::Unallocated(there)) | (Self::Zero(here), Self::Zero(there)) => {
                here.map(|host| host.plus(len)) == there
            }
            (Self::Stored(here), Self::Stored(there)) => here.plus(len) == there,
            (Self::Compressed, Self::Compressed) => true,
            _ => false,
        }
    }
}

impl<S: BlockRead> Image<S> {
    /// Checks that the L2 tables can be as many as the L1 table names: each has its place in the file.
    ///
    /// An L1 table that names one L2 table again and again makes a short file a disk that takes years to walk. Some doubles are
    /// let pass, as other programs read them; checking an image finds them.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    pub fn check_table_count(&self) -> Result<(), Error> {
        let tables = to_u64(self.l1.iter().filter(|word| **word != 0).count());
        let bytes = tables.saturating_mul(self.geometry().cluster_size());
        if bytes > self.storage.size().saturating_add(DOUBLES) {
            let rule = "it names more L2 tables than the file has room for";
            return Err(Corrupt::new("L1 table", self.header.l1_offset.0, rule).into());
        }
        Ok(())
    }

    /// Returns the run at `offset` that is stored in one way and one place, of at most `limit` bytes.
    ///
    /// It ends with its L2 table at the latest, and the next one may continue it.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`], and [`Error::Storage`] also when `offset` is at or behind the end of the disk.
    pub fn mapping_at(&self, offset: u64, limit: u64) -> Result<Mapping, Error> {
        let rest = self.header.size.saturating_sub(offset);
        if rest == 0 || limit == 0 {
            return Err(block::Error::out_of_bounds(offset, 1, self.header.size).into());
        }
        let limit = limit.min(rest);
        let guest = GuestOffset(offset);
        let geometry = self.geometry();
        let Some(table) = self.mapped_table(geometry.l1_index(guest))? else {
            return Ok(Mapping { len: self.missing_tables(guest, limit), place: Place::Unallocated(None) });
        };
        let end = geometry.l1_index(guest).saturating_add(1).saturating_mul(geometry.l2_span()).saturating_sub(offset);
        let limit = limit.min(end);
        let mut run = self.mapping_in(&table, guest)?;
        while run.len < limit {
            let at = guest.plus(run.len);
            let next = self.mapping_in(&table, at)?;
            if !run.place.continues(run.len, next.place) {
                break;
            }
            run.len = run.len.saturating_add(next.len);
        }
        Ok(Mapping { len: run.len.min(limit), ..run })
    }

    /// Returns the run at `guest` inside its cluster, or all clusters from there on whose entries are empty.
    fn mapping_in(&self, table: &[u64], guest: GuestOffset) -> Result<Mapping, Error> {
        let geometry = self.geometry();
        let within = geometry.within(guest.0);
        let from = to_usize(geometry.l2_index(guest).saturating_mul(geometry.l2_words()));
        let empty = table.get(from..).unwrap_or_default().iter().take_while(|word| **word == 0).count();
        let clusters = to_u64(empty).checked_div(geometry.l2_words()).unwrap_or(0);
        if clusters > 0 {
            let len = clusters.saturating_mul(geometry.cluster_size()).saturating_sub(within);
            return Ok(Mapping { len, place: Place::Unallocated(None) });
        }
        let standard = match self.entry(table, guest)? {
            Entry::Compressed { .. } => {
                return Ok(Mapping { len: geometry.cluster_size().saturating_sub(within), place: Place::Compressed });
            }
            Entry::Standard(standard) => standard,
        };
        let (kind, next) = standard.run(geometry.subcluster(guest.0), geometry);
        let len = u64::from(next).saturating_mul(geometry.subcluster_size()).saturating_sub(within);
        let host = standard.host.map(|host| host.plus(within));
        let place = match (kind, host) {
            // The cluster at 0 of an external data file is shown as no place here, as QEMU does.
            (SubclusterKind::Zero, host) => {
                Place::Zero(host.filter(|_| geometry.extended_l2 || standard.host != Some(HostOffset(0))))
            }
            (SubclusterKind::Allocated, Some(host)) => {
                let behind = table.get(from.saturating_add(1)..).unwrap_or_default();
                let first = geometry.align_down(host.0);
                let len = len.saturating_add(self.clusters_behind(behind, first).saturating_mul(geometry.cluster_size()));
                return Ok(Mapping { len, place: Place::Stored(host) });
            }
            (SubclusterKind::Unallocated | SubclusterKind::Allocated, host) => Place::Unallocated(host),
        };
        Ok(Mapping { len, place })
    }

    /// Returns how many of the entries in `words` name the clusters that lie behind the one at `first`, one after the other.
    ///
    /// Most tables are long runs of such; nothing else needs to be known of them. Where entries have two words, or a cluster's
    /// place has more rules, it is 0.
    fn clusters_behind(&self, words: &[u64], first: u64) -> u64 {
        let geometry = self.geometry();
        if geometry.extended_l2 || self.has_data_file() {
            return 0;
        }
        let places = (1..).map(|index: u64| first.saturating_add(index.saturating_mul(geometry.cluster_size())));
        to_u64(words.iter().zip(places).take_while(|(word, place)| marked(**word, false) == *place).count())
    }
}

/// Bytes of L2 tables beyond those that the file has room for.
const DOUBLES: u64 = 16 << 20;
