//! Growing a file system to the end of its device, while nobody uses it.
//!
//! ```text
//! before | group 0 | group 1 | ... | last one, often short |
//! after  | group 0 | group 1 | ... | the same, extended    | new group | new group | ... | short one |
//! ```
//!
//! What lies in use stays where it is. A new group holds its own bitmaps and inode table, behind a copy of the superblock and
//! the descriptors where its number asks for one. More descriptors take the first of the blocks that were reserved for them; where
//! too few are, the feature `meta_bg` puts all further ones into the groups that they describe, as the kernel does.

mod damage;
mod groups;
mod plan;
mod reserved;

use self::damage::check_maps;
use self::groups::{LastGroup, NewGroup};
use self::plan::Plan;
pub(super) use self::plan::set_meta_bg;
use self::reserved::ReservedBlocks;
pub(super) use self::reserved::{RESIZE_INODE_NUMBER, double_block};
use super::Timestamp;
use super::edit::Editor;
use super::error::{corrupt, refused};
use super::group::{Group, read_groups};
use super::layout::Layout;
use super::superblock::{RawSuperblock, SUPERBLOCK_OFFSET, halves16};
use super::volume::Volume;
use crate::block::BlockWrite;
use crate::fs::Error;

/// What has become of a file system that was grown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Growth {
    /// Bytes that it had.
    pub old_size: u64,
    /// Bytes that it has: at most the size of the device.
    pub new_size: u64,
}

/// Grows the file system at the start of `disk` to the size of `disk`.
///
/// The end of the device is left out when it is too small for a group with 50 blocks of contents. The inode tables of new groups
/// are zeroed; the cost follows the number of groups that are added, not the size. A failure of the device in the middle leaves a
/// part of the change, so `disk` is a [`crate::block::Staged`] or a copy.
///
/// # Errors
///
/// [`Error::Refused`] names the feature or state in the way;
/// [`Error::Corrupt`] when a structure that must change breaks a rule. Nothing has been written then.
pub fn grow<D: BlockWrite>(disk: D) -> Result<Growth, Error> {
    let size = disk.size();
    grow_to(disk, size)
}

/// Grows the file system at the start of `disk` to at most `size` bytes, which `disk` has.
///
/// # Errors
///
/// As [`grow`]; [`Error::Refused`] too when the file system is larger than `size` already.
pub fn grow_to<D: BlockWrite>(mut disk: D, size: u64) -> Result<Growth, Error> {
    // A file that is deleted now was deleted when the file system was written last.
    let now = Timestamp { secs: RawSuperblock::read(&disk)?.s_wtime.get().into(), nanos: 0 };
    Editor::open(&mut disk, now)?.finish()?;
    let volume = Volume::open(&disk)?;
    let old = *volume.layout();
    let bytes = |layout: &Layout| layout.blocks_count.saturating_mul(u64::from(layout.block_size));
    if size > disk.size() {
        return Err(refused(format!("cannot have {size} bytes: its place has {}", disk.size())));
    }
    let Some(Plan { mut raw, layout, first_meta_bg }) = Plan::make(&volume, size)? else {
        if size < bytes(&old) {
            let why = "what lies behind the new end would have to move, which is not supported";
            return Err(refused(format!("has {} bytes and is not made smaller: {why}", bytes(&old))));
        }
        return Ok(Growth { old_size: bytes(&old), new_size: bytes(&old) });
    };
    if let Some(first) = first_meta_bg {
        drop(volume);
        let mut editor = Editor::open(&mut disk, now)?;
        editor.turn_to_meta_bg(first)?;
        editor.finish()?;
        return grow_to(disk, size);
    }
    check_maps(&volume)?;
    let reserved = ReservedBlocks::read(&volume, &layout)?;
    let last = LastGroup::read(&volume, &layout)?;
    let added = (old.groups..layout.groups).map(|number| NewGroup::make(number, &layout));
    let added = added.collect::<Result<Vec<_>, Error>>()?;
    let mut groups = read_groups(&disk, &old)?;
    if let (Some(last), Some(group)) = (&last, groups.last_mut()) {
        *group = last.group.clone();
    }
    groups.extend(added.iter().map(|new| new.group.clone()));
    count(&mut raw, &layout, last.as_ref(), &added)?;

    if let Some(last) = &last {
        last.write(&mut disk, &layout)?;
    }
    for new in &added {
        new.write(&mut disk, &layout)?;
    }
    if let Some(reserved) = &reserved {
        reserved.write(&mut disk, &layout)?;
    }
    write_copies(&mut disk, &mut raw, &layout, &groups)?;
    Ok(Growth { old_size: bytes(&old), new_size: bytes(&layout) })
}

/// Adds what the groups gained to the counts of the superblock.
fn count(raw: &mut RawSuperblock, layout: &Layout, last: Option<&LastGroup>, added: &[NewGroup]) -> Result<(), Error> {
    let gained = last.map_or(0, |last| u64::from(last.gained));
    let free = added.iter().map(|new| u64::from(new.group.free_clusters)).fold(gained, u64::saturating_add);
    let free = raw.free_blocks_count().saturating_add(free.saturating_mul(u64::from(layout.cluster_blocks)));
    let inodes = added.iter().map(|new| new.group.free_inodes).fold(raw.s_free_inodes_count.get(), u32::saturating_add);
    if free > layout.blocks_count || inodes > layout.inodes_count {
        return Err(corrupt("superblock", "no more blocks and inodes are free than there are"));
    }
    raw.set_free_blocks_count(free);
    raw.s_free_inodes_count.set(inodes);
    // Spec: "s_overhead_blocks: Overhead blocks/clusters in fs. (Huh? This field is always zero, which means that the kernel
    // calculates it dynamically.)"
    let overhead = raw.s_overhead_blocks.get();
    if overhead != 0 {
        let more = added.iter().map(|new| u64::from(new.used)).fold(u64::from(overhead), u64::saturating_add);
        raw.s_overhead_blocks.set(u32::try_from(more).unwrap_or_default());
    }
    Ok(())
}

/// Writes the superblock and the descriptors into every group that has a copy, the primary last.
///
/// Spec: "Meta Block Groups": a block of descriptors that lies in the groups that it describes is in the first, the second and the
/// last of them.
pub(super) fn write_copies<D: BlockWrite>(
    disk: &mut D,
    raw: &mut RawSuperblock,
    layout: &Layout,
    groups: &[Group],
) -> Result<(), Error> {
    let block = layout.block_bytes();
    let mut table: Vec<u8> = (0..).zip(groups).flat_map(|(number, group)| group.encode(number, layout)).collect();
    table.resize(usize::try_from(layout.descriptor_blocks()).unwrap_or(usize::MAX).saturating_mul(block), 0);
    let per_block = layout.descriptors_per_block();
    let shared = layout.first_meta_bg.unwrap_or(u32::MAX).min(layout.descriptor_blocks());
    let (shared_table, own) = table.split_at(usize::try_from(shared).unwrap_or(usize::MAX).saturating_mul(block));
    let is_shared = |group: u32| layout.first_meta_bg.is_none_or(|first| group < first.saturating_mul(per_block));
    for number in (1..layout.groups).filter(|number| layout.has_superblock(*number)) {
        // Spec: "s_block_group_nr: Block group number of this superblock."
        raw.s_block_group_nr.set(halves16(number).0);
        let mut copy = raw.encode().to_vec();
        copy.resize(block, 0);
        if is_shared(number) {
            copy.extend_from_slice(shared_table);
        }
        disk.write_all_at(&copy, layout.group_start(number).saturating_mul(u64::from(layout.block_size)))?;
    }
    for (index, bytes) in (shared..).zip(own.chunks_exact(block)) {
        let first = index.saturating_mul(per_block);
        let copies = [first, first.saturating_add(1), first.saturating_add(per_block).saturating_sub(1)];
        for group in copies.into_iter().filter(|group| *group < layout.groups) {
            let place = layout.superblock_of(group).saturating_add(u64::from(layout.has_superblock(group)));
            disk.write_all_at(bytes, place.saturating_mul(u64::from(layout.block_size)))?;
        }
    }
    raw.s_block_group_nr.set(0);
    disk.write_all_at(shared_table, layout.descriptors_offset(0))?;
    Ok(disk.write_all_at(&raw.encode(), SUPERBLOCK_OFFSET)?)
}
