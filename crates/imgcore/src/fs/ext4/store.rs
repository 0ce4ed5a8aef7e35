use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::corrupt;
use super::layout::Layout;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;

/// Blocks of metadata, read once and written once.
///
/// The contents of files do not pass through here. Changed blocks stay in memory until [`Store::flush`].
#[derive(Debug)]
pub(super) struct Store<D> {
    disk: D,
    layout: Layout,
    clean: Mutex<BTreeMap<u64, Arc<[u8]>>>,
    dirty: BTreeMap<u64, Arc<[u8]>>,
}

impl<D: BlockRead> Store<D> {
    pub(super) fn new(disk: D, layout: Layout) -> Self {
        Self { disk, layout, clean: Mutex::default(), dirty: BTreeMap::new() }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn disk(&self) -> &D {
        &self.disk
    }

    pub(super) fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    pub(super) fn into_disk(self) -> D {
        self.disk
    }

    /// Returns the bytes of a block.
    pub(super) fn block(&self, number: u64) -> Result<Arc<[u8]>, Error> {
        if let Some(bytes) = self.dirty.get(&number) {
            return Ok(Arc::clone(bytes));
        }
        if let Some(bytes) = self.clean().get(&number) {
            return Ok(Arc::clone(bytes));
        }
        let mut bytes = vec![0; self.layout.block_bytes()];
        self.disk.read_exact_at(&mut bytes, self.offset(number)?)?;
        let bytes: Arc<[u8]> = bytes.into();
        let mut clean = self.clean();
        if clean.len() >= MAX_CLEAN {
            clean.clear();
        }
        clean.insert(number, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Returns the offset of a block in bytes.
    pub(super) fn offset(&self, number: u64) -> Result<u64, Error> {
        if number >= self.layout.blocks_count {
            return Err(corrupt(format!("block {number}"), "it lies inside the file system"));
        }
        Ok(number.saturating_mul(u64::from(self.layout.block_size)))
    }

    fn clean(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<[u8]>>> {
        // What a panicking thread left is a plain map of bytes that were read: still true.
        self.clean.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps new bytes of a block.
    pub(super) fn write(&mut self, number: u64, bytes: Vec<u8>) {
        self.clean().remove(&number);
        self.dirty.insert(number, bytes.into());
    }

    /// Drops what is known of blocks that are no metadata any more.
    pub(super) fn forget(&mut self, blocks: Range<u64>) {
        let forget = |known: &mut BTreeMap<u64, Arc<[u8]>>| {
            let gone: Vec<u64> = known.range(blocks.clone()).map(|(number, _)| *number).collect();
            gone.iter().for_each(|number| drop(known.remove(number)));
        };
        forget(&mut self.clean());
        forget(&mut self.dirty);
    }
}

impl<D: BlockWrite> Store<D> {
    /// Writes all changed blocks.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        for (number, bytes) in std::mem::take(&mut self.dirty) {
            let offset = number.saturating_mul(u64::from(self.layout.block_size));
            self.disk.write_all_at(&bytes, offset)?;
        }
        Ok(())
    }
}

/// Blocks that are kept after reading.
const MAX_CLEAN: usize = 4096;
