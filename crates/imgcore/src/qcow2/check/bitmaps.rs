//! What persistent bitmaps refer to.

use super::stored::Holes;
use super::walk::Walk;
use crate::block::BlockRead;
use crate::qcow2::bitmap::{Place, read_all};
use crate::qcow2::error::Error;
use crate::qcow2::offset::HostOffset;
use crate::qcow2::table::read_words;

impl<S: BlockRead> Walk<'_, S> {
    /// Counts the bitmap directory, the bitmap tables and the clusters of bits.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the directory breaks a rule, so that nobody can say what it refers to.
    pub(super) fn bitmaps(&mut self) -> Result<(), Error> {
        let (storage, header) = (&self.image.storage, &self.image.header);
        let Some(place) = Place::find(header)? else { return Ok(()) };
        self.refer(place.offset.0, place.len, 1)?;
        let mut holes = Holes::default();
        for bitmap in read_all(storage, header)? {
            let (start, entries) = (bitmap.table.0, bitmap.table_entries);
            self.refer(start, entries.saturating_mul(8), 1)?;
            let end = start.saturating_add(entries.saturating_mul(8)).min(storage.size());
            let mut at = start;
            while at < end {
                at = holes.skip(storage, at, end)? & !7;
                let count = end.saturating_sub(at).div_ceil(8).min(WORDS);
                if count == 0 {
                    break;
                }
                for word in read_words(storage, "bitmap table", HostOffset(at), count)? {
                    self.refer_bits(&bitmap.name, word)?;
                }
                at = at.saturating_add(count.saturating_mul(8));
            }
        }
        Ok(())
    }

    fn refer_bits(&mut self, name: &str, word: u64) -> Result<(), Error> {
        let host = word & OFFSET;
        // Spec: "1 - 8: Reserved and must be zero", "56 - 63: Reserved and must be zero", and bit 0 "Reserved and must be zero if
        // bits 9 - 55 are non-zero"
        let reserved = word & !OFFSET & !1 != 0 || (host != 0 && word & 1 != 0);
        // Spec: "Must be aligned to a cluster boundary."
        if reserved || !self.geometry.is_aligned(host) {
            let name = name.escape_debug();
            self.findings.corruption(|| format!("ERROR bitmap '{name}': table entry {word:#x} breaks a rule"));
            return Ok(());
        }
        if host == 0 { Ok(()) } else { self.refer(host, self.geometry.cluster_size(), 1) }
    }
}

/// Bits 9-55.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Words of a table that are read at a time.
const WORDS: u64 = 32 << 10;
