use std::ops::Range;

use super::Editor;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;
use crate::fs::ext4::bitmap::Bitmap;
use crate::fs::ext4::cluster::whole;
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::group::{BLOCK_UNINIT, Group, INODE_UNINIT};
use crate::fs::ext4::layout::Layout;
use crate::fs::ext4::volume::Volume;

/// A run of blocks: number of the first, and how many.
pub(super) type Run = (u64, u32);

impl<D: BlockRead> Editor<D> {
    /// Returns the bitmap of a group's blocks; one that was never written is made from the layout.
    pub(super) fn block_map(&mut self, number: u32) -> Result<&mut Bitmap, Error> {
        if !self.block_maps.contains_key(&number) {
            let map = load_block_map(&self.volume, number)?;
            self.block_maps.insert(number, map);
        }
        let missing = || corrupt(format!("group {number}"), "it has a block bitmap");
        self.block_maps.get_mut(&number).ok_or_else(missing)
    }

    /// Takes `count` clusters, from `group` on where possible, in as few runs as first fit, then longest fit, gives.
    pub(super) fn allocate(&mut self, group: u32, count: u64) -> Result<Vec<Run>, Error> {
        let size = self.volume.layout().cluster_blocks;
        let free = self.volume.raw.free_blocks_count();
        let blocks = count.saturating_mul(u64::from(size));
        if blocks > free {
            return Err(Error::NoSpace(format!("{blocks} blocks are needed, {free} are free")));
        }
        let most = CHUNK.checked_div(size).unwrap_or_default().max(1);
        let mut runs: Vec<Run> = Vec::new();
        let (mut left, mut goal) = (count, group);
        while left > 0 {
            let wanted = u32::try_from(left).unwrap_or(u32::MAX).min(most);
            let (found, range) = self.find(goal, wanted)?;
            let (start, len) = self.take(found, range.clone())?;
            match runs.last_mut() {
                Some((last, blocks)) if last.saturating_add(u64::from(*blocks)) == start => {
                    *blocks = blocks.saturating_add(len);
                }
                _ => runs.push((start, len)),
            }
            left = left.saturating_sub(u64::from(range.end.saturating_sub(range.start)));
            goal = found;
        }
        Ok(runs)
    }

    /// Takes one cluster and returns its first block.
    pub(super) fn allocate_one(&mut self, group: u32) -> Result<u64, Error> {
        let runs = self.allocate(group, 1)?;
        runs.first().map(|(block, _)| *block).ok_or_else(|| Error::NoSpace("a block is needed".to_owned()))
    }

    /// Returns a run of at most `wanted` free clusters, at least one, and its group: of those that this run has freed only when no
    /// others are left.
    fn find(&mut self, goal: u32, wanted: u32) -> Result<(u32, Range<u32>), Error> {
        loop {
            let best = self.find_free(goal, wanted)?;
            if !best.1.is_empty() {
                return Ok(best);
            }
            if !self.freed_blocks.give_out() {
                return Err(corrupt("block bitmaps", "they have as many free blocks as the superblock says"));
            }
            self.longest_runs.clear();
        }
    }

    fn find_free(&mut self, goal: u32, wanted: u32) -> Result<(u32, Range<u32>), Error> {
        let groups = self.volume.layout().groups;
        let mut best = (0, 0..0);
        for number in (goal..groups).chain(0..goal.min(groups)) {
            let free = self.volume.group(number)?.free_clusters.saturating_sub(self.freed_blocks.count(number));
            let most = self.longest_runs.get(&number).copied().unwrap_or(u32::MAX).min(free);
            if most == 0 || (most < wanted && usize::try_from(most).unwrap_or(usize::MAX) <= best.1.len()) {
                continue;
            }
            let count = self.volume.layout().group_clusters(number);
            let run = match self.freed_blocks.map(number) {
                Some(map) => map.find_run(wanted, count),
                None => self.block_map(number)?.find_run(wanted, count),
            };
            let len = run.end.saturating_sub(run.start);
            if len == wanted {
                return Ok((number, run));
            }
            self.longest_runs.insert(number, len);
            if run.len() > best.1.len() {
                best = (number, run);
            }
        }
        Ok(best)
    }

    /// Takes these clusters of a group, and returns their blocks.
    fn take(&mut self, number: u32, range: Range<u32>) -> Result<Run, Error> {
        let layout = self.volume.layout();
        let start = layout.cluster_start(number, range.start);
        let clusters = range.end.saturating_sub(range.start);
        let len = clusters.saturating_mul(layout.cluster_blocks);
        if self.is_system(start, len) {
            return Err(corrupt(format!("block bitmap of group {number}"), "bitmaps and tables are in use"));
        }
        self.block_map(number)?.set(range.clone(), true);
        self.freed_blocks.take(number, range);
        self.count_clusters(number, clusters, u64::checked_sub)?;
        Ok((start, len))
    }

    /// Gives the clusters of these blocks back.
    pub(super) fn free(&mut self, run: Run) -> Result<(), Error> {
        let (start, blocks) = whole(run, self.volume.layout().cluster_blocks);
        if self.is_system(start, blocks) {
            return Err(not_of_one_file(start));
        }
        self.release((start, blocks))
    }

    /// Frees whole clusters, which may be of the layout.
    pub(super) fn release(&mut self, (mut start, mut left): Run) -> Result<(), Error> {
        let size = self.volume.layout().cluster_blocks;
        let bad = not_of_one_file;
        while left > 0 {
            let (group, index) = self.volume.layout().cluster_of_block(start).ok_or_else(|| bad(start))?;
            let here = self.volume.layout().group_clusters(group).saturating_sub(index);
            let clusters = here.min(left.checked_div(size).unwrap_or_default());
            let len = clusters.saturating_mul(size);
            let range = index..index.saturating_add(clusters);
            if range.is_empty() {
                return Err(bad(start));
            }
            let is_wanted = self.freed_blocks.wants(group);
            let map = self.block_map(group)?;
            if range.clone().any(|index| !map.get(index)) {
                return Err(bad(start));
            }
            let before = is_wanted.then(|| map.clone());
            map.set(range, false);
            self.freed_blocks.note(group, before, clusters);
            self.longest_runs.remove(&group);
            self.count_clusters(group, clusters, u64::checked_add)?;
            let end = start.saturating_add(u64::from(len));
            self.volume.store.forget(start..end);
            start = end;
            left = left.saturating_sub(len);
        }
        Ok(())
    }

    /// Changes the free counts, in clusters of a group and in blocks of the whole file system.
    fn count_clusters(&mut self, number: u32, clusters: u32, change: fn(u64, u64) -> Option<u64>) -> Result<(), Error> {
        let bad = || corrupt(format!("group {number}"), "its free blocks are those of its bitmap");
        let blocks = u64::from(clusters).saturating_mul(u64::from(self.volume.layout().cluster_blocks));
        let total = change(self.volume.raw.free_blocks_count(), blocks).ok_or_else(bad)?;
        self.volume.raw.set_free_blocks_count(total);
        let group = self.group_mut(number)?;
        let count = change(u64::from(group.free_clusters), u64::from(clusters)).and_then(|count| u32::try_from(count).ok());
        group.free_clusters = count.ok_or_else(bad)?;
        group.flags &= !BLOCK_UNINIT;
        Ok(())
    }

    /// Returns a group's descriptor, to be changed.
    pub(super) fn group_mut(&mut self, number: u32) -> Result<&mut Group, Error> {
        self.touched.insert(number);
        self.changed = true;
        self.volume.group_mut(number)
    }

    /// Makes the block bitmap of a group one that is written.
    pub(super) fn materialize(&mut self, number: u32) -> Result<(), Error> {
        if self.volume.group(number)?.has(BLOCK_UNINIT) {
            self.block_map(number)?;
            self.group_mut(number)?.flags &= !BLOCK_UNINIT;
        }
        Ok(())
    }

    /// Returns whether a bitmap, a table, or a copy of the superblock or the descriptors has one of these blocks.
    pub(super) fn is_system(&self, start: u64, len: u32) -> bool {
        let end = start.saturating_add(u64::from(len));
        let at = self.system.partition_point(|(_, until)| *until <= start);
        self.system.get(at).is_some_and(|(from, _)| *from < end)
    }
}

impl<D: BlockWrite> Editor<D> {
    /// Writes the bitmaps of changed groups and puts their checksums into the descriptors.
    pub(super) fn write_maps(&mut self) -> Result<(), Error> {
        let layout = *self.volume.layout();
        for number in self.touched.clone() {
            let group = self.volume.group(number)?;
            let (blocks, inodes) = (!group.has(BLOCK_UNINIT), !group.has(INODE_UNINIT));
            if let Some(map) = self.block_maps.remove(&number).filter(|_| blocks) {
                let covered = map.bytes().get(..bytes_of(layout.clusters_per_group())).unwrap_or_default();
                let group = self.group_mut(number)?;
                if layout.has_metadata_csum() {
                    group.block_bitmap_csum = Group::bitmap_csum(&layout, covered);
                }
                let block = group.block_bitmap;
                self.volume.store.write(block, map.bytes().to_vec());
            }
            if let Some(map) = self.inode_maps.remove(&number).filter(|_| inodes) {
                let covered = map.bytes().get(..bytes_of(layout.inodes_per_group)).unwrap_or_default();
                let group = self.group_mut(number)?;
                if layout.has_metadata_csum() {
                    group.inode_bitmap_csum = Group::bitmap_csum(&layout, covered);
                }
                let block = group.inode_bitmap;
                self.volume.store.write(block, map.bytes().to_vec());
            }
        }
        Ok(())
    }
}

/// Returns the checked bitmap of a group's blocks.
pub(in crate::fs::ext4) fn load_block_map<D: BlockRead>(volume: &Volume<D>, number: u32) -> Result<Bitmap, Error> {
    let layout = volume.layout();
    let group = volume.group(number)?;
    let count = layout.group_clusters(number);
    let bad = |rule: &str| corrupt(format!("block bitmap of group {number}"), rule);
    let map = if group.has(BLOCK_UNINIT) {
        fresh_block_map(layout, group, number)
    } else {
        let bytes = volume.store.block(group.block_bitmap)?.to_vec();
        let covered = bytes.get(..bytes_of(layout.clusters_per_group())).unwrap_or_default();
        if layout.has_metadata_csum() && Group::bitmap_csum(layout, covered) != group.block_bitmap_csum {
            return Err(bad("its checksum matches its bytes"));
        }
        Bitmap::new(bytes)
    };
    if map.count_free(count) != group.free_clusters {
        return Err(bad("it has as many free blocks as the group descriptor says"));
    }
    Ok(map)
}

/// Returns the bitmap of a group in which nothing but the layout is in use.
pub(in crate::fs::ext4) fn fresh_block_map(layout: &Layout, group: &Group, number: u32) -> Bitmap {
    let mut map = Bitmap::empty(layout.block_bytes(), layout.group_clusters(number));
    let overhead = layout.overhead_before_bitmaps(number).div_ceil(u64::from(layout.cluster_blocks));
    map.set(0..u32::try_from(overhead).unwrap_or(u32::MAX), true);
    let table = u64::from(layout.inode_table_blocks());
    for (start, len) in [(group.block_bitmap, 1), (group.inode_bitmap, 1), (group.inode_table, table)] {
        for block in start..start.saturating_add(len) {
            if let Some((_, index)) = layout.cluster_of_block(block).filter(|(owner, _)| *owner == number) {
                map.set(index..index.saturating_add(1), true);
            }
        }
    }
    map
}

/// Returns the blocks of the layout as joined runs, start to end, ascending.
pub(in crate::fs::ext4) fn system_blocks<D: BlockRead>(volume: &Volume<D>) -> Result<Vec<(u64, u64)>, Error> {
    let layout = volume.layout();
    let table = u64::from(layout.inode_table_blocks());
    let mut runs = Vec::new();
    let each = |runs: &mut Vec<(u64, u64)>, run: &dyn Fn(u32, &Group) -> (u64, u64)| {
        for number in 0..layout.groups {
            let (start, len) = run(number, volume.group(number)?);
            runs.push((start, start.saturating_add(len)));
        }
        Ok::<_, Error>(())
    };
    // Each kind ascends, mostly.
    each(&mut runs, &|number, _| (layout.group_start(number), layout.overhead_before_bitmaps(number)))?;
    each(&mut runs, &|_, group| (group.block_bitmap, 1))?;
    each(&mut runs, &|_, group| (group.inode_bitmap, 1))?;
    each(&mut runs, &|_, group| (group.inode_table, table))?;
    runs.sort();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in runs.into_iter().filter(|(start, end)| start < end) {
        match joined.last_mut() {
            Some((_, until)) if *until == start => *until = end,
            Some((_, until)) if *until > start => {
                return Err(corrupt(format!("block {start}"), "no two bitmaps or tables share it"));
            }
            _ => joined.push((start, end)),
        }
    }
    Ok(joined)
}

fn not_of_one_file(block: u64) -> Error {
    corrupt(format!("block {block}"), "a block of one file is in use, and not by the layout")
}

/// Returns the bytes that hold `bits`.
pub(in crate::fs::ext4) fn bytes_of(bits: u32) -> usize {
    usize::try_from(bits.div_ceil(8)).unwrap_or(usize::MAX)
}

/// The most blocks that are looked for in one piece: longer ones join when they follow each other.
const CHUNK: u32 = 8192;
