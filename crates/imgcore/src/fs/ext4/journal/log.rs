use super::super::error::{corrupt, refused};
use super::super::extent::FileExtent;
use super::super::group::{Group, Groups};
use super::super::layout::Layout;
use super::super::superblock::RawSuperblock;
use super::super::volume::Volume;
use super::block::{Format, be32};
use super::superblock::RawJournalSuperblock;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;

/// A journal that is kept in a file of its file system: where its blocks are, and its superblock.
///
/// ```text
/// block 0      s_first                                           last      last + 1         s_maxlen
/// | superblock | log, written in a circle from s_first to last   | nothing | fast commits   |
/// ```
#[derive(Debug)]
pub(in crate::fs::ext4) struct Journal {
    pub(super) raw: RawJournalSuperblock,
    pub(super) format: Format,
    /// First block of the log.
    pub(super) first: u32,
    /// The one behind the last block of the log.
    pub(super) last: u32,
    /// Where the blocks of the journal's file are, ascending, without holes.
    pub(super) runs: Vec<FileExtent>,
    /// Bytes of a block.
    pub(super) block_size: u64,
}

impl Journal {
    /// Reads the superblock of the journal of the file system that fills `disk`, which may not have been replayed.
    ///
    /// Of the file system, only the superblock `raw` and the descriptor of the first group are read for it.
    pub(in crate::fs::ext4) fn open<D: BlockRead>(disk: &D, raw: &RawSuperblock) -> Result<Self, Error> {
        // Spec: "In this case, on the filesystem device, s_journal_inum should be zero and s_journal_uuid should be set."
        if raw.s_journal_inum.get() == 0 || raw.s_journal_dev.get() != 0 {
            return Err(refused("has its journal on another device, which is not supported"));
        }
        let layout = Layout::decode(raw, disk.size())?;
        let volume = Volume::over(disk, *raw, layout, Groups::first(first_group(disk, &layout)?));
        let inode = volume.inode(raw.s_journal_inum.get())?;
        let bad = |rule: &str| corrupt(format!("journal, inode {}", inode.number), rule);
        if inode.raw.i_links_count.get() == 0 || inode.raw.i_mode.get() & 0xF000 != 0x8000 {
            return Err(bad("it is a regular file with a link"));
        }
        let runs = volume.tree(&inode)?.extents;
        let mut mapped = 0;
        for run in &runs {
            if u64::from(run.logical) != mapped || run.unwritten {
                return Err(bad("it has no holes"));
            }
            mapped = run.logical_end();
        }
        let start = runs.first().ok_or_else(|| bad("it has blocks"))?.physical;
        let raw = RawJournalSuperblock::decode(&volume.store.block(start)?, &layout)?;
        let (first, length) = (raw.s_first.get(), raw.s_maxlen.get());
        if u64::from(length) > mapped.min(inode.size().checked_div(u64::from(layout.block_size)).unwrap_or_default()) {
            return Err(bad("it is as long as its superblock says"));
        }
        if length > MOST_BLOCKS {
            return Err(refused(format!("has a journal of more than {MOST_BLOCKS} blocks, which is not supported")));
        }
        let last = length.checked_sub(raw.fast_commit_blocks()).filter(|last| first > 0 && first < *last);
        let last = last.ok_or_else(|| bad("its log lies behind its superblock"))?;
        let log = raw.s_start.get();
        if log != 0 && !(first..last).contains(&log) {
            return Err(bad("its log begins inside it"));
        }
        Ok(Self { format: raw.format(&layout), raw, first, last, runs, block_size: u64::from(layout.block_size) })
    }

    /// Returns how many blocks the log has.
    pub(in crate::fs::ext4) fn most_blocks(&self) -> usize {
        usize::try_from(self.last.saturating_sub(self.first)).unwrap_or(usize::MAX)
    }

    /// Returns the first block of the log.
    pub(in crate::fs::ext4) fn first(&self) -> u32 {
        self.first
    }

    /// Returns whether the log has no transaction.
    pub(super) fn is_empty(&self) -> bool {
        self.raw.s_start.get() == 0
    }

    /// Returns the block of the log behind `at`: the first again behind the last.
    pub(super) fn after(&self, at: u32) -> u32 {
        at.checked_add(1).filter(|next| *next < self.last).unwrap_or(self.first)
    }

    /// Returns the offset in bytes of a block of the journal.
    pub(super) fn offset(&self, index: u32) -> Result<u64, Error> {
        let outside = || corrupt("journal", "its blocks lie inside its file");
        let at = self.runs.partition_point(|run| run.logical_end() <= u64::from(index));
        let run = self.runs.get(at).ok_or_else(outside)?;
        let inside = index.checked_sub(run.logical).ok_or_else(outside)?;
        let block = run.physical.saturating_add(u64::from(inside));
        block.checked_mul(self.block_size).ok_or_else(outside)
    }

    /// Fills `buf`, a block long, with a block of the journal.
    pub(super) fn read<D: BlockRead + ?Sized>(&self, disk: &D, index: u32, buf: &mut [u8]) -> Result<(), Error> {
        Ok(disk.read_exact_at(buf, self.offset(index)?)?)
    }

    /// Writes where the log begins, 0 for none, and the first sequence number in it.
    pub(in crate::fs::ext4) fn write_start<D: BlockWrite + ?Sized>(
        &mut self,
        disk: &mut D,
        start: u32,
        sequence: u32,
    ) -> Result<(), Error> {
        self.raw.s_start.set(start);
        self.raw.s_sequence.set(sequence);
        Ok(disk.write_all_at(&self.raw.encode(), self.offset(0)?)?)
    }

    /// Refuses fast commits that would be replayed behind the transaction before `next`.
    pub(super) fn check_fast_commits<D: BlockRead + ?Sized>(&self, disk: &D, next: u32) -> Result<(), Error> {
        let Some(area) = self.last.checked_add(1).filter(|area| *area < self.raw.s_maxlen.get()) else { return Ok(()) };
        let mut block = vec![0; self.format.block_size];
        self.read(disk, area, &mut block)?;
        // Spec: "EXT4_FC_TAG_HEAD: Stores the TID of the transaction after which these fast commits should be applied."
        let head = block.get(..2).and_then(|tag| tag.first_chunk()).map(|tag| u16::from_le_bytes(*tag));
        // A number of the log's past is that of commits which a later transaction holds.
        let tid = be32(&block, 8).map(u32::swap_bytes).unwrap_or_default();
        let is_past = next.wrapping_sub(tid).cast_signed() > 0;
        if head == Some(FAST_COMMIT_HEAD) && !is_past {
            return Err(refused("has fast commits in its journal, which are not supported: mount it once, or run e2fsck"));
        }
        Ok(())
    }
}

fn first_group<D: BlockRead + ?Sized>(disk: &D, layout: &Layout) -> Result<Group, Error> {
    let mut bytes = vec![0; usize::from(layout.desc_size)];
    disk.read_exact_at(&mut bytes, layout.descriptor_offset(0))?;
    Group::decode_places(&bytes, 0, layout)
}

/// The most blocks of a journal that mke2fs makes.
const MOST_BLOCKS: u32 = 10_240_000;
/// Spec: "Fast commits", `EXT4_FC_TAG_HEAD`.
const FAST_COMMIT_HEAD: u16 = 0x9;
