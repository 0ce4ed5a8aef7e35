use super::Editor;
use super::blocks::bytes_of;
use crate::block::BlockRead;
use crate::fs::ext4::bitmap::Bitmap;
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::error::{corrupt, refused};
use crate::fs::ext4::group::{Group, INODE_UNINIT};
use crate::fs::ext4::inode::{
    APPEND_FLAG, CASEFOLD_FLAG, EA_INODE_FLAG, ENCRYPT_FLAG, IMMUTABLE_FLAG, Inode, LINKS_COUNT, ROOT_INODE, VERITY_FLAG,
};
use crate::fs::ext4::layout::Checksums;
use crate::fs::ext4::volume::Volume;
use crate::fs::{Error, FileKind};

impl<D: BlockRead> Editor<D> {
    pub(super) fn inode_map(&mut self, number: u32) -> Result<&mut Bitmap, Error> {
        if !self.inode_maps.contains_key(&number) {
            let map = load_inode_map(&self.volume, number)?;
            self.inode_maps.insert(number, map);
        }
        let missing = || corrupt(format!("group {number}"), "it has an inode bitmap");
        self.inode_maps.get_mut(&number).ok_or_else(missing)
    }

    /// Returns a new inode for a file in a folder of `group`: in the same group or behind it, folders where few are.
    pub(super) fn allocate_inode(&mut self, group: u32, kind: FileKind) -> Result<Inode, Error> {
        let folder = kind == FileKind::Directory;
        let number = self.group_for(folder, group)?;
        let layout = *self.volume.layout();
        let before = number.saturating_mul(layout.inodes_per_group);
        let reserved = layout.first_inode.saturating_sub(1).saturating_sub(before);
        let first = reserved.min(layout.inodes_per_group);
        let free = match self.freed_inodes.map(number) {
            Some(map) => map.first_free(first, layout.inodes_per_group),
            None => self.inode_map(number)?.first_free(first, layout.inodes_per_group),
        };
        let index = free.ok_or_else(|| corrupt(format!("inode bitmap of group {number}"), "a free inode can be used"))?;
        self.check_free(number, index)?;
        self.inode_map(number)?.set(index..index.saturating_add(1), true);
        self.freed_inodes.take(number, index..index.saturating_add(1));
        self.materialize(number)?;
        let bad = || corrupt("superblock", "its free inodes are those of the groups");
        let total = self.volume.raw.s_free_inodes_count.get().checked_sub(1).ok_or_else(bad)?;
        self.volume.raw.s_free_inodes_count.set(total);
        let group = self.group_mut(number)?;
        group.free_inodes = group.free_inodes.checked_sub(1).ok_or_else(bad)?;
        group.used_dirs = group.used_dirs.saturating_add(u32::from(folder));
        group.flags &= !INODE_UNINIT;
        if layout.checksums != Checksums::None {
            // What lies behind this inode was never used.
            let behind = layout.inodes_per_group.saturating_sub(index).saturating_sub(1);
            group.itable_unused = group.itable_unused.min(behind);
        }
        let inode = before.saturating_add(index).saturating_add(1);
        let generation = crc32c(crc32c(layout.seed, &inode.to_le_bytes()), &self.now.secs.to_le_bytes());
        self.volume.folders.forget(inode);
        self.charges.note_new(inode);
        Ok(Inode::new(inode, &layout, generation))
    }

    /// Checks that an inode whose bit is clear is not one that lost its bit.
    fn check_free(&self, number: u32, index: u32) -> Result<(), Error> {
        let (layout, group) = (self.volume.layout(), self.volume.group(number)?);
        let used = layout.inodes_per_group.saturating_sub(group.itable_unused);
        if group.has(INODE_UNINIT) || index >= used {
            // What was never used may hold anything.
            return Ok(());
        }
        let inode = number.saturating_mul(layout.inodes_per_group).saturating_add(index).saturating_add(1);
        let (block, at) = self.volume.inode_place(inode)?;
        let block = self.volume.store.block(block)?;
        match block.get(at.saturating_add(LINKS_COUNT)..).and_then(|rest| rest.first_chunk::<2>()) {
            Some([0, 0]) => Ok(()),
            _ => Err(corrupt(format!("inode {inode}"), "what has a link is in use")),
        }
    }

    /// Returns the group of a new inode: of those that this run has freed one is taken only when no others are left.
    fn group_for(&mut self, folder: bool, group: u32) -> Result<u32, Error> {
        loop {
            let number = if folder { self.group_for_folder(group)? } else { self.group_for_file(group)? };
            match number {
                Some(number) => return Ok(number),
                None if self.freed_inodes.give_out() => {}
                None => return Err(Error::NoSpace("an inode is needed, none is free".to_owned())),
            }
        }
    }

    fn group_for_file(&self, group: u32) -> Result<Option<u32>, Error> {
        let groups = self.volume.layout().groups;
        for number in (group..groups).chain(0..group.min(groups)) {
            if self.volume.group(number)?.free_inodes > self.freed_inodes.count(number) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Returns the group with the fewest folders in the flexible group of the parent, else the next one with a free inode.
    fn group_for_folder(&self, group: u32) -> Result<Option<u32>, Error> {
        let layout = self.volume.layout();
        let flex = group.checked_div(layout.groups_per_flex).unwrap_or_default();
        let first = flex.saturating_mul(layout.groups_per_flex);
        let mut best: Option<(u32, u32)> = None;
        for number in first..first.saturating_add(layout.groups_per_flex).min(layout.groups) {
            let candidate = self.volume.group(number)?;
            let usable = candidate.free_inodes > self.freed_inodes.count(number) && candidate.free_clusters > 0;
            if usable && best.is_none_or(|(dirs, _)| candidate.used_dirs < dirs) {
                best = Some((candidate.used_dirs, number));
            }
        }
        match best {
            Some((_, number)) => Ok(Some(number)),
            None => self.group_for_file(group),
        }
    }

    /// Gives an inode back, whose blocks were given back before.
    pub(super) fn free_inode(&mut self, mut inode: Inode) -> Result<(), Error> {
        let folder = inode.kind()? == FileKind::Directory;
        self.charge(inode.number, None)?;
        let bad = || corrupt(format!("inode {}", inode.number), "an inode that is named is in use");
        let (number, index) = self.volume.layout().group_of_inode(inode.number).ok_or_else(bad)?;
        let is_wanted = self.freed_inodes.wants(number);
        let map = self.inode_map(number)?;
        if !map.get(index) {
            return Err(bad());
        }
        let before = is_wanted.then(|| map.clone());
        map.set(index..index.saturating_add(1), false);
        self.freed_inodes.note(number, before, 1);
        let total = self.volume.raw.s_free_inodes_count.get().saturating_add(1);
        self.volume.raw.s_free_inodes_count.set(total);
        let group = self.group_mut(number)?;
        group.free_inodes = group.free_inodes.saturating_add(1);
        group.used_dirs = group.used_dirs.saturating_sub(u32::from(folder));
        inode.raw.i_links_count.set(0);
        // Spec: "Orphan inodes": a small time of deletion is the number of the next inode on the list, and 0 is none.
        let least = self.volume.raw.s_inodes_count.get().saturating_add(1);
        inode.raw.i_dtime.set(u32::try_from(self.now.secs).unwrap_or(u32::MAX).max(least));
        inode.set_size(0);
        inode.set_sectors(0);
        inode.set_xattr_block(0);
        inode.raw.i_block = [0; 60];
        inode.raw.i_flags.set(0);
        inode.tail.fill(0);
        self.store_inode(&inode)
    }

    /// Keeps the new state of an inode, which is in use.
    pub(super) fn save(&mut self, inode: &Inode) -> Result<(), Error> {
        self.charge(inode.number, Some(inode))?;
        self.store_inode(inode)
    }

    fn store_inode(&mut self, inode: &Inode) -> Result<(), Error> {
        let (block, at) = self.volume.inode_place(inode.number)?;
        let mut bytes = self.volume.store.block(block)?.to_vec();
        let encoded = inode.encode(self.volume.layout());
        if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..encoded.len())) {
            place.copy_from_slice(&encoded);
        }
        self.changed = true;
        self.volume.store.write(block, bytes);
        Ok(())
    }

    /// Returns the group in whose table an inode is.
    pub(super) fn group_of(&self, inode: &Inode) -> u32 {
        self.volume.layout().group_of_inode(inode.number).map_or(0, |(group, _)| group)
    }

    /// Checks that an inode, found by name, may be changed.
    pub(super) fn check_changeable(&mut self, inode: &Inode) -> Result<(), Error> {
        if inode.number < self.volume.layout().first_inode && inode.number != ROOT_INODE {
            return Err(corrupt(format!("inode {}", inode.number), "a reserved inode has no name"));
        }
        let unused = || corrupt(format!("inode {}", inode.number), "what has a name is in use");
        let (group, index) = self.volume.layout().group_of_inode(inode.number).ok_or_else(unused)?;
        if !self.inode_map(group)?.get(index) {
            return Err(unused());
        }
        if inode.xattr_block() != 0 {
            self.check_in_use((inode.xattr_block(), 1))?;
        }
        match LEFT_ALONE.iter().find(|(flag, _)| inode.has_flag(*flag)) {
            None => Ok(()),
            Some((_, word)) => Err(refused(format!("marks `{}` (inode {}) as {word}", self.path, inode.number))),
        }
    }
}

/// Returns the checked bitmap of a group's inodes.
pub(in crate::fs::ext4) fn load_inode_map<D: BlockRead>(volume: &Volume<D>, number: u32) -> Result<Bitmap, Error> {
    let layout = volume.layout();
    let group = volume.group(number)?;
    let bad = |rule: &str| corrupt(format!("inode bitmap of group {number}"), rule);
    let map = if group.has(INODE_UNINIT) {
        Bitmap::empty(layout.block_bytes(), layout.inodes_per_group)
    } else {
        let bytes = volume.store.block(group.inode_bitmap)?.to_vec();
        let covered = bytes.get(..bytes_of(layout.inodes_per_group)).unwrap_or_default();
        if layout.has_metadata_csum() && Group::bitmap_csum(layout, covered) != group.inode_bitmap_csum {
            return Err(bad("its checksum matches its bytes"));
        }
        Bitmap::new(bytes)
    };
    if map.count_free(layout.inodes_per_group) != group.free_inodes {
        return Err(bad("it has as many free inodes as the group descriptor says"));
    }
    Ok(map)
}

/// Flags of files that are not changed.
const LEFT_ALONE: &[(u32, &str)] = &[
    (IMMUTABLE_FLAG, "immutable"),
    (APPEND_FLAG, "append-only"),
    (ENCRYPT_FLAG, "encrypted"),
    (VERITY_FLAG, "protected by verity"),
    (EA_INODE_FLAG, "the value of an extended attribute"),
    (CASEFOLD_FLAG, "blind to case"),
];
