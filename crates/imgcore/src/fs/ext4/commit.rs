//! Changing a file system in place: one transaction of its own journal.
//!
//! ```text
//! changed blocks that the old state does not use    written where they belong
//! all others                                        into the journal: descriptor, blocks, commit record
//! superblock: to be replayed                                                                             flushed
//! journal superblock: the log begins here           the commit point: from here on, the new state        flushed
//! the blocks of the journal, where they belong                                                           flushed
//! the superblock, after them when the file system grows                                                  flushed
//! journal superblock: the log is empty                                                                   flushed
//! superblock: unmounted                                                                                  flushed
//! ```
//!
//! After a cut before the commit point, a mount, e2fsck or this program finds the old state, and behind it the new one. The blocks
//! are brought home at once, as boot loaders read a file system without replaying its journal. How groups are added: [`grown`].

mod grown;
mod sort;
mod superblock;

use self::grown::{Grown, changed, release};
use self::sort::sort;
use super::error::{corrupt, refused};
use super::feature::{HAS_JOURNAL, RECOVER, check_writable};
use super::journal::{Blocks, Journal, check_idle, write_log};
use super::layout::Layout;
use super::superblock::{RawSuperblock, SUPERBLOCK_OFFSET};
use crate::block::{
    BlockRead, BlockWrite, ByteRange, Change, Error as BlockError, ErrorKind, ExtentKind, Staged, extents, is_zero,
};
use crate::fs::Error;

/// Changes to a file system, sorted into what its journal takes and what is written beside the old state.
#[derive(Debug)]
pub struct Commit<'a> {
    /// What is in force before it.
    before: Option<Box<Commit<'static>>>,
    /// Blocks that the old state uses.
    journaled: Blocks,
    /// What lies where the old state has nothing.
    beside: Vec<Change<'a>>,
    /// Where groups are added.
    grown: Option<Grown>,
}

impl<'a> Commit<'a> {
    /// Sorts `changes` to the file system that fills `disk`, of which a [`Staged`] over it says that they lead from one sound state to
    /// another. Nothing is written.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when it has no journal of its own, [`Error::JournalTooSmall`].
    pub fn plan<D: BlockRead>(disk: &D, changes: &[Change<'a>]) -> Result<Self, Error> {
        let raw = RawSuperblock::read(disk)?;
        if !raw.has_compat(HAS_JOURNAL) {
            return Err(refused("has no journal, so it cannot be changed in place at once or not at all"));
        }
        check_writable(&raw)?;
        let mut before = Staged::new(disk);
        if raw.has_incompat(RECOVER) {
            write_log(&mut before, &raw)?;
        } else {
            check_idle(disk, &raw)?;
        }
        let old = RawSuperblock::read(&before)?;
        // Where it cannot be stored, nothing may be written.
        let new = RawSuperblock::decode(&changed(disk, changes, SUPERBLOCK_OFFSET, 1024)?)?;
        new.marked(true).encode_like(&old)?;
        let Some(grown) = Grown::find(&old, disk, changes)? else {
            let (journaled, beside) = sort(&before, disk, &[], changes)?;
            return Ok(Self { before: None, journaled, beside, grown: None });
        };
        if !grown.needs_reserved {
            let (journaled, beside) = sort(&before, disk, &[], changes)?;
            return Ok(Self { before: None, journaled, beside, grown: Some(grown) });
        }
        let mut released = Staged::new(&before);
        release(&mut released)?;
        let (blocks, _nothing) = sort(&before, &released, &[], &released.changes())?;
        let touched: Vec<u64> = blocks.iter().map(|(block, _)| *block).collect();
        let first = Commit { before: None, journaled: blocks, beside: Vec::new(), grown: None };
        let (journaled, beside) = sort(&released, disk, &touched, changes)?;
        Ok(Self { before: Some(Box::new(first)), journaled, beside, grown: Some(grown) })
    }

    /// Writes the changes: all of them or, after a failure or a power cut, none. `disk` is as it was for [`Commit::plan`].
    ///
    /// # Errors
    ///
    /// The failure of the device. Behind the commit point, the next mount finishes what is left to do.
    pub fn run<D: BlockWrite>(&self, disk: &mut D) -> Result<(), Error> {
        let raw = RawSuperblock::read(disk)?;
        if raw.has_incompat(RECOVER) {
            write_log(disk, &raw)?;
        }
        if let Some(before) = &self.before {
            before.run(disk)?;
        }
        let old = RawSuperblock::read(disk)?;
        let mut blocks = self.journaled.clone();
        let new = self.superblock(&mut blocks, disk, &old)?;
        let mut journal = Journal::open(disk, &old)?;
        for change in &self.beside {
            change.write_to(disk)?;
        }
        match &self.grown {
            Some(grown) => grown.write_descriptors(disk)?,
            None => disk.write_all_at(&old.marked(true).encode_like(&old)?, SUPERBLOCK_OFFSET)?,
        }
        let sequence = journal.write_transaction(disk, &blocks, new.s_wtime.get())?;
        disk.flush()?;
        let (first, first_block) = (journal.first(), old.home_block());
        journal.write_start(disk, first, sequence)?;
        let mut complete = |disk: &mut D| {
            disk.flush()?;
            if self.grown.is_some() {
                disk.write_all_at(&new.marked(true).encode_like(&old)?, SUPERBLOCK_OFFSET)?;
                disk.flush()?;
            }
            for (home, bytes) in blocks.iter().filter(|(home, _)| *home != first_block) {
                disk.write_all_at(bytes, offset_of_block(*home, bytes))?;
            }
            if new.blocks_count() != old.blocks_count() {
                // Before they replay, others look at all descriptors that the superblock counts.
                disk.flush()?;
            }
            for (home, bytes) in blocks.iter().filter(|(home, _)| *home == first_block) {
                disk.write_all_at(bytes, offset_of_block(*home, bytes))?;
            }
            disk.flush()?;
            journal.write_start(disk, 0, sequence.wrapping_add(1))?;
            disk.flush()?;
            disk.write_all_at(&new.marked(false).encode_like(&old)?, SUPERBLOCK_OFFSET)?;
            Ok(disk.flush()?)
        };
        complete(disk).map_err(|error| match error {
            Error::Storage(error) => Error::Storage(error.context(
                "the change is in the file system's journal and could not be completed: the next mount, or `e2fsck`, does that",
            )),
            other => other,
        })
    }

    /// Reads everything back from `disk`, opened anew behind [`Commit::run`].
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] names what is not as it was written.
    pub fn verify<D: BlockRead>(&self, disk: &D) -> Result<(), Error> {
        let found = RawSuperblock::read(disk)?;
        if found.has_incompat(RECOVER) {
            return Err(not_read_back(SUPERBLOCK_OFFSET));
        }
        for change in &self.beside {
            match change {
                Change::Zeroes(range) => verify_zeroes(disk, *range)?,
                change if change.is_on(disk)? => {}
                change => return Err(not_read_back(change.range().start())),
            }
        }
        for (home, bytes) in &self.journaled {
            let start = offset_of_block(*home, bytes);
            let Some(inside) = SUPERBLOCK_OFFSET.checked_sub(start).and_then(|at| usize::try_from(at).ok()) else {
                verify_bytes(disk, bytes, start)?;
                continue;
            };
            let mut bytes = bytes.clone();
            if let Some(place) = bytes.get_mut(inside..).and_then(|rest| rest.get_mut(..1024)) {
                // But for its checksum and what that is kept the same by.
                let wanted = RawSuperblock::decode(place)?;
                place.copy_from_slice(&wanted.as_stored(&found));
            }
            verify_bytes(disk, &bytes, start)?;
        }
        Ok(())
    }

    /// Has the superblock in the transaction say that the journal is to be replayed, and returns it.
    fn superblock<D: BlockRead>(&self, blocks: &mut Blocks, disk: &D, old: &RawSuperblock) -> Result<RawSuperblock, Error> {
        let layout = Layout::decode(old, disk.size())?;
        let size = u64::from(layout.block_size);
        let home = old.home_block();
        let inside = usize::try_from(SUPERBLOCK_OFFSET.saturating_sub(home.saturating_mul(size))).unwrap_or_default();
        if !blocks.iter().any(|(block, _)| *block == home) {
            let mut bytes = vec![0; layout.block_bytes()];
            disk.read_exact_at(&mut bytes, home.saturating_mul(size))?;
            blocks.push((home, bytes));
            blocks.sort();
        }
        let bytes = blocks.iter_mut().find(|(block, _)| *block == home).map(|(_, bytes)| bytes);
        let place = bytes.and_then(|bytes| bytes.get_mut(inside..)).and_then(|rest| rest.get_mut(..1024));
        let place = place.ok_or_else(|| corrupt("superblock", "it lies in the first block"))?;
        let new = RawSuperblock::decode(place)?;
        place.copy_from_slice(&new.marked(true).encode_like(old)?);
        Ok(new)
    }
}

fn offset_of_block(home: u64, bytes: &[u8]) -> u64 {
    home.saturating_mul(u64::try_from(bytes.len()).unwrap_or_default())
}

fn verify_bytes<D: BlockRead>(disk: &D, bytes: &[u8], offset: u64) -> Result<(), Error> {
    let mut found = vec![0; bytes.len()];
    disk.read_exact_at(&mut found, offset)?;
    if found == bytes { Ok(()) } else { Err(not_read_back(offset)) }
}

fn verify_zeroes<D: BlockRead>(disk: &D, range: ByteRange) -> Result<(), Error> {
    for extent in extents(disk, range) {
        let extent = extent?;
        let mut offset = extent.range.start();
        while extent.kind == ExtentKind::Data && offset < extent.range.end() {
            let len = extent.range.end().saturating_sub(offset).min(PIECE);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
            disk.read_exact_at(&mut bytes, offset)?;
            if !is_zero(&bytes) {
                return Err(not_read_back(offset));
            }
            offset = offset.saturating_add(len);
        }
    }
    Ok(())
}

fn not_read_back(offset: u64) -> Error {
    let message = format!("the file system does not read back as it was written at offset {offset}");
    Error::Storage(BlockError::new(ErrorKind::Io, message))
}

/// Bytes that are read back at a time.
const PIECE: u64 = 1 << 20;
