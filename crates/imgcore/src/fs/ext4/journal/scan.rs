use std::collections::BTreeMap;

use super::super::checksum::CHECKSUM_START;
use super::super::error::{corrupt, refused};
use super::block::{COMMIT, DESCRIPTOR, REVOCATION, Tag, header};
use super::log::Journal;
use crate::block::BlockRead;
use crate::fs::Error;

/// What the complete transactions of a log say.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// For each block of the file system its latest copy in the log.
    pub(super) copies: BTreeMap<u64, Copy>,
    /// How many transactions are complete.
    pub(super) transactions: u32,
}

/// A copy of a block in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    /// Index of the block in the journal.
    pub(super) index: u32,
    pub(super) is_escaped: bool,
    /// Number of its transaction in the log, from 0.
    transaction: u32,
}

/// Reads the log from its start to the first transaction that is not complete.
///
/// Spec: "If there is no commit record (or the checksums don't match), the transaction will be discarded during replay."
///
/// The log may be anything: every block of it is read at most once, and what is kept is bounded by their number.
pub(super) fn scan<D: BlockRead + ?Sized>(journal: &Journal, disk: &D) -> Result<Found, Error> {
    let mut reader = Reader {
        journal,
        disk,
        at: journal.raw.s_start.get(),
        left: journal.last.saturating_sub(journal.first),
        block: vec![0; journal.format.block_size],
        data: vec![0; journal.format.block_size],
        revoked: BTreeMap::new(),
    };
    let mut found = Found::default();
    while let Some(transaction) = reader.transaction(found.transactions)? {
        found.copies.extend(transaction);
        found.transactions = found.transactions.saturating_add(1);
    }
    // Spec: "A revocation block is used to prevent replay of a block in an earlier transaction."
    let revoked = reader.revoked;
    found.copies.retain(|home, copy| revoked.get(home).is_none_or(|until| *until < copy.transaction));
    Ok(found)
}

struct Reader<'a, D: ?Sized> {
    journal: &'a Journal,
    disk: &'a D,
    /// The next block of the log.
    at: u32,
    /// Blocks of the log that were not read yet.
    left: u32,
    block: Vec<u8>,
    data: Vec<u8>,
    /// For each block that was revoked, the last transaction that did.
    revoked: BTreeMap<u64, u32>,
}

impl<D: BlockRead + ?Sized> Reader<'_, D> {
    /// Returns the copies of the next transaction, number `number` of the log, or `None` when the log has no more of them.
    fn transaction(&mut self, number: u32) -> Result<Option<Vec<(u64, Copy)>>, Error> {
        let format = self.journal.format;
        let sequence = self.journal.raw.s_sequence.get().wrapping_add(number);
        let mut copies = Vec::new();
        let mut revoked = Vec::new();
        let mut sum = CHECKSUM_START;
        let mut damaged = None;
        loop {
            let Some(_) = self.next()? else { return Ok(None) };
            let Some((kind, _)) = header(&self.block).filter(|(_, stored)| *stored == sequence) else { return Ok(None) };
            match kind {
                // What is not sealed was not stored as a whole, so what commits it was not either.
                DESCRIPTOR if format.is_sealed(&self.block) => {
                    sum = format.continue_sum(sum, &self.block);
                    for tag in format.tags(&self.block)? {
                        let Some(index) = self.data(&tag, sequence, &mut sum, &mut damaged)? else { return Ok(None) };
                        copies.push((tag.home, Copy { index, is_escaped: tag.is_escaped, transaction: number }));
                    }
                }
                REVOCATION if format.is_sealed(&self.block) => revoked.extend(format.revoked(&self.block)?),
                COMMIT if format.commits(&self.block, sum) => break,
                _ => return Ok(None),
            }
        }
        if let Some(home) = damaged {
            // Spec: "Journal commits asynchronously": its record may have been stored before this block.
            let unfinished = format.is_async;
            return if unfinished { Ok(None) } else { Err(damaged_copy(home)) };
        }
        if self.revoked.len().saturating_add(revoked.len()) > MOST_REVOKED {
            return Err(refused(format!("has a journal that revokes more than {MOST_REVOKED} blocks, which is not supported")));
        }
        self.revoked.extend(revoked.into_iter().map(|home| (home, number)));
        Ok(Some(copies))
    }

    /// Passes over the copy that belongs to `tag`, and returns its index; notes one whose checksum is wrong.
    fn data(&mut self, tag: &Tag, sequence: u32, sum: &mut u32, damaged: &mut Option<u64>) -> Result<Option<u32>, Error> {
        let format = self.journal.format;
        let Some(index) = self.step() else { return Ok(None) };
        if format.has_data_sums() {
            self.journal.read(self.disk, index, &mut self.data)?;
            *sum = format.continue_sum(*sum, &self.data);
            if !format.is_intact(tag, sequence, &self.data) {
                *damaged = Some(tag.home);
            }
        }
        Ok(Some(index))
    }

    /// Reads the next block of the log, or returns `None` when all were.
    fn next(&mut self) -> Result<Option<u32>, Error> {
        let Some(index) = self.step() else { return Ok(None) };
        self.journal.read(self.disk, index, &mut self.block)?;
        Ok(Some(index))
    }

    fn step(&mut self) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let index = self.at;
        self.at = self.journal.after(index);
        Some(index)
    }
}

fn damaged_copy(home: u64) -> Error {
    corrupt(format!("journal, block {home}"), "the checksum of a committed block matches its bytes")
}

/// The most blocks that a log may revoke.
const MOST_REVOKED: usize = 1 << 22;
