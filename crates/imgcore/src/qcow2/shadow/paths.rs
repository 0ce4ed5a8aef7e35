//! Ways from an L1 table through L2 tables to clusters: each is one reference to the L2 table and to each of its clusters.
//!
//! Tables are read and written one at a time.

use super::Shadow;
use crate::block::Resize;
use crate::qcow2::entry::{Entry, decode_l1, encode_l1, marked};
use crate::qcow2::error::{Corrupt, Error};
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::table::{encode_words, len_of, read_words, word_offset};

/// The words of an L1 table, and where they are stored.
#[derive(Clone, Debug)]
pub(in crate::qcow2) struct L1 {
    pub(in crate::qcow2) place: HostOffset,
    pub(in crate::qcow2) words: Vec<u64>,
}

impl<S: Resize> Shadow<'_, S> {
    /// Returns the active L1 table in its old state.
    ///
    /// # Errors
    ///
    /// As [`Shadow::read_l1`].
    pub(in crate::qcow2) fn active_l1(&mut self) -> Result<L1, Error> {
        let l1 = L1 { place: self.image().header.l1_offset, words: self.image().l1.clone() };
        self.check_l1(&l1)?;
        Ok(l1)
    }

    /// Reads the L1 table of `entries` entries at `place`. The caller has bounded them.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when two entries name the same L2 table, so that work is bounded by what is stored, or a table is not
    /// counted, so that it would be given out; [`Error::Storage`].
    pub(in crate::qcow2) fn read_l1(&mut self, place: HostOffset, entries: u64) -> Result<L1, Error> {
        let words = match entries {
            0 => Vec::new(),
            entries => read_words(&self.image().storage, "L1 table", place, entries)?,
        };
        let l1 = L1 { place, words };
        self.check_l1(&l1)?;
        Ok(l1)
    }

    fn check_l1(&mut self, l1: &L1) -> Result<(), Error> {
        let mut hosts = Vec::new();
        for (index, word) in (0..).zip(&l1.words) {
            let at = word_offset(l1.place, index);
            let Some((host, _)) = decode_l1(*word, self.header.geometry, at)? else { continue };
            if self.refcount(host)? == 0 {
                return Err(Corrupt::new("L1 entry", at, "the refcount of its L2 table is 0").into());
            }
            hosts.push(host);
        }
        hosts.sort_unstable();
        match hosts.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(_) => Err(Corrupt::new("L1 table", l1.place.0, "two entries name the same L2 table").into()),
            None => Ok(()),
        }
    }

    /// Writes an L1 table to a free place. An empty one has none.
    pub(in crate::qcow2) fn put_l1(&mut self, words: &[u64]) -> Result<HostOffset, Error> {
        let bytes = encode_words(words);
        match self.header.geometry.clusters(len_of(&bytes)) {
            0 => Ok(HostOffset(0)),
            clusters => {
                let place = self.allocate(clusters)?;
                self.write(place, &bytes)?;
                Ok(place)
            }
        }
    }

    /// Puts another active L1 table in the place of the old one, where they differ.
    pub(in crate::qcow2) fn replace_l1(&mut self, words: &[u64]) -> Result<(), Error> {
        if self.image().l1 != words {
            let (place, len) = (self.header.l1_offset, self.header.l1_entries.saturating_mul(8));
            self.refer(place, len, -1)?;
            self.header.l1_offset = self.put_l1(words)?;
            self.header.l1_entries = to_u64(words.len());
        }
        Ok(())
    }

    /// Adds a second way to all that the active L1 table refers to, and returns what both are to be. No entry is marked as the
    /// only reference then.
    pub(in crate::qcow2) fn share_tables(&mut self, l1: &L1) -> Result<Vec<u64>, Error> {
        // Whether refcounts are wide enough shows before anything is written.
        for word in &l1.words {
            if let Some((host, words)) = self.table(*word)? {
                self.add_way(host, &words)?;
            }
        }
        l1.words.iter().map(|word| self.unmark_shared(*word)).collect()
    }

    /// Returns the entry for a table without marks, to which both ways lead.
    fn unmark_shared(&mut self, word: u64) -> Result<u64, Error> {
        let Some((host, words)) = self.table(word)? else { return Ok(0) };
        let Some(cleared) = self.unmarked(&words, host)? else { return Ok(host.0) };
        let size = self.header.geometry.cluster_size();
        let place = self.allocate(1)?;
        self.write(place, &encode_words(&cleared))?;
        self.refer(place, size, 1)?;
        self.refer(host, size, -2)?;
        Ok(place.0)
    }

    /// Takes away the ways of an L1 table.
    pub(in crate::qcow2) fn drop_tables(&mut self, words: &[u64]) -> Result<(), Error> {
        words.iter().try_for_each(|word| self.drop_table(*word))
    }

    fn drop_table(&mut self, word: u64) -> Result<(), Error> {
        let Some((host, words)) = self.table(word)? else { return Ok(()) };
        self.refer_entries(&words, host, -1)?;
        self.refer(host, self.header.geometry.cluster_size(), -1)
    }

    /// Takes away the ways of `old`, the active L1 table, adds those of `new`, and returns what the active one is to be.
    pub(in crate::qcow2) fn switch_tables(&mut self, old: &L1, new: &L1) -> Result<Vec<u64>, Error> {
        let host = |word: &u64| marked(*word, false);
        let same = |index: usize| old.words.get(index).map(host) == new.words.get(index).map(host);
        // Refcounts fall before they rise, as narrow ones have no room for both.
        let dropped = old.words.iter().enumerate().filter(|(index, _)| !same(*index));
        dropped.map(|(_, word)| word).try_for_each(|word| self.drop_table(*word))?;
        let mut switched = Vec::with_capacity(new.words.len());
        for (index, word) in new.words.iter().enumerate() {
            // What both have in one place stays.
            let kept = old.words.get(index).filter(|_| same(index));
            switched.push(kept.map_or_else(|| self.adopt_table(*word), |word| Ok(*word))?);
        }
        Ok(switched)
    }

    /// Adds a way to a table from the active L1 table.
    fn adopt_table(&mut self, word: u64) -> Result<u64, Error> {
        let Some((host, words)) = self.table(word)? else { return Ok(0) };
        self.add_way(host, &words)?;
        // The marks in a table of a snapshot may be out of date.
        match self.unmarked(&words, host)? {
            None => Ok(host.0),
            Some(cleared) => self.move_table(host, &cleared),
        }
    }

    /// Marks the entries of the active L1 table and of its L2 tables as the only reference where they are it, and returns what
    /// the L1 table is to be.
    pub(in crate::qcow2) fn mark_tables(&mut self, l1: &L1) -> Result<Vec<u64>, Error> {
        l1.words.iter().map(|word| self.mark_table(*word)).collect()
    }

    fn mark_table(&mut self, word: u64) -> Result<u64, Error> {
        let Some((host, words)) = self.table(word)? else { return Ok(0) };
        let mut new = words.clone();
        for entry in new.chunks_mut(to_usize(self.header.geometry.l2_words())) {
            if let Some((cluster, copied)) = self.standard(entry, host)? {
                let only = self.refcount(cluster)? == 1;
                if only != copied {
                    entry.iter_mut().take(1).for_each(|word| *word = marked(*word, only));
                }
            }
        }
        if new != words {
            return self.move_table(host, &new);
        }
        let only = self.refcount(host)? == 1;
        Ok(marked(host.0, only))
    }

    /// Returns the L2 table that an L1 entry names.
    fn table(&self, word: u64) -> Result<Option<(HostOffset, Vec<u64>)>, Error> {
        let geometry = self.header.geometry;
        let Some((host, _)) = decode_l1(word, geometry, 0)? else { return Ok(None) };
        Ok(Some((host, self.table_at(host)?)))
    }

    /// Reads the L2 table at `host`.
    pub(in crate::qcow2) fn table_at(&self, host: HostOffset) -> Result<Vec<u64>, Error> {
        read_words(&self.image().storage, "L2 table", host, self.header.geometry.words(1))
    }

    /// Adds a way to the table at `host`.
    fn add_way(&mut self, host: HostOffset, words: &[u64]) -> Result<(), Error> {
        self.refer_entries(words, host, 1)?;
        self.refer(host, self.header.geometry.cluster_size(), 1)
    }

    /// Returns a table without marks, or `None` where it has none.
    fn unmarked(&self, words: &[u64], table: HostOffset) -> Result<Option<Vec<u64>>, Error> {
        let mut new = words.to_vec();
        for entry in new.chunks_mut(to_usize(self.header.geometry.l2_words())) {
            if let Some((_, true)) = self.standard(entry, table)? {
                entry.iter_mut().take(1).for_each(|word| *word = marked(*word, false));
            }
        }
        Ok((new != words).then_some(new))
    }

    /// Returns the cluster of a standard entry, and whether it is marked as the only reference.
    fn standard(&self, words: &[u64], table: HostOffset) -> Result<Option<(HostOffset, bool)>, Error> {
        let words = [words.first().copied().unwrap_or(0), words.get(1).copied().unwrap_or(0)];
        Ok(match Entry::decode(words, self.header.geometry, self.image().has_data_file(), table.0)? {
            Entry::Standard(standard) => standard.host.map(|host| (host, standard.copied)),
            Entry::Compressed { .. } => None,
        })
    }

    /// Writes `words`, in place of those of the table at `host`, to a place of their own, and returns the L1 entry for it.
    fn move_table(&mut self, host: HostOffset, words: &[u64]) -> Result<u64, Error> {
        let place = self.allocate(1)?;
        self.write(place, &encode_words(words))?;
        self.refer(host, self.header.geometry.cluster_size(), -1)?;
        Ok(encode_l1(place))
    }
}
