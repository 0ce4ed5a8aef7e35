use std::collections::BTreeMap;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::blocks::{BLOCK, Blocks};
use super::entry::{ENTRY, RawEntry};
use super::{Kind, Usage};
use crate::fs::Error;
use crate::fs::ext4::error::refused;

/// The first block.
///
/// Spec: `struct v2_disk_dqheader`, `struct v2_disk_dqinfo`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    dqh_magic: U32,
    dqh_version: U32,
    dqi_bgrace: U32,
    dqi_igrace: U32,
    dqi_flags: U32,
    dqi_blocks: U32,
    pub(super) dqi_free_blk: U32,
    pub(super) dqi_free_entry: U32,
}

/// A quota file in memory, all of which was checked.
#[derive(Clone, Debug)]
pub(in crate::fs::ext4) struct QuotaFile {
    pub(super) header: RawHeader,
    pub(super) blocks: Blocks,
    usage: BTreeMap<u32, Usage>,
}

impl QuotaFile {
    /// Decodes and checks the bytes of a quota file; `place` names it in messages.
    pub(super) fn decode(kind: Kind, place: String, bytes: &[u8]) -> Result<Self, Error> {
        let mut blocks = Blocks::new(place.clone(), bytes);
        let header = RawHeader::read_from_prefix(bytes).map_err(|_| blocks.bad(0, "it has a header"))?.0;
        if header.dqh_magic.get() != kind.magic() {
            return Err(blocks.bad(0, &format!("it begins with the magic {:#X}", kind.magic())));
        }
        // Spec: `V2_INITQVERSIONS`; version 0 has limits of 32 bits, which the feature `quota` does not go with.
        if header.dqh_version.get() != 1 {
            return Err(refused(format!("has a {place}, of version {}, not 1", header.dqh_version.get())));
        }
        let count = header.dqi_blocks.get();
        if count <= ROOT || count > blocks.count() {
            return Err(blocks.bad(0, "the file has the blocks that it says, at least 2"));
        }
        blocks.truncate(count);
        let mut file = Self { header, blocks, usage: BTreeMap::new() };
        file.usage = file.check()?;
        Ok(file)
    }

    /// Returns what every id has that the file tells of.
    pub(in crate::fs::ext4) fn usage(&self) -> &BTreeMap<u32, Usage> {
        &self.usage
    }

    /// Changes what `id` has. An entry that is new is put in, and one without usage and limits dropped, as the kernel does.
    pub(in crate::fs::ext4) fn change(&mut self, id: u32, change: Usage) -> Result<(), Error> {
        if change == Usage::default() {
            return Ok(());
        }
        let found = self.find(id)?;
        let mut entry = found.map_or_else(|| RawEntry::new(id), |(_, _, entry)| entry);
        entry.change(change);
        self.usage.insert(id, entry.usage());
        match found {
            Some(_) if entry.is_idle() => {
                self.usage.remove(&id);
                self.remove(id)
            }
            Some((block, slot, _)) => self.put(block, slot, &entry),
            None if entry.is_idle() => Ok(()),
            None => self.insert(&entry),
        }
    }

    /// Returns the bytes of the file, and its blocks that changed, with their numbers.
    pub(in crate::fs::ext4) fn changed(&mut self) -> (u64, Vec<(u32, [u8; BLOCK])>) {
        self.header.dqi_blocks.set(self.blocks.count());
        let bytes = *self.header.as_bytes().first_chunk::<HEADER>().unwrap_or(&[0; HEADER]);
        let is_same = self.blocks.at(0).is_ok_and(|block| block.starts_with(&bytes));
        if !is_same && let Some(place) = self.blocks.at_mut(0).ok().and_then(|block| block.first_chunk_mut()) {
            *place = bytes;
        }
        let size = u64::from(self.blocks.count()).saturating_mul(u64::try_from(BLOCK).unwrap_or_default());
        (size, self.blocks.changed().map(|(number, block)| (number, *block)).collect())
    }

    /// Returns the block of entries that the tree has for `id`, the place of its entry, and the entry.
    fn find(&self, id: u32) -> Result<Option<(u32, usize, RawEntry)>, Error> {
        let mut block = ROOT;
        for level in 0..LEVELS {
            block = self.blocks.word(block, byte_of(id, level))?;
            if block == 0 {
                return Ok(None);
            }
        }
        Ok(self.entry_in(block, id)?.map(|(slot, entry)| (block, slot, entry)))
    }

    fn insert(&mut self, entry: &RawEntry) -> Result<(), Error> {
        let id = entry.dqb_id.get();
        let mut node = ROOT;
        for level in 0..LEVELS {
            let index = byte_of(id, level);
            let mut below = self.blocks.word(node, index)?;
            if below == 0 {
                below = if level == LEVELS.saturating_sub(1) { self.block_with_room()? } else { self.take_block()? };
                self.blocks.set_word(node, index, below)?;
            }
            node = below;
        }
        let used = usize::from(self.entries_count(node)?).saturating_add(1);
        self.set_entries_count(node, used)?;
        if used >= CAPACITY {
            self.unlist(node)?;
        }
        let free = (0..CAPACITY).find(|slot| self.slot(node, *slot).is_ok_and(|bytes| bytes == [0; ENTRY]));
        let free = free.ok_or_else(|| self.blocks.bad(node, "what is listed as having room has room"))?;
        self.put(node, free, entry)
    }

    fn remove(&mut self, id: u32) -> Result<(), Error> {
        let mut path = [ROOT; LEVELS];
        let mut block = ROOT;
        for (level, place) in path.iter_mut().enumerate() {
            *place = block;
            block = self.blocks.word(block, byte_of(id, level))?;
        }
        let Some((slot, _)) = self.entry_in(block, id)? else { return Ok(()) };
        let used = usize::from(self.entries_count(block)?);
        self.set_entries_count(block, used.saturating_sub(1))?;
        self.put_bytes(block, slot, &[0; ENTRY])?;
        if used <= 1 {
            self.unlist(block)?;
            self.give_block(block)?;
        } else if used >= CAPACITY {
            self.list(block)?;
        }
        for (level, node) in path.into_iter().enumerate().rev() {
            self.blocks.set_word(node, byte_of(id, level), 0)?;
            if node == ROOT || self.blocks.at(node)?.iter().any(|byte| *byte != 0) {
                break;
            }
            self.give_block(node)?;
        }
        Ok(())
    }

    /// Returns an empty block of zeros: one that was given back, else a new one.
    fn take_block(&mut self) -> Result<u32, Error> {
        let block = self.header.dqi_free_blk.get();
        if block == 0 {
            return self.blocks.push();
        }
        self.header.dqi_free_blk.set(self.blocks.word(block, 0)?);
        self.blocks.at_mut(block)?.fill(0);
        Ok(block)
    }

    fn give_block(&mut self, block: u32) -> Result<(), Error> {
        self.blocks.at_mut(block)?.fill(0);
        self.blocks.set_word(block, 0, self.header.dqi_free_blk.get())?;
        self.header.dqi_free_blk.set(block);
        Ok(())
    }

    /// Returns a block of entries that has room.
    fn block_with_room(&mut self) -> Result<u32, Error> {
        let block = self.header.dqi_free_entry.get();
        if block != 0 {
            return Ok(block);
        }
        let block = self.take_block()?;
        self.header.dqi_free_entry.set(block);
        Ok(block)
    }

    /// Puts a block in front of those with room.
    fn list(&mut self, block: u32) -> Result<(), Error> {
        let next = self.header.dqi_free_entry.get();
        if next != 0 {
            self.blocks.set_word(next, 1, block)?;
        }
        self.blocks.set_word(block, 0, next)?;
        self.blocks.set_word(block, 1, 0)?;
        self.header.dqi_free_entry.set(block);
        Ok(())
    }

    /// Takes a block from the list of those with room, if it is there.
    fn unlist(&mut self, block: u32) -> Result<(), Error> {
        let (next, before) = (self.blocks.word(block, 0)?, self.blocks.word(block, 1)?);
        if before == 0 && self.header.dqi_free_entry.get() != block {
            return Ok(());
        }
        if next != 0 {
            self.blocks.set_word(next, 1, before)?;
        }
        if before == 0 {
            self.header.dqi_free_entry.set(next);
        } else {
            self.blocks.set_word(before, 0, next)?;
        }
        self.blocks.set_word(block, 0, 0)?;
        self.blocks.set_word(block, 1, 0)
    }

    /// Returns how many entries a block says that it has.
    ///
    /// Spec: `dqdh_entries`, behind two 32-bit numbers.
    pub(super) fn entries_count(&self, block: u32) -> Result<u16, Error> {
        let bytes = self.blocks.at(block)?.get(COUNT..).and_then(|rest| rest.first_chunk());
        Ok(bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes)))
    }

    fn set_entries_count(&mut self, block: u32, count: usize) -> Result<(), Error> {
        let bytes = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
        if let Some(place) = self.blocks.at_mut(block)?.get_mut(COUNT..).and_then(|rest| rest.first_chunk_mut()) {
            *place = bytes;
        }
        Ok(())
    }

    /// Returns how many entries of a block are in use.
    pub(super) fn entries_in_use(&self, block: u32) -> Result<usize, Error> {
        let all = (0..CAPACITY).map(|slot| self.slot(block, slot)).collect::<Result<Vec<_>, Error>>()?;
        Ok(all.iter().filter(|bytes| **bytes != [0; ENTRY]).count())
    }

    /// Returns the place of the entry of `id` in a block, and the entry.
    pub(super) fn entry_in(&self, block: u32, id: u32) -> Result<Option<(usize, RawEntry)>, Error> {
        for slot in 0..CAPACITY {
            let bytes = self.slot(block, slot)?;
            if bytes.starts_with(&id.to_le_bytes()) && bytes != [0; ENTRY] {
                return Ok(Some((slot, zerocopy::transmute!(bytes))));
            }
        }
        Ok(None)
    }

    fn slot(&self, block: u32, slot: usize) -> Result<[u8; ENTRY], Error> {
        let at = slot.saturating_mul(ENTRY).saturating_add(DATA_HEADER);
        let bytes = self.blocks.at(block)?.get(at..).and_then(|rest| rest.first_chunk());
        Ok(bytes.copied().unwrap_or([0; ENTRY]))
    }

    fn put(&mut self, block: u32, slot: usize, entry: &RawEntry) -> Result<(), Error> {
        self.put_bytes(block, slot, &zerocopy::transmute!(*entry))
    }

    fn put_bytes(&mut self, block: u32, slot: usize, bytes: &[u8; ENTRY]) -> Result<(), Error> {
        let at = slot.saturating_mul(ENTRY).saturating_add(DATA_HEADER);
        if let Some(place) = self.blocks.at_mut(block)?.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *place = *bytes;
        }
        Ok(())
    }
}

/// Returns the bits of an id by which a level of the tree refers.
pub(super) fn byte_of(id: u32, level: usize) -> usize {
    id.to_be_bytes().get(level).copied().unwrap_or_default().into()
}

/// Block of the tree's root.
///
/// Spec: `QT_TREEOFF`: "Offset of tree in file in blocks".
pub(super) const ROOT: u32 = 1;
/// Levels of references: one byte of an id for each.
pub(super) const LEVELS: usize = 4;
/// Bytes of the header in use.
const HEADER: usize = size_of::<RawHeader>();
/// Bytes in front of the entries of a block.
///
/// Spec: `struct qt_disk_dqdbheader`.
const DATA_HEADER: usize = 16;
const COUNT: usize = 8;
/// Entries of a block.
pub(super) const CAPACITY: usize = (BLOCK - DATA_HEADER) / ENTRY;
