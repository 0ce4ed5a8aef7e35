//! What is known of the folders that names were looked up in, so that many names in one folder cost no more than reading it once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::dirent::Record;

/// Folders by the number of their inode.
///
/// What is found here is looked at again in its block before it is believed; that a name is not here is believed, so every name
/// that is added to a folder is noted.
#[derive(Debug, Default)]
pub(super) struct Folders {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    folders: BTreeMap<u32, State>,
    /// Bytes of memory that the names take, about.
    size: usize,
}

#[derive(Debug)]
enum State {
    /// So many names were looked up one by one.
    Asked(u32),
    Read(FolderNames),
}

/// The names and the blocks of a folder.
#[derive(Debug, Default)]
pub(super) struct FolderNames {
    /// Index in the folder and number of each block, ascending.
    pub(super) blocks: Vec<(u32, u64)>,
    /// The block of each name.
    names: BTreeMap<Box<[u8]>, u64>,
    /// Bytes for another record that each block may have, where `blocks` has it.
    room: Vec<usize>,
    /// Where the last name went.
    last: usize,
    /// Bytes of memory that the names take, about.
    size: usize,
}

impl FolderNames {
    /// Notes the name of a record of `block`; of several that are the same the first counts.
    pub(super) fn add(&mut self, name: &[u8], block: u64) {
        self.names.entry(name.into()).or_insert(block);
        self.size = self.size.saturating_add(name.len()).saturating_add(EACH);
    }

    /// Returns whether they are too many to be kept.
    pub(super) fn is_too_large(&self) -> bool {
        self.size > MOST
    }

    /// Returns the block of a name.
    pub(super) fn block_of(&self, name: &[u8]) -> Option<u64> {
        self.names.get(name).copied()
    }

    /// Notes that `name` is in another block now.
    pub(super) fn set(&mut self, name: &[u8], block: u64) {
        self.names.insert(name.into(), block);
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        self.names.remove(name);
    }

    /// Notes one more block, which has space for a record of `room` bytes.
    pub(super) fn push_block(&mut self, index: u32, block: u64, room: usize) {
        self.last = self.blocks.len();
        self.blocks.push((index, block));
        self.room.push(room);
    }

    /// Returns the place in `blocks` of one that may have `needed` bytes: the last one that was used when it has, else the first.
    pub(super) fn with_room(&self, needed: usize) -> Option<usize> {
        let has = |at: &usize| self.room.get(*at).is_some_and(|room| *room >= needed);
        Some(self.last).filter(has).or_else(|| (0..self.room.len()).find(has))
    }

    /// Notes that the block at this place of `blocks` has `room` bytes and no more.
    pub(super) fn set_room(&mut self, at: usize, room: usize) {
        if let Some(place) = self.room.get_mut(at) {
            *place = room;
            self.last = at;
        }
    }

    /// Notes that block `number` has `room` bytes and no more.
    pub(super) fn set_room_of(&mut self, number: u64, room: usize) {
        if let Some(at) = self.blocks.iter().position(|(_, block)| *block == number) {
            self.set_room(at, room);
        }
    }

    /// Returns the number of the block at `index` of the folder.
    pub(super) fn block_at(&self, index: u32) -> Option<u64> {
        let at = self.blocks.binary_search_by_key(&index, |(logical, _)| *logical).ok()?;
        self.blocks.get(at).map(|(_, block)| *block)
    }
}

impl Folders {
    fn known(&self) -> MutexGuard<'_, Known> {
        // What a panicking thread left was true when it was noted.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the folder is known after one more question, or whether it is time to read it.
    pub(super) fn ask(&self, folder: u32) -> Asked {
        let mut known = self.known();
        match known.folders.entry(folder).or_insert(State::Asked(0)) {
            State::Read(_) => Asked::Known,
            State::Asked(times) => {
                *times = times.saturating_add(1);
                if *times > PATIENCE { Asked::Worth } else { Asked::New }
            }
        }
    }

    /// Runs `action` on what is known of a folder; returns `None` when it is not known.
    pub(super) fn with<T>(&self, folder: u32, action: impl FnOnce(&mut FolderNames) -> T) -> Option<T> {
        match self.known().folders.get_mut(&folder) {
            Some(State::Read(names)) => Some(action(names)),
            _ => None,
        }
    }

    /// Keeps what was read of a folder, in the place of all others when that is much.
    pub(super) fn keep(&self, folder: u32, names: FolderNames) {
        let mut known = self.known();
        let size = names.size;
        known.size = known.size.saturating_add(size);
        if known.size > MOST {
            known.folders.clear();
            known.size = size;
        }
        if size <= MOST {
            known.folders.insert(folder, State::Read(names));
        }
    }

    /// Drops what is known of a folder.
    pub(super) fn forget(&self, folder: u32) {
        let mut known = self.known();
        if let Some(State::Read(names)) = known.folders.remove(&folder) {
            known.size = known.size.saturating_sub(names.size);
        }
    }
}

/// See [`Folders::ask`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// All its names are known.
    Known,
    /// It was asked so often that its names are worth to be known.
    Worth,
    /// Few names of it were looked up.
    New,
}

/// Returns the bytes of the largest record that a block of these records, which end at `end`, has space for.
pub(super) fn room(records: &[Record<'_>], end: usize) -> usize {
    records.iter().map(|record| record.slack(end)).max().unwrap_or_default()
}

/// Names that are looked up in a folder one by one before all are read.
const PATIENCE: u32 = 3;
/// The most bytes of names that are kept, and what each takes beside its bytes.
const MOST: usize = 128 << 20;
const EACH: usize = 64;
/// The most bytes of a folder whose names are kept.
pub(super) const LARGEST_FOLDER: u64 = 64 << 20;
