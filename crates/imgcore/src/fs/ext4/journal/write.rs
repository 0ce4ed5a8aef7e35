use super::super::checksum::CHECKSUM_START;
use super::super::error::{corrupt, refused};
use super::block::Tag;
use super::log::Journal;
use crate::block::BlockWrite;
use crate::fs::Error;

/// Blocks and where they belong, by ascending number.
pub(in crate::fs::ext4) type Blocks = Vec<(u64, Vec<u8>)>;

impl Journal {
    /// Checks that one transaction of `blocks` blocks has room in the log.
    pub(in crate::fs::ext4) fn check_room(&self, blocks: usize) -> Result<(), Error> {
        let room = self.most_blocks();
        let descriptors = blocks.div_ceil(self.format.tags_per_descriptor());
        let needed = blocks.saturating_add(descriptors).saturating_add(1);
        if needed <= room {
            return Ok(());
        }
        Err(Error::JournalTooSmall { blocks, room })
    }

    /// Returns whether `block` is a part of the journal.
    pub(in crate::fs::ext4) fn holds(&self, block: u64) -> bool {
        self.runs.iter().any(|run| (run.physical..run.physical.saturating_add(u64::from(run.len))).contains(&block))
    }

    /// Writes one transaction into the log, which is empty, and returns its sequence number. Until the superblock names it by
    /// [`Journal::write_start`], it does not count.
    pub(in crate::fs::ext4) fn write_transaction<D: BlockWrite + ?Sized>(
        &self,
        disk: &mut D,
        blocks: &Blocks,
        seconds: u32,
    ) -> Result<u32, Error> {
        self.check_room(blocks.len())?;
        // A number that no block of the log's past has behind its end.
        let sequence = self.raw.s_sequence.get().wrapping_add(1);
        let format = self.format;
        let mut at = self.first;
        let mut sum = CHECKSUM_START;
        for chunk in blocks.chunks(format.tags_per_descriptor()) {
            let mut copies = Vec::new();
            let mut tags = Vec::new();
            for (home, bytes) in chunk {
                let (copy, is_escaped) = format.escape(bytes);
                let tag = Tag { home: *home, is_escaped, sum: format.data_sum(sequence, &copy) };
                tags.push(tag);
                copies.push(copy);
            }
            let descriptor = format.descriptor(sequence, &tags).ok_or_else(|| {
                refused("has more than 2^32 blocks, and a journal without the feature `64bit`: mount it once")
            })?;
            for block in std::iter::once(descriptor).chain(copies) {
                sum = format.continue_sum(sum, &block);
                disk.write_all_at(&block, self.offset(at)?)?;
                at = at.checked_add(1).ok_or_else(|| corrupt("journal", "its blocks have numbers of 32 bits"))?;
            }
        }
        disk.write_all_at(&format.commit(sequence, sum, seconds), self.offset(at)?)?;
        // What lies behind must not be taken for the next transaction.
        let behind = at.saturating_add(1);
        if behind < self.last {
            disk.write_all_at(&vec![0; format.block_size], self.offset(behind)?)?;
        }
        Ok(sequence)
    }
}
