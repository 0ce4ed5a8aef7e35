use std::collections::BTreeSet;

use crate::fs::Error;
use crate::fs::ext4::error::{corrupt, refused};

/// A block of a quota file.
type Block = [u8; BLOCK];

/// The blocks of a quota file, in memory.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// The file, for messages.
    place: String,
    all: Vec<Block>,
    changed: BTreeSet<u32>,
}

impl Blocks {
    pub(super) fn new(place: String, bytes: &[u8]) -> Self {
        Self { place, all: bytes.as_chunks().0.to_vec(), changed: BTreeSet::new() }
    }

    /// Returns the error for a rule that block `number` breaks.
    pub(super) fn bad(&self, number: u32, rule: &str) -> Error {
        corrupt(format!("block {number} of the {}", self.place), rule)
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.all.len()).unwrap_or(u32::MAX)
    }

    /// Forgets all blocks from `count` on.
    pub(super) fn truncate(&mut self, count: u32) {
        self.all.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    }

    pub(super) fn at(&self, number: u32) -> Result<&Block, Error> {
        let block = usize::try_from(number).ok().and_then(|at| self.all.get(at));
        block.ok_or_else(|| self.bad(number, "what is referred to lies inside the file"))
    }

    /// Returns a block that is about to change.
    pub(super) fn at_mut(&mut self, number: u32) -> Result<&mut Block, Error> {
        self.at(number)?;
        self.changed.insert(number);
        let (place, all) = (&self.place, &mut self.all);
        let block = usize::try_from(number).ok().and_then(|at| all.get_mut(at));
        block.ok_or_else(|| corrupt(place.clone(), "what is referred to lies inside the file"))
    }

    /// Adds a block of zeros and returns its number.
    pub(super) fn push(&mut self) -> Result<u32, Error> {
        let number = u32::try_from(self.all.len()).ok().filter(|number| *number < MOST);
        let number = number.ok_or_else(|| refused(format!("would have a {}, of more than {MOST} blocks", self.place)))?;
        self.all.push([0; BLOCK]);
        self.changed.insert(number);
        Ok(number)
    }

    /// Returns a 32-bit number of a block.
    pub(super) fn word(&self, number: u32, index: usize) -> Result<u32, Error> {
        let (words, _) = self.at(number)?.as_chunks();
        Ok(words.get(index).map_or(0, |word| u32::from_le_bytes(*word)))
    }

    pub(super) fn set_word(&mut self, number: u32, index: usize, value: u32) -> Result<(), Error> {
        let (words, _) = self.at_mut(number)?.as_chunks_mut();
        if let Some(word) = words.get_mut(index) {
            *word = value.to_le_bytes();
        }
        Ok(())
    }

    /// Returns the blocks that changed, with their numbers.
    pub(super) fn changed(&self) -> impl Iterator<Item = (u32, &Block)> {
        self.changed.iter().filter_map(|number| Some((*number, self.at(*number).ok()?)))
    }
}

/// Bytes of a block, whatever the file system's have.
///
/// Spec: `V2_DQBLKSIZE_BITS`: 10.
pub(in crate::fs::ext4) const BLOCK: usize = 1024;
/// The most blocks of a file.
const MOST: u32 = 1 << 17;
