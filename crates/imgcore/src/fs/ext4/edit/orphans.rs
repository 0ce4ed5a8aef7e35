//! Files that wait to be deleted or cut: a program still had them open when the machine stopped.

use std::collections::BTreeSet;

use super::Editor;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::ext4::budget::Budget;
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::error::{corrupt, refused};
use crate::fs::ext4::extent::FileExtent;
use crate::fs::ext4::feature::{ORPHAN_FILE, ORPHAN_PRESENT};
use crate::fs::ext4::inode::Inode;
use crate::fs::ext4::volume::has_tree;
use crate::fs::{Error, FileKind};

/// A block of the file that lists orphans: its number, and what it is without any.
type EmptyBlock = (u64, Vec<u8>);

impl<D: BlockWrite> Editor<D> {
    /// Frees the files that have no name any more, and cuts the others to their size, as a mount does.
    pub(super) fn settle_orphans(&mut self) -> Result<(), Error> {
        let mut orphans = self.chained_orphans()?;
        let (listed, blocks) = self.listed_orphans()?;
        orphans.extend(listed);
        let mut seen = BTreeSet::new();
        let mut budget = Budget::of_all(self.volume.layout());
        for number in orphans {
            if !seen.insert(number) {
                return Err(corrupt(format!("orphan {number}"), "it is listed once"));
            }
            self.settle_orphan(number, &mut budget)?;
        }
        let is_marked = self.volume.raw.has_ro_compat(ORPHAN_PRESENT);
        if is_marked || !seen.is_empty() {
            self.volume.raw.s_last_orphan.set(0);
            let features = self.volume.raw.s_feature_ro_compat.get();
            self.volume.raw.s_feature_ro_compat.set(features & !ORPHAN_PRESENT);
            self.changed = true;
        }
        for (block, bytes) in blocks {
            self.volume.store.write(block, bytes);
        }
        Ok(())
    }

    fn settle_orphan(&mut self, number: u32, budget: &mut Budget) -> Result<(), Error> {
        let mut inode = self.volume.inode(number)?;
        inode.raw.i_dtime.set(0);
        if inode.raw.i_links_count.get() == 0 {
            return self.free_file(inode);
        }
        if inode.kind()? == FileKind::File {
            self.cut_to_size(&mut inode, budget)?;
        }
        self.save(&inode)
    }

    /// Gives back the blocks behind the end of a file, and fills the rest of its last one with zeros. The inode is not saved.
    fn cut_to_size(&mut self, inode: &mut Inode, budget: &mut Budget) -> Result<(), Error> {
        if !has_tree(inode, FileKind::File) {
            return Ok(());
        }
        let block_size = u64::from(self.volume.layout().block_size);
        let size = inode.size();
        let end = size.div_ceil(block_size);
        let tree = self.owned_tree(inode)?;
        if !budget.spend(&tree) {
            return Err(refused("has files to be cut that are of more pieces than are looked at, or that share blocks"));
        }
        let kept = self.cut(&tree.extents, end)?;
        self.clear_tail(&kept, size)?;
        if kept == tree.extents {
            return Ok(());
        }
        let group = self.group_of(inode);
        self.store_tree(inode, &kept, group, &tree.nodes)
    }

    fn clear_tail(&mut self, extents: &[FileExtent], size: u64) -> Result<(), Error> {
        let block_size = u64::from(self.volume.layout().block_size);
        let index = size.checked_div(block_size).unwrap_or_default();
        let inside = size.checked_rem(block_size).unwrap_or_default();
        let is_last = |extent: &&FileExtent| u64::from(extent.logical) <= index && index < extent.logical_end();
        let Some(extent) = extents.iter().find(is_last).filter(|extent| inside > 0 && !extent.unwritten) else { return Ok(()) };
        let block = extent.physical.saturating_add(index.saturating_sub(u64::from(extent.logical)));
        let offset = self.volume.store.offset(block)?.saturating_add(inside);
        let zeros = vec![0; usize::try_from(block_size.saturating_sub(inside)).unwrap_or_default()];
        Ok(self.volume.store.disk_mut().write_all_at(&zeros, offset)?)
    }
}

impl<D: BlockRead> Editor<D> {
    /// Returns the inodes of the list that begins in the superblock and goes on in each inode's time of deletion.
    ///
    /// Spec: "the superblock contains the inode number of the last orphan inode (s_last_orphan field) and then each inode contains
    /// inode number of the previously orphaned inode (we overload i_dtime inode field for this)."
    fn chained_orphans(&self) -> Result<Vec<u32>, Error> {
        let mut orphans = Vec::new();
        let mut number = self.volume.raw.s_last_orphan.get();
        while number != 0 {
            self.check_orphan(number)?;
            if orphans.len() >= MOST_ORPHANS {
                return Err(refused(format!("has more than {MOST_ORPHANS} deleted files that are not freed yet")));
            }
            orphans.push(number);
            number = self.volume.inode(number)?.raw.i_dtime.get();
        }
        Ok(orphans)
    }

    /// Returns the inodes that the orphan file lists, and its blocks as they are without them.
    fn listed_orphans(&self) -> Result<(Vec<u32>, Vec<EmptyBlock>), Error> {
        let raw = &self.volume.raw;
        if !raw.has_ro_compat(ORPHAN_PRESENT) {
            return Ok((Vec::new(), Vec::new()));
        }
        let bad = |rule: &str| corrupt(format!("orphan file, inode {}", raw.s_orphan_file_inum.get()), rule);
        if !raw.has_compat(ORPHAN_FILE) {
            return Err(bad("it exists where there may be orphans in it"));
        }
        let inode = self.volume.inode(raw.s_orphan_file_inum.get())?;
        if inode.raw.i_links_count.get() == 0 || inode.kind()? != FileKind::File {
            return Err(bad("it is a regular file with a link"));
        }
        let seed = inode.checksum_seed(self.volume.layout());
        let mut orphans = Vec::new();
        let mut blocks = Vec::new();
        for (_, number) in self.volume.folder_blocks(&inode)? {
            let bytes = self.volume.store.block(number)?;
            let (entries, tail) = bytes.split_at_checked(bytes.len().saturating_sub(TAIL)).unwrap_or_default();
            let (magic, sum) = tail.split_at_checked(4).unwrap_or_default();
            // Spec: "Magic value stored in orphan block tail (0x0b10ca04)"
            if magic != MAGIC.to_le_bytes() {
                return Err(bad("a block of it ends with the magic 0x0B10CA04"));
            }
            let sum_of = |entries: &[u8]| crc32c(crc32c(seed, &number.to_le_bytes()), entries).to_le_bytes();
            let has_sums = self.volume.layout().has_metadata_csum();
            if has_sums && sum != sum_of(entries) {
                return Err(bad("the checksum of a block matches its bytes"));
            }
            // Spec: "Each __le32 entry is either empty (0) or it contains inode number of an orphan inode."
            let listed =
                entries.chunks_exact(4).filter_map(|entry| entry.first_chunk::<4>()).map(|entry| u32::from_le_bytes(*entry));
            let before = orphans.len();
            orphans.extend(listed.filter(|number| *number != 0));
            if orphans.len() > MOST_ORPHANS {
                return Err(refused(format!("has more than {MOST_ORPHANS} deleted files that are not freed yet")));
            }
            if orphans.len() > before {
                let mut empty = vec![0; entries.len()];
                let sum = if has_sums { sum_of(&empty) } else { [0; 4] };
                empty.extend_from_slice(magic);
                empty.extend_from_slice(&sum);
                blocks.push((number, empty));
            }
        }
        orphans.iter().try_for_each(|number| self.check_orphan(*number))?;
        Ok((orphans, blocks))
    }

    fn check_orphan(&self, number: u32) -> Result<(), Error> {
        if number >= self.volume.layout().first_inode && self.volume.layout().group_of_inode(number).is_some() {
            return Ok(());
        }
        Err(corrupt(format!("orphan {number}"), "it is an inode that is not reserved"))
    }
}

const TAIL: usize = 8;
const MAGIC: u32 = 0x0B10_CA04;
/// The most orphans that are freed.
const MOST_ORPHANS: usize = 1 << 20;
