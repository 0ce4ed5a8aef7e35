//! Making the disk smaller.

use crate::block::Resize;
use crate::qcow2::entry::{decode_l1, encode_l1};
use crate::qcow2::error::Error;
use crate::qcow2::geometry::Geometry;
use crate::qcow2::image::Image;
use crate::qcow2::offset::{GuestOffset, HostOffset, to_u64, to_usize};
use crate::qcow2::shadow::Shadow;
use crate::qcow2::table::{encode_words, word_offset};

impl<S: Resize> Image<S> {
    /// Sets a smaller size; what lay behind it is free.
    pub(in crate::qcow2) fn shrink(&mut self, size: u64) -> Result<(), Error> {
        self.check_size(size)?;
        self.check_bitmaps_follow(size)?;
        self.close()?;
        let mut shadow = self.shadow()?;
        let old = shadow.active_l1()?.words;
        let mut l1 = old.clone();
        l1.truncate(to_usize(shadow.header.geometry.l1_entries(size)));
        shadow.drop_tables(old.get(l1.len()..).unwrap_or_default())?;
        let last = to_u64(l1.len()).saturating_sub(1);
        if let Some(word) = l1.last_mut() {
            *word = shadow.cut_table(last, *word, size)?;
        }
        shadow.replace_l1(&l1)?;
        shadow.resize_bitmaps(size)?;
        shadow.header.size = size;
        shadow.commit()?;
        let end = self.data_file.as_ref().map_or(0, |file| file.size());
        if end > size { self.resize_data_file(end, size) } else { Ok(()) }
    }
}

impl<S: Resize> Shadow<'_, S> {
    /// Gives up what the L2 table that `word` names has behind `size`, and returns the L1 entry for the rest.
    fn cut_table(&mut self, index: u64, word: u64, size: u64) -> Result<u64, Error> {
        let geometry = self.header.geometry;
        let at = word_offset(self.header.l1_offset, index);
        let (Some((host, _)), Some(table)) = (decode_l1(word, geometry, at)?, self.image().l2_table(index)?) else {
            return Ok(word);
        };
        let keep = kept_words(geometry, index, size).min(table.len());
        let (kept, behind) = table.split_at(keep);
        if behind.iter().all(|word| *word == 0) {
            return Ok(word);
        }
        self.refer_entries(behind, host, -1)?;
        self.refer(host, geometry.cluster_size(), -1)?;
        let mut words = kept.to_vec();
        words.resize(table.len(), 0);
        let place: HostOffset = self.allocate(1)?;
        self.write(place, &encode_words(&words))?;
        Ok(encode_l1(place))
    }
}

/// Returns how many words of the L2 table `index` are for clusters that begin before `size`.
fn kept_words(geometry: Geometry, index: u64, size: u64) -> usize {
    let start = index.saturating_mul(geometry.l2_span());
    let inside = size.saturating_sub(start);
    if inside >= geometry.l2_span() {
        return usize::MAX;
    }
    let last = GuestOffset(inside.next_multiple_of(geometry.cluster_size()));
    to_usize(geometry.index(last.0).saturating_mul(geometry.l2_words()))
}
