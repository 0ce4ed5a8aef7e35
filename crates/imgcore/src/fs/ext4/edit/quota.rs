//! What users, groups and projects have more or less after an edit, and how that comes into the quota files.
//!
//! Every inode that is saved or freed is compared with what it was, so nothing depends on which edit changed it. The changes are
//! added up for each id, and the entries of those ids change once, at the end.

use std::collections::{BTreeMap, BTreeSet};

use super::Editor;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::feature::EA_INODE;
use crate::fs::ext4::inode::Inode;
use crate::fs::ext4::quota::{
    BLOCK, Kind, Owners, QuotaFile, Usage, blocks_of, counted_inodes, counts, quota_inodes, read_quota,
};
use crate::fs::ext4::superblock::RawSuperblock;
use crate::fs::ext4::xattr::{check_values_here, read_xattrs};

/// What one kind of ids has, or has more.
pub(super) type Changes = BTreeMap<u32, Usage>;

/// Changes to what users, groups and projects have, until they are stored.
#[derive(Debug, Default)]
pub(super) struct Charges {
    /// The quota files, and their inodes. Without any, nothing is noted.
    files: Vec<(Kind, u32)>,
    /// Inodes that are in use and were not saved yet.
    new: BTreeSet<u32>,
    changes: BTreeMap<Kind, Changes>,
    /// Inodes that were saved, and who pays for them.
    saved: BTreeMap<u32, Owners>,
    /// Whether the files are read even if nothing changes for them.
    pub(super) check: bool,
}

impl Charges {
    pub(super) fn new(raw: &RawSuperblock) -> Self {
        Self { files: quota_inodes(raw), ..Self::default() }
    }

    /// Notes that an inode, whose stored bytes mean nothing, is in use from now on.
    pub(super) fn note_new(&mut self, inode: u32) {
        if !self.files.is_empty() {
            self.new.insert(inode);
        }
    }

    fn add(&mut self, owners: &Owners, usage: Usage) {
        for (kind, _) in &self.files {
            let sum = self.changes.entry(*kind).or_default().entry(owners.id(*kind)).or_default();
            *sum = sum.plus(usage);
        }
    }
}

impl<D: BlockRead> Editor<D> {
    /// Has the owners of an inode pay for it as it is to be, or for nothing when it is freed.
    pub(super) fn charge(&mut self, number: u32, new: Option<&Inode>) -> Result<(), Error> {
        if self.charges.files.is_empty() || !counts(&self.volume.raw, number) {
            return Ok(());
        }
        let was_new = self.charges.new.remove(&number);
        let old = if was_new { None } else { Some(Owners::of(&self.volume, &self.volume.inode(number)?)) };
        let paid = new.map(|inode| Owners::of(&self.volume, inode));
        match paid {
            Some(paid) => self.charges.saved.insert(number, paid),
            None => self.charges.saved.remove(&number),
        };
        if old == paid {
            return Ok(());
        }
        if let (Some(old), Some(paid), Some(inode)) = (&old, &paid, new)
            && !old.are_those_of(paid)
            && self.volume.raw.has_incompat(EA_INODE)
        {
            // Each owner pays for the values that have inodes of their own.
            check_values_here(&read_xattrs(&self.volume, inode)?)?;
        }
        if let Some(old) = &old {
            self.charges.add(old, Usage::default().minus(old.usage));
        }
        if let Some(paid) = &paid {
            self.charges.add(paid, paid.usage);
        }
        Ok(())
    }
}

impl<D: BlockWrite> Editor<D> {
    /// Brings the changes into the quota files.
    ///
    /// Where a file was wrong before, as far as the number of inodes tells, all is counted anew.
    pub(super) fn settle_quota(&mut self) -> Result<(), Error> {
        let changed = self.charges.changes.values().any(|changes| changes.values().any(|usage| *usage != Usage::default()));
        if !changed && !self.charges.check {
            return Ok(());
        }
        let mut files = Vec::new();
        for (kind, number) in self.charges.files.clone() {
            files.push((kind, number, read_quota(&self.volume, kind, number)?));
        }
        let mut changes = std::mem::take(&mut self.charges.changes);
        let wrong = files.iter().any(|(kind, _, file)| !self.is_plausible(*kind, file, changes.get(kind)));
        if wrong && !self.volume.raw.has_incompat(EA_INODE) {
            let counted = self.count_all(files.iter().map(|(kind, ..)| *kind))?;
            for (kind, _, file) in &files {
                changes.insert(*kind, missing(file, counted.get(kind)));
            }
        }
        for (kind, number, mut file) in files {
            for (id, change) in changes.remove(&kind).unwrap_or_default() {
                file.change(id, change)?;
            }
            self.write_quota(number, &mut file)?;
        }
        Ok(())
    }

    /// Returns whether a quota file has all inodes once it has these changes, and nobody less than nothing or than what his files
    /// take that were saved.
    fn is_plausible(&self, kind: Kind, file: &QuotaFile, changes: Option<&Changes>) -> bool {
        let mut least = Changes::new();
        for owners in self.charges.saved.values() {
            let sum = least.entry(owners.id(kind)).or_default();
            *sum = sum.plus(owners.usage);
        }
        let change = |id: &u32| changes.and_then(|changes| changes.get(id)).copied().unwrap_or_default();
        let after = |id: &u32| file.usage().get(id).copied().unwrap_or_default().plus(change(id));
        let mut all: Vec<&u32> = least.keys().chain(changes.into_iter().flat_map(Changes::keys)).collect();
        all.sort_unstable();
        all.dedup();
        let is_enough = |id: &u32| {
            let usage = after(id);
            !usage.is_negative() && !usage.minus(least.get(id).copied().unwrap_or_default()).is_negative()
        };
        let added = changes.into_iter().flat_map(Changes::values);
        let total = file.usage().values().chain(added).fold(Usage::default(), |sum, usage| sum.plus(*usage));
        all.into_iter().all(is_enough) && counted_inodes(&self.volume.raw) == total.inodes
    }

    /// Writes what changed in a quota file, which may have become longer.
    fn write_quota(&mut self, number: u32, file: &mut QuotaFile) -> Result<(), Error> {
        let (size, changed) = file.changed();
        if changed.is_empty() {
            return Ok(());
        }
        let mut inode = self.volume.inode(number)?;
        // Nobody else has its blocks.
        self.owned_tree(&inode)?;
        let block_size = u64::from(self.volume.layout().block_size);
        let had = inode.size();
        while inode.size().div_ceil(block_size) < size.div_ceil(block_size) {
            let (_, block) = self.append_block(&mut inode)?;
            self.volume.store.write(block, vec![0; self.volume.layout().block_bytes()]);
        }
        inode.set_size(had.max(size));
        if !inode.set_mtime(self.now) || !inode.set_ctime(self.now) {
            return Err(self.unrepresentable("this file system cannot store today's date"));
        }
        self.save(&inode)?;
        let tree = self.volume.tree(&inode)?;
        let bad = || corrupt(format!("inode {number}"), "a quota file has no holes");
        let blocks: Vec<u64> = blocks_of(&tree).ok_or_else(bad)?.collect();
        for (index, bytes) in changed {
            let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(BLOCK);
            let block_bytes = self.volume.layout().block_bytes();
            let block = at.checked_div(block_bytes).and_then(|block| blocks.get(block)).copied().ok_or_else(bad)?;
            let inside = at.checked_rem(block_bytes).unwrap_or_default();
            let mut stored = self.volume.store.block(block)?.to_vec();
            let place = stored.get_mut(inside..).and_then(|rest| rest.first_chunk_mut()).ok_or_else(bad)?;
            *place = bytes;
            self.volume.store.write(block, stored);
        }
        Ok(())
    }
}

/// Returns what a quota file lacks of what was counted.
fn missing(file: &QuotaFile, counted: Option<&Changes>) -> Changes {
    let mut changes: Changes = counted.cloned().unwrap_or_default();
    for (id, usage) in file.usage() {
        let change = changes.entry(*id).or_default();
        *change = change.minus(*usage);
    }
    changes
}
