//! Making a new file system, equal to what mke2fs makes in features and geometry.
//!
//! ```text
//! geometry   sizes -> superblock and layout
//! groups     where bitmaps and inode tables lie; descriptors; what has to read as zeros
//! the editor root, lost+found, the blocks reserved for descriptors, journal, orphan file
//! copies     of the superblock and the descriptors, last
//! ```

mod geometry;
mod groups;
pub(super) mod journal;
mod named;
mod options;

pub use named::FeatureError;
pub use options::{CreateOptions, Kind, Release};

use super::edit::Editor;
use super::error::refused;
use super::feature::{HAS_JOURNAL, ORPHAN_FILE, RESIZE_INODE};
use super::group::read_groups;
use super::grow::write_copies;
use super::superblock::{RawSuperblock, SUPERBLOCK_OFFSET};
use crate::block::{BlockWrite, ByteRange, Hole};
use crate::fs::Error;

/// Makes a file system that fills `disk`, in place of whatever is there, and returns its bytes: at most the size of `disk`.
///
/// The places where other formats keep their marks are zeroed. Inode tables that do not read as zeros are left to the kernel's
/// background thread where the file system has checksums. The cost follows the number of groups, about 2 KiB for each, and what
/// has to be zeroed. A failure leaves a part of it, so `disk` is a [`crate::block::Staged`] or a new file.
///
/// # Errors
///
/// [`Error::Refused`] when `disk` is too small or too large for these options, or when they do not fit together; nothing has
/// been written then. Otherwise the failure of the device.
pub fn create<D: BlockWrite>(mut disk: D, options: &CreateOptions) -> Result<u64, Error> {
    let size = disk.size();
    let (mut raw, layout) = geometry::plan(options, size)?;
    let groups = groups::place(&layout)?;
    let head = ByteRange::new(0, HEAD.min(size)).unwrap_or_default();
    let tail = ByteRange::new(size.saturating_sub(TAIL).max(head.end()), size).unwrap_or_default();
    disk.write_zeroes_at(head, Hole::Keep)?;
    disk.write_zeroes_at(tail, Hole::Keep)?;
    groups::write(&mut disk, &mut raw, &layout, groups)?;
    disk.write_all_at(&raw.encode(), SUPERBLOCK_OFFSET)?;

    let mut editor = Editor::open(&mut disk, options.now)?;
    editor.make_root()?;
    editor.make_lost_and_found()?;
    if raw.has_compat(RESIZE_INODE) {
        editor.reserve_descriptors()?;
    }
    if raw.has_compat(ORPHAN_FILE) {
        editor.make_orphan_file()?;
    }
    if raw.has_compat(HAS_JOURNAL) {
        editor.make_journal(options.journal_blocks(layout.blocks_count).unwrap_or_default())?;
    }
    editor.finish()?;

    let mut raw = RawSuperblock::read(&disk)?;
    let groups = read_groups(&disk, &layout)?;
    write_copies(&mut disk, &mut raw, &layout, &groups)?;
    Ok(layout.blocks_count.saturating_mul(u64::from(layout.block_size)))
}

/// Returns the error for a disk that is too small.
fn too_small(size: u64) -> Error {
    refused(format!("cannot be made: {size} bytes are too few for it"))
}

/// Bytes at the start where boot sectors, partition tables and the superblocks of other file systems lie.
const HEAD: u64 = 132 << 10;
/// Bytes at the end where the second GPT and the marks of RAID members lie.
const TAIL: u64 = 64 << 10;
