use super::super::bitmap::Bitmap;
use super::super::edit::bytes_of;
use super::super::error::refused;
use super::super::group::{BLOCK_UNINIT, Group, INODE_UNINIT, INODE_ZEROED};
use super::super::inode::Inode;
use super::super::layout::{Checksums, Layout};
use super::super::superblock::RawSuperblock;
use crate::block::{BlockWrite, ByteRange, Hole, extents};
use crate::fs::Error;

/// Returns descriptors that say where each group's bitmaps and table lie.
///
/// ```text
/// flexible group | head of group 0 | block bitmaps | inode bitmaps | inode tables ... | head of 1 | ... | rest |
/// without them   | head | block bitmap | inode bitmap | inode table | rest |
/// ```
pub(super) fn place(layout: &Layout) -> Result<Vec<Group>, Error> {
    let mut groups = Vec::new();
    let mut first = 0;
    while first < layout.groups {
        let end = first.saturating_add(layout.groups_per_flex).min(layout.groups);
        let placed = together(layout, first, end).or_else(|| (first..end).map(|number| alone(layout, number)).collect());
        groups.extend(placed.ok_or_else(|| refused("cannot be made: the inode tables do not fit its groups"))?);
        first = end;
    }
    Ok(groups)
}

/// Places the bitmaps and tables of the groups from `first` to before `end` one behind the other, where they fit.
fn together(layout: &Layout, first: u32, end: u32) -> Option<Vec<Group>> {
    let mut groups: Vec<Group> = (first..end).map(|_| Group::new(layout)).collect();
    let mut at = layout.group_start(first);
    for group in &mut groups {
        group.block_bitmap = take(layout, end, &mut at, 1)?;
    }
    for group in &mut groups {
        group.inode_bitmap = take(layout, end, &mut at, 1)?;
    }
    for group in &mut groups {
        group.inode_table = take(layout, end, &mut at, layout.inode_table_blocks())?;
    }
    Some(groups)
}

/// Places what belongs to a group into that group.
fn alone(layout: &Layout, number: u32) -> Option<Group> {
    together(layout, number, number.saturating_add(1))?.pop()
}

/// Returns the first run of `count` blocks from `at` on, before group `end`, that crosses no group's head; `at` moves behind it.
fn take(layout: &Layout, end: u32, at: &mut u64, count: u32) -> Option<u64> {
    let limit = layout.group_start(end).min(layout.blocks_count);
    loop {
        let until = at.checked_add(u64::from(count)).filter(|until| *until <= limit)?;
        let (from, _) = layout.group_of_block(*at)?;
        let (to, _) = layout.group_of_block(until.checked_sub(1)?)?;
        let head = |number: u32| {
            let start = layout.group_start(number);
            (start, start.saturating_add(layout.overhead_before_bitmaps(number)))
        };
        let crossed = (from..=to).map(head).find(|(start, behind)| *start < until && *at < *behind);
        match crossed {
            Some((_, behind)) => *at = behind,
            None => return Some(std::mem::replace(at, until)),
        }
    }
}

/// Writes bitmaps, the start of inode tables and the primary descriptors, and counts what is free in the superblock.
pub(super) fn write<D: BlockWrite>(
    disk: &mut D,
    raw: &mut RawSuperblock,
    layout: &Layout,
    mut groups: Vec<Group>,
) -> Result<(), Error> {
    let taken = taken_blocks(layout, &groups);
    let (mut free_blocks, mut used, mut at) = (0_u64, u64::from(layout.first_data_block), 0_usize);
    for (group, number) in groups.iter_mut().zip(0_u32..) {
        let start = layout.group_start(number);
        let count = layout.group_blocks(number);
        let end = start.saturating_add(u64::from(count));
        let mut map = Bitmap::empty(layout.block_bytes(), count);
        map.set(0..u32::try_from(layout.overhead_before_bitmaps(number)).unwrap_or(u32::MAX), true);
        while taken.get(at).is_some_and(|(_, until)| *until <= start) {
            at = at.saturating_add(1);
        }
        let mut has_others = false;
        for (from, until) in taken.iter().skip(at).take_while(|(from, _)| *from < end) {
            let index = |block: u64| u32::try_from(block.clamp(start, end).saturating_sub(start)).unwrap_or(u32::MAX);
            map.set(index(*from)..index(*until), true);
            has_others = true;
        }
        group.free_clusters = map.count_free(count);
        free_blocks = free_blocks.saturating_add(u64::from(group.free_clusters));
        used = used.saturating_add(u64::from(count.saturating_sub(group.free_clusters)));
        let is_last = number.saturating_add(1) == layout.groups;
        group.free_inodes = layout.inodes_per_group;
        if layout.checksums != Checksums::None {
            group.itable_unused = layout.inodes_per_group;
            group.flags = if number == 0 { 0 } else { INODE_UNINIT };
            // The last group may have bits behind its end, and the first has the root to come.
            if !has_others && !is_last && number > 0 {
                group.flags |= BLOCK_UNINIT;
            }
        }
        if number == 0 {
            group.free_inodes = layout.inodes_per_group.saturating_sub(layout.first_inode).saturating_add(1);
            group.itable_unused = group.itable_unused.min(group.free_inodes);
        }
        if clear_table(disk, layout, group, number)? && layout.checksums != Checksums::None {
            group.flags |= INODE_ZEROED;
        }
        write_maps(disk, layout, group, number, &map)?;
    }
    raw.set_free_blocks_count(free_blocks);
    raw.s_free_inodes_count.set(layout.inodes_count.saturating_sub(layout.first_inode).saturating_add(1));
    // What the layout takes; the journal is added when it is there.
    raw.s_overhead_blocks.set(u32::try_from(used).unwrap_or_default());
    write_reserved_inodes(disk, layout, &groups)?;
    let table: Vec<u8> = (0..).zip(&groups).flat_map(|(number, group)| group.encode(number, layout)).collect();
    Ok(disk.write_all_at(&table, layout.descriptors_offset(0))?)
}

/// Returns the runs of blocks that bitmaps and tables take, ascending.
fn taken_blocks(layout: &Layout, groups: &[Group]) -> Vec<(u64, u64)> {
    let table = u64::from(layout.inode_table_blocks());
    let of = |group: &Group| {
        let run = |start: u64, len: u64| (start, start.saturating_add(len));
        [run(group.block_bitmap, 1), run(group.inode_bitmap, 1), run(group.inode_table, table)]
    };
    let mut runs: Vec<(u64, u64)> = groups.iter().flat_map(of).collect();
    runs.sort_unstable();
    runs.dedup_by(|next, run| {
        let joins = run.1 == next.0;
        if joins {
            run.1 = next.1;
        }
        joins
    });
    runs
}

/// Makes a group's inode table read as zeros, and returns whether all of it does.
///
/// Spec: "Inode tables are initialized by the kernel in the background" where the group's `ITABLE_ZEROED` flag is missing; it needs
/// checksums of descriptors. The inodes that are in use from the beginning are zeroed in any case.
fn clear_table<D: BlockWrite>(disk: &mut D, layout: &Layout, group: &Group, number: u32) -> Result<bool, Error> {
    let start = offset(layout, group.inode_table);
    let range = ByteRange::new(start, offset(layout, group.inode_table.saturating_add(u64::from(layout.inode_table_blocks()))));
    let range = range.unwrap_or_default();
    let mut is_zero = true;
    for extent in extents(&*disk, range) {
        is_zero &= extent?.reads_as_zeros();
    }
    if is_zero {
        return Ok(true);
    }
    if layout.checksums == Checksums::None {
        disk.write_zeroes_at(range, Hole::Allow)?;
        return Ok(true);
    }
    if number == 0 {
        let first = ByteRange::new(start, start.saturating_add(FIRST_INODES).min(range.end())).unwrap_or_default();
        disk.write_zeroes_at(first, Hole::Keep)?;
    }
    Ok(false)
}

/// Writes the bitmaps of a group that its descriptor does not leave out, and puts their checksums into it.
fn write_maps<D: BlockWrite>(
    disk: &mut D,
    layout: &Layout,
    group: &mut Group,
    number: u32,
    blocks: &Bitmap,
) -> Result<(), Error> {
    let sum = |map: &Bitmap, bits: u32| {
        let covered = map.bytes().get(..bytes_of(bits)).unwrap_or_default();
        if layout.has_metadata_csum() { Group::bitmap_csum(layout, covered) } else { 0 }
    };
    if !group.has(BLOCK_UNINIT) {
        group.block_bitmap_csum = sum(blocks, layout.blocks_per_group);
        disk.write_all_at(blocks.bytes(), offset(layout, group.block_bitmap))?;
    }
    if !group.has(INODE_UNINIT) {
        let mut inodes = Bitmap::empty(layout.block_bytes(), layout.inodes_per_group);
        if number == 0 {
            inodes.set(0..layout.first_inode.saturating_sub(1), true);
        }
        group.inode_bitmap_csum = sum(&inodes, layout.inodes_per_group);
        disk.write_all_at(inodes.bytes(), offset(layout, group.inode_bitmap))?;
    }
    Ok(())
}

/// Writes the inodes that are in use from the beginning: empty, with their checksums.
fn write_reserved_inodes<D: BlockWrite>(disk: &mut D, layout: &Layout, groups: &[Group]) -> Result<(), Error> {
    let Some(group) = groups.first() else { return Ok(()) };
    let empty = |number: u32| {
        let mut inode = Inode::new(number, layout, 0);
        inode.extra.i_extra_isize.set(0);
        inode.encode(layout)
    };
    let inodes: Vec<u8> = (1..layout.first_inode).flat_map(empty).collect();
    Ok(disk.write_all_at(&inodes, offset(layout, group.inode_table))?)
}

fn offset(layout: &Layout, block: u64) -> u64 {
    block.saturating_mul(u64::from(layout.block_size))
}

/// Bytes of the first inode table that are zeroed at least: those of 64 inodes of 1024 bytes.
const FIRST_INODES: u64 = 64 << 10;
