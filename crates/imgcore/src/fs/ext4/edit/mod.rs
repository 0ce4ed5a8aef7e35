//! Changes to an ext4 file system, on a device that is staged.
//!
//! An edit reads the blocks of metadata that it needs once, changes them in memory, and writes the contents of files straight to
//! the device. [`Editor::finish`] writes the metadata in one batch: bitmaps, then the descriptors with their checksums, then the
//! superblock. An error at any point means that the device is to be dropped: it must be a [`crate::block::Staged`] or a copy.

mod append;
mod attributes;
mod blocks;
mod contents;
mod folder;
mod freed;
mod index;
mod inline;
mod inodes;
mod links;
mod nodes;
mod orphans;
mod owned;
mod project;
mod quota;
mod recount;
mod remove;
mod rename;
mod special;
mod steps;
mod system;
mod tree;

pub(super) use self::blocks::{bytes_of, fresh_block_map, load_block_map, system_blocks};
pub(super) use self::contents::{read_piece, runs_to_compare};
pub(super) use self::inodes::load_inode_map;

use std::collections::{BTreeMap, BTreeSet};

use self::freed::Freed;
use self::quota::Charges;
use super::Timestamp;
use super::bitmap::Bitmap;
use super::feature::{MMP, RECOVER, check_writable};
use super::group::sum_free;
use super::journal::{check_idle, replay};
use super::layout::Layout;
use super::mmp::check_unused;
use super::superblock::{RawSuperblock, SUPERBLOCK_OFFSET, halves};
use super::survey::survey;
use super::volume::Volume;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::{EditPlan, Error, GuestPath};

/// An ext4 file system that is being changed.
#[derive(Debug)]
pub struct Editor<D> {
    volume: Volume<D>,
    now: Timestamp,
    /// The path of the step that runs, for messages.
    path: GuestPath,
    block_maps: BTreeMap<u32, Bitmap>,
    inode_maps: BTreeMap<u32, Bitmap>,
    /// What was in use when the run began, and is free now.
    freed_blocks: Freed,
    freed_inodes: Freed,
    /// The longest run of free blocks that a group may have, where it is known.
    longest_runs: BTreeMap<u32, u32>,
    /// Groups whose descriptor changed.
    touched: BTreeSet<u32>,
    /// Blocks of the layout, start to end, which no file may have.
    system: Vec<(u64, u64)>,
    /// Inodes whose blocks are known to be in use, and not by the layout.
    owned: BTreeSet<u32>,
    /// Leaves of indexes whose names are known to have the hashes that the index says.
    ordered: BTreeSet<u64>,
    /// What users, groups and projects have more or less.
    charges: Charges,
    changed: bool,
}

impl<D: BlockWrite> Editor<D> {
    /// Opens the file system that fills `disk`, for changing. `now` becomes the time of what is made and changed.
    ///
    /// One that was not unmounted becomes what a mount would make of it: its journal is replayed, and the files that wait for it
    /// are deleted.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] names the feature or state in the way; otherwise as [`super::Ext4::open`]. Nothing has been written
    /// then.
    pub fn open(mut disk: D, now: Timestamp) -> Result<Self, Error> {
        let raw = RawSuperblock::read(&disk)?;
        check_writable(&raw)?;
        if raw.has_incompat(MMP) {
            check_unused(&disk, &raw, &Layout::decode(&raw, disk.size())?)?;
        }
        if !raw.has_incompat(RECOVER) {
            check_idle(&disk, &raw)?;
        }
        replay(&mut disk)?;
        let volume = Volume::open(disk)?;
        check_writable(&volume.raw)?;
        let system = blocks::system_blocks(&volume)?;
        let charges = Charges::new(&volume.raw);
        let mut editor = Self {
            volume,
            now,
            path: GuestPath::root(),
            block_maps: BTreeMap::new(),
            inode_maps: BTreeMap::new(),
            freed_blocks: Freed::default(),
            freed_inodes: Freed::default(),
            longest_runs: BTreeMap::new(),
            touched: BTreeSet::new(),
            system,
            owned: BTreeSet::new(),
            ordered: BTreeSet::new(),
            charges,
            changed: false,
        };
        editor.check_bad_blocks()?;
        editor.recount()?;
        survey(&editor.volume)?;
        editor.settle_orphans()?;
        Ok(editor)
    }
}

impl<D: BlockRead> Editor<D> {
    /// Returns the number of free blocks and the bytes of a block.
    #[must_use]
    pub fn free_blocks(&self) -> (u64, u32) {
        (self.volume.raw.free_blocks_count(), self.volume.layout().block_size)
    }

    /// Checks that the superblock has a place for features, which `what` needs.
    fn expect_features(&self, what: &str) -> Result<(), Error> {
        if self.volume.raw.s_rev_level.get() > 0 {
            return Ok(());
        }
        Err(self.unrepresentable(format!("{what} needs a file system of revision 1, and this one is of revision 0")))
    }

    fn unrepresentable(&self, rule: impl Into<String>) -> Error {
        Error::Unrepresentable { path: self.path.clone(), rule: rule.into() }
    }
}

impl<D: BlockWrite> Editor<D> {
    /// Runs the steps of `plan`, in order.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::WrongKind`], [`Error::NotFound`] (a file whose attributes are to be set),
    /// [`Error::Unrepresentable`], [`Error::Refused`] for a file that is not changed (immutable, encrypted, …), or what
    /// [`super::Ext4::open`] says. The device has a part of the changes then, and must be dropped.
    pub fn apply(&mut self, plan: &EditPlan) -> Result<(), Error> {
        self.charges.check |= !plan.edits.is_empty();
        for edit in &plan.edits {
            self.path = edit.path().clone();
            self.step(edit)?;
        }
        Ok(())
    }

    /// Writes what is still in memory, the quota files too, and returns the device.
    ///
    /// # Errors
    ///
    /// The failure of the device; where it has quota, [`Error::Corrupt`] or [`Error::NoSpace`] for the files of that. The device
    /// must be dropped then.
    pub fn finish(mut self) -> Result<D, Error> {
        self.settle_quota()?;
        if self.changed {
            self.write_maps()?;
            self.write_descriptors()?;
            self.write_superblock()?;
            self.volume.store.flush()?;
        }
        Ok(self.volume.store.into_disk())
    }

    /// Takes what is free from the groups: a file system that is mounted counts there alone.
    fn recount(&mut self) -> Result<(), Error> {
        let (clusters, inodes) = sum_free(self.volume.store.disk(), self.volume.layout())?;
        let blocks = clusters.saturating_mul(u64::from(self.volume.layout().cluster_blocks));
        let raw = &mut self.volume.raw;
        if (raw.free_blocks_count(), u64::from(raw.s_free_inodes_count.get())) != (blocks, inodes) {
            raw.set_free_blocks_count(blocks);
            raw.s_free_inodes_count.set(u32::try_from(inodes).unwrap_or(u32::MAX));
            self.changed = true;
        }
        Ok(())
    }

    fn write_descriptors(&mut self) -> Result<(), Error> {
        let layout = *self.volume.layout();
        for number in &self.touched {
            let bytes = self.volume.group(*number)?.encode(*number, &layout);
            self.volume.store.disk_mut().write_all_at(&bytes, layout.descriptor_offset(*number))?;
        }
        Ok(())
    }

    fn write_superblock(&mut self) -> Result<(), Error> {
        let (low, high) = halves(u64::from_le_bytes(self.now.secs.to_le_bytes()));
        self.volume.raw.s_wtime.set(low);
        if let (Some(place), [byte, ..]) = (self.volume.raw.s_time_hi.first_mut(), high.to_le_bytes()) {
            *place = byte;
        }
        let bytes = self.volume.raw.encode();
        Ok(self.volume.store.disk_mut().write_all_at(&bytes, SUPERBLOCK_OFFSET)?)
    }
}
