//! An image that gives up all that its disk holds.

use super::error::Error;
use super::image::Image;
use super::offset::{HostOffset, to_u64, to_usize};
use super::refcount_block;
use super::shadow::Shadow;
use super::table::{encode_words, len_of, read_stored, read_words};
use crate::block::{ByteRange, Hole, Resize};

impl<S: Resize> Image<S> {
    /// Gives up all that the disk holds, durably: it reads as the backing disk afterwards, or as zeros.
    ///
    /// Snapshots and bitmaps stay what they are. After a cut the image holds everything or nothing.
    ///
    /// # Errors
    ///
    /// As for other writes.
    pub fn make_empty(&mut self) -> Result<(), Error> {
        self.close()?;
        if self.l1.iter().all(|word| *word == 0) {
            return Ok(());
        }
        let mut shadow = self.shadow()?;
        let words = shadow.active_l1()?.words;
        shadow.drop_tables(&words)?;
        shadow.replace_l1(&vec![0; words.len()])?;
        shadow.commit()?;
        if let Some(file) = &mut self.data_file {
            file.write_zeroes_at(ByteRange::new(0, file.size()).unwrap_or_default(), Hole::Allow)?;
        }
        // Where something else has clusters of its own, nothing is gained.
        if self.header.snapshot_count == 0 && self.bitmaps()?.is_empty() { self.move_tables_down() } else { Ok(()) }
    }

    /// Puts L1 table and refcounts to the start of the file, where all is free now, and cuts off what is free behind.
    fn move_tables_down(&mut self) -> Result<(), Error> {
        let mut shadow = self.shadow()?;
        let words = encode_words(&shadow.image().l1);
        shadow.move_l1(&words)?;
        shadow.commit()?;
        self.cut_off_free_end()
    }

    /// Makes the file as short as the last cluster that is in use allows.
    fn cut_off_free_end(&mut self) -> Result<(), Error> {
        let geometry = self.geometry();
        let words = geometry.words(self.header.refcount_table_clusters);
        let table = read_words(&self.storage, "refcount table", self.header.refcount_table_offset, words)?;
        for (index, word) in table.iter().enumerate().rev().filter(|(_, word)| **word != 0) {
            let mut block = vec![0; geometry.cluster_len()];
            read_stored(&self.storage, "refcount block", HostOffset(*word & !511), &mut block)?;
            let entries = to_usize(geometry.refcount_block_entries());
            let last = (0..entries).rev().find(|place| refcount_block::get(&block, *place, geometry.refcount_order) > 0);
            let Some(last) = last else { continue };
            let first = to_u64(index).saturating_mul(geometry.refcount_block_entries());
            let end = geometry.offset(first.saturating_add(to_u64(last)).saturating_add(1)).unwrap_or(u64::MAX);
            if end < self.storage.size() {
                self.storage.resize(end)?;
            }
            break;
        }
        Ok(())
    }
}

impl<S: Resize> Shadow<'_, S> {
    /// Gives the L1 table, of the same length, a new place with the contents `bytes`.
    fn move_l1(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let clusters = self.header.geometry.clusters(len_of(bytes));
        self.refer(self.header.l1_offset, len_of(bytes), -1)?;
        self.header.l1_offset = self.allocate(clusters)?;
        self.write(self.header.l1_offset, bytes)
    }
}
