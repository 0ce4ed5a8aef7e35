//! The check of a whole quota file, which may be anything: every block is in one place of the tree or of the list of empty ones,
//! every entry is where the tree says, and the lists end.

use std::collections::{BTreeMap, BTreeSet};

use super::Usage;
use super::file::{CAPACITY, LEVELS, QuotaFile, ROOT};
use crate::fs::Error;

impl QuotaFile {
    /// Checks all blocks and returns what every id has.
    pub(super) fn check(&self) -> Result<BTreeMap<u32, Usage>, Error> {
        let mut walk = Walk { file: self, seen: BTreeSet::from([0, ROOT]), data: BTreeMap::new(), usage: BTreeMap::new() };
        walk.node(ROOT, 0, 0)?;
        for (block, referred) in &walk.data {
            let (used, stored) = (self.entries_in_use(*block)?, self.entries_count(*block)?);
            if used != *referred || used != usize::from(stored) {
                return Err(self.blocks.bad(*block, "it has as many entries as it says and as the tree refers to"));
            }
        }
        walk.empty_list()?;
        walk.room_list()?;
        Ok(walk.usage)
    }
}

struct Walk<'a> {
    file: &'a QuotaFile,
    /// Blocks of the tree and empty ones.
    seen: BTreeSet<u32>,
    /// Blocks of entries, and how often the tree refers to them.
    data: BTreeMap<u32, usize>,
    usage: BTreeMap<u32, Usage>,
}

impl Walk<'_> {
    /// Looks at a block of references; `above` is the bits of the ids that led to it.
    fn node(&mut self, node: u32, level: usize, above: u32) -> Result<(), Error> {
        for index in 0..=u8::MAX {
            let below = self.file.blocks.word(node, usize::from(index))?;
            if below == 0 {
                continue;
            }
            self.in_range(node, below)?;
            let id = above << 8 | u32::from(index);
            if level == LEVELS.saturating_sub(1) {
                self.leaf(below, id)?;
            } else if self.data.contains_key(&below) || !self.seen.insert(below) {
                return Err(self.file.blocks.bad(below, "it is in one place of the tree"));
            } else {
                self.node(below, level.saturating_add(1), id)?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, block: u32, id: u32) -> Result<(), Error> {
        if self.seen.contains(&block) {
            return Err(self.file.blocks.bad(block, "it is in one place of the tree"));
        }
        let Some((_, entry)) = self.file.entry_in(block, id)? else {
            return Err(self.file.blocks.bad(block, &format!("it has the entry of {id}, as the tree says")));
        };
        let referred = self.data.entry(block).or_default();
        *referred = referred.saturating_add(1);
        self.usage.insert(id, entry.usage());
        Ok(())
    }

    /// Follows the list of empty blocks.
    fn empty_list(&mut self) -> Result<(), Error> {
        let mut block = self.file.header.dqi_free_blk.get();
        while block != 0 {
            self.in_range(0, block)?;
            if self.data.contains_key(&block) || !self.seen.insert(block) {
                return Err(self.file.blocks.bad(block, "what is listed as empty is not in use, and listed once"));
            }
            block = self.file.blocks.word(block, 0)?;
        }
        Ok(())
    }

    /// Follows the list of blocks with room for entries.
    fn room_list(&mut self) -> Result<(), Error> {
        let (mut block, mut before) = (self.file.header.dqi_free_entry.get(), 0);
        let mut listed = BTreeSet::new();
        while block != 0 {
            self.in_range(0, block)?;
            let is_full = usize::from(self.file.entries_count(block)?) >= CAPACITY;
            if is_full || !self.data.contains_key(&block) || !listed.insert(block) {
                return Err(self
                    .file
                    .blocks
                    .bad(block, "what is listed as having room has entries and room, and is listed once"));
            }
            if self.file.blocks.word(block, 1)? != before {
                return Err(self.file.blocks.bad(block, "it names the block before it in the list of those with room"));
            }
            (before, block) = (block, self.file.blocks.word(block, 0)?);
        }
        for block in self.data.keys().filter(|block| !listed.contains(block)) {
            if self.file.blocks.word(*block, 0)? != 0 || self.file.blocks.word(*block, 1)? != 0 {
                return Err(self.file.blocks.bad(*block, "only what is listed as having room names others of that list"));
            }
        }
        Ok(())
    }

    fn in_range(&self, at: u32, block: u32) -> Result<(), Error> {
        if block > ROOT && block < self.file.blocks.count() {
            return Ok(());
        }
        Err(self.file.blocks.bad(at, &format!("it refers to blocks of the file, and {block} is none")))
    }
}
