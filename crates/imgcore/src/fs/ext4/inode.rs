use std::mem::offset_of;
use std::ops::Range;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Timestamp;
use super::checksum::{crc32c, inode_seed};
use super::error::corrupt;
use super::layout::Layout;
use super::superblock::{halves, halves16, join};
use crate::fs::{Error, FileKind, Metadata};

/// The first 128 bytes of an inode as stored.
///
/// Spec: "Index Nodes", `struct ext4_inode`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawInode {
    pub(super) i_mode: U16,
    pub(super) i_uid: U16,
    pub(super) i_size_lo: U32,
    pub(super) i_atime: U32,
    pub(super) i_ctime: U32,
    pub(super) i_mtime: U32,
    pub(super) i_dtime: U32,
    pub(super) i_gid: U16,
    pub(super) i_links_count: U16,
    pub(super) i_blocks_lo: U32,
    pub(super) i_flags: U32,
    pub(super) l_i_version: U32,
    pub(super) i_block: [u8; 60],
    pub(super) i_generation: U32,
    pub(super) i_file_acl_lo: U32,
    pub(super) i_size_high: U32,
    pub(super) i_obso_faddr: U32,
    pub(super) l_i_blocks_high: U16,
    pub(super) l_i_file_acl_high: U16,
    pub(super) l_i_uid_high: U16,
    pub(super) l_i_gid_high: U16,
    pub(super) l_i_checksum_lo: U16,
    pub(super) l_i_reserved: U16,
}

/// The bytes behind the first 128, as far as `i_extra_isize` says that they are there.
///
/// Spec: "Index Nodes", bytes 0x80-0x9F.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawInodeExtra {
    pub(super) i_extra_isize: U16,
    pub(super) i_checksum_hi: U16,
    pub(super) i_ctime_extra: U32,
    pub(super) i_mtime_extra: U32,
    pub(super) i_atime_extra: U32,
    pub(super) i_crtime: U32,
    pub(super) i_crtime_extra: U32,
    pub(super) i_version_hi: U32,
    pub(super) i_projid: U32,
}

// Offsets as printed in the specification.
const _: () = {
    assert!(size_of::<RawInode>() == 0x80);
    assert!(offset_of!(RawInode, i_flags) == 0x20);
    assert!(offset_of!(RawInode, i_block) == 0x28);
    assert!(offset_of!(RawInode, i_generation) == 0x64);
    assert!(offset_of!(RawInode, i_size_high) == 0x6C);
    assert!(offset_of!(RawInode, l_i_checksum_lo) == 0x7C);
    assert!(size_of::<RawInodeExtra>() == 0x20);
    assert!(offset_of!(RawInodeExtra, i_crtime) == 0x10);
};

/// An inode: its fields, and the extended attributes stored behind them.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) number: u32,
    pub(super) raw: RawInode,
    pub(super) extra: RawInodeExtra,
    /// All bytes behind the first 128; the first `extra_isize()` of them are stale, `extra` counts.
    pub(super) tail: Vec<u8>,
}

impl Inode {
    /// Returns a new inode of `size` bytes, all zero but its extra size and generation.
    pub(super) fn new(number: u32, layout: &Layout, generation: u32) -> Self {
        let mut raw: RawInode = zerocopy::transmute!([0_u8; 128]);
        raw.i_generation.set(generation);
        let mut extra: RawInodeExtra = zerocopy::transmute!([0_u8; 32]);
        let tail = vec![0; usize::from(layout.inode_size).saturating_sub(BASE)];
        extra.i_extra_isize.set(if tail.is_empty() { 0 } else { EXTRA_BYTES });
        Self { number, raw, extra, tail }
    }

    /// Decodes an inode and checks its checksum.
    pub(super) fn decode(bytes: &[u8], number: u32, layout: &Layout) -> Result<Self, Error> {
        let bad = |rule: &str| corrupt(format!("inode {number}"), rule);
        let (raw, tail) = RawInode::read_from_prefix(bytes).map_err(|_| bad("it has at least 128 bytes"))?;
        let mut extra_bytes = [0; 32];
        if let Some(stored) = tail.get(..32) {
            extra_bytes.copy_from_slice(stored);
        }
        let extra: RawInodeExtra = zerocopy::transmute!(extra_bytes);
        let inode = Self { number, raw, extra, tail: tail.to_vec() };
        let extra_size = inode.extra_isize();
        if extra_size > tail.len() || (extra_size != 0 && extra_size < 4) || !extra_size.is_multiple_of(4) {
            return Err(bad("its extra size is a multiple of 4 and fits the inode"));
        }
        if layout.has_metadata_csum() {
            let sum = halves16(inode.checksum(layout));
            let high = if inode.has_extra(CHECKSUM_HI_END) { inode.extra.i_checksum_hi.get() } else { sum.1 };
            // Spec: "The inode checksum is calculated against the FS UUID, the inode number, and the inode structure itself."
            if (inode.raw.l_i_checksum_lo.get(), high) != sum {
                return Err(bad("its checksum matches its bytes"));
            }
        }
        Ok(inode)
    }

    /// Returns the bytes to store, with the right checksum.
    pub(super) fn encode(&self, layout: &Layout) -> Vec<u8> {
        let mut inode = self.clone();
        if layout.has_metadata_csum() {
            let (low, high) = halves16(self.checksum(layout));
            inode.raw.l_i_checksum_lo.set(low);
            if self.has_extra(CHECKSUM_HI_END) {
                inode.extra.i_checksum_hi.set(high);
            }
        }
        inode.bytes()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.raw.as_bytes().to_vec();
        bytes.extend_from_slice(&self.tail);
        let valid = self.extra_isize().min(size_of::<RawInodeExtra>());
        let end = BASE.saturating_add(valid);
        if let (Some(to), Some(from)) = (bytes.get_mut(BASE..end), self.extra.as_bytes().get(..valid)) {
            to.copy_from_slice(from);
        }
        bytes
    }

    fn checksum(&self, layout: &Layout) -> u32 {
        let mut inode = self.clone();
        inode.raw.l_i_checksum_lo.set(0);
        if self.has_extra(CHECKSUM_HI_END) {
            inode.extra.i_checksum_hi.set(0);
        }
        crc32c(self.checksum_seed(layout), &inode.bytes())
    }

    /// Returns what the checksums of blocks that belong to this inode start from.
    pub(super) fn checksum_seed(&self, layout: &Layout) -> u32 {
        inode_seed(layout.seed, self.number, self.raw.i_generation.get())
    }

    /// Returns how many bytes behind the first 128 are fields.
    pub(super) fn extra_isize(&self) -> usize {
        if self.tail.is_empty() { 0 } else { usize::from(self.extra.i_extra_isize.get()) }
    }

    /// Returns where in the tail extended attributes are; `None` where there are none: Linux takes no tail of an inode that says
    /// nothing of its fields for attributes.
    pub(super) fn xattr_space(&self) -> Option<Range<usize>> {
        let extra = self.extra_isize();
        (extra > 0 && extra <= self.tail.len()).then_some(extra..self.tail.len())
    }

    /// Returns whether the fields reach to `end`, in bytes behind the first 128.
    pub(super) fn has_extra(&self, end: usize) -> bool {
        self.extra_isize() >= end
    }

    /// Returns the type, or an error when there is no such type.
    pub(super) fn kind(&self) -> Result<FileKind, Error> {
        Ok(match self.raw.i_mode.get() & 0xF000 {
            0x1000 => FileKind::Fifo,
            0x2000 => FileKind::CharDevice,
            0x4000 => FileKind::Directory,
            0x6000 => FileKind::BlockDevice,
            0x8000 => FileKind::File,
            0xA000 => FileKind::Symlink,
            0xC000 => FileKind::Socket,
            _ => return Err(corrupt(format!("inode {}", self.number), "its mode has a file type")),
        })
    }

    /// Returns the bytes of contents.
    pub(super) fn size(&self) -> u64 {
        // In other files, old file systems keep something else in the high half.
        let is_file = self.raw.i_mode.get() & 0xF000 == 0x8000;
        join(self.raw.i_size_lo.get(), if is_file { self.raw.i_size_high.get() } else { 0 })
    }

    pub(super) fn set_size(&mut self, size: u64) {
        let (low, high) = halves(size);
        self.raw.i_size_lo.set(low);
        self.raw.i_size_high.set(high);
    }

    pub(super) fn has_flag(&self, flag: u32) -> bool {
        self.raw.i_flags.get() & flag != 0
    }

    pub(super) fn set_flag(&mut self, flag: u32, on: bool) {
        let flags = self.raw.i_flags.get();
        self.raw.i_flags.set(if on { flags | flag } else { flags & !flag });
    }

    /// Gives a new file the flags that its folder passes on.
    ///
    /// Spec: "Index Nodes", `i_flags`. What is passed on to whom is what Linux does.
    pub(super) fn inherit_flags(&mut self, folder: &Self, kind: FileKind) {
        let taken = match kind {
            FileKind::Directory => INHERITED,
            FileKind::File => INHERITED & !(DIRSYNC_FLAG | PROJECT_INHERIT_FLAG),
            _ => NODUMP_FLAG | NOATIME_FLAG,
        };
        self.set_flag(folder.raw.i_flags.get() & taken, true);
    }

    pub(super) fn uid(&self) -> u32 {
        u32::from(self.raw.l_i_uid_high.get()) << 16 | u32::from(self.raw.i_uid.get())
    }

    pub(super) fn gid(&self) -> u32 {
        u32::from(self.raw.l_i_gid_high.get()) << 16 | u32::from(self.raw.i_gid.get())
    }

    pub(super) fn set_uid(&mut self, uid: u32) {
        let (low, high) = halves16(uid);
        self.raw.i_uid.set(low);
        self.raw.l_i_uid_high.set(high);
    }

    pub(super) fn set_gid(&mut self, gid: u32) {
        let (low, high) = halves16(gid);
        self.raw.i_gid.set(low);
        self.raw.l_i_gid_high.set(high);
    }

    /// Returns the project that it is of; 0 where there is no field for it.
    pub(super) fn project(&self) -> u32 {
        if self.has_extra(PROJECT_END) { self.extra.i_projid.get() } else { 0 }
    }

    /// Stores the project that it is of; returns `false` when this inode cannot hold it.
    #[must_use]
    pub(super) fn set_project(&mut self, project: u32) -> bool {
        if self.has_extra(PROJECT_END) {
            self.extra.i_projid.set(project);
        }
        self.has_extra(PROJECT_END) || project == 0
    }

    /// Returns the block of extended attributes; 0 means none.
    pub(super) fn xattr_block(&self) -> u64 {
        join(self.raw.i_file_acl_lo.get(), u32::from(self.raw.l_i_file_acl_high.get()))
    }

    pub(super) fn set_xattr_block(&mut self, block: u64) {
        let (low, high) = halves(block);
        self.raw.i_file_acl_lo.set(low);
        self.raw.l_i_file_acl_high.set(halves16(high).0);
    }

    /// Returns the space that it takes, in 512-byte sectors, or in blocks when the `HUGE_FILE` flag is set.
    pub(super) fn blocks(&self) -> u64 {
        join(self.raw.i_blocks_lo.get(), u32::from(self.raw.l_i_blocks_high.get()))
    }

    /// Returns whether the space that it takes is counted in blocks.
    pub(super) fn counts_blocks(&self) -> bool {
        self.has_flag(HUGE_FILE_FLAG)
    }

    /// Stores the space that it takes, in 512-byte sectors.
    pub(super) fn set_sectors(&mut self, sectors: u64) {
        let (low, high) = halves(sectors);
        self.raw.i_blocks_lo.set(low);
        self.raw.l_i_blocks_high.set(halves16(high).0);
        self.set_flag(HUGE_FILE_FLAG, false);
    }

    /// Returns the modification time in seconds since 1970.
    pub(super) fn mtime(&self) -> i64 {
        let epoch = if self.has_extra(MTIME_EXTRA_END) { self.extra.i_mtime_extra.get() & 3 } else { 0 };
        seconds(self.raw.i_mtime.get(), epoch)
    }

    /// Returns the nanoseconds of the modification time.
    pub(super) fn mtime_nanos(&self) -> u32 {
        if self.has_extra(MTIME_EXTRA_END) { (self.extra.i_mtime_extra.get() >> 2).min(999_999_999) } else { 0 }
    }

    /// Stores the modification time; returns `false` when this inode cannot hold it.
    #[must_use]
    pub(super) fn set_mtime(&mut self, time: Timestamp) -> bool {
        let wide = self.has_extra(MTIME_EXTRA_END);
        let Some((low, extra)) = encode_time(time, wide) else { return false };
        self.raw.i_mtime.set(low);
        if wide {
            self.extra.i_mtime_extra.set(extra);
        }
        true
    }

    /// Stores the time of the last change; returns `false` when this inode cannot hold it.
    #[must_use]
    pub(super) fn set_ctime(&mut self, time: Timestamp) -> bool {
        let wide = self.has_extra(CTIME_EXTRA_END);
        let Some((low, extra)) = encode_time(time, wide) else { return false };
        self.raw.i_ctime.set(low);
        if wide {
            self.extra.i_ctime_extra.set(extra);
        }
        true
    }

    /// Stores the times of access and creation of a new inode; returns `false` when it cannot hold them.
    #[must_use]
    pub(super) fn set_born(&mut self, time: Timestamp) -> bool {
        let wide = self.has_extra(ATIME_EXTRA_END);
        let Some((low, extra)) = encode_time(time, wide) else { return false };
        self.raw.i_atime.set(low);
        if wide {
            self.extra.i_atime_extra.set(extra);
        }
        if self.has_extra(CRTIME_EXTRA_END) {
            self.extra.i_crtime.set(low);
            self.extra.i_crtime_extra.set(extra);
        }
        true
    }

    /// Returns what the file system knows about it.
    pub(super) fn metadata(&self) -> Result<Metadata, Error> {
        Ok(Metadata {
            kind: self.kind()?,
            mode: u32::from(self.raw.i_mode.get() & 0o7777),
            uid: self.uid(),
            gid: self.gid(),
            size: self.size(),
            links: u32::from(self.raw.i_links_count.get()),
            mtime: self.mtime(),
            mtime_nanos: self.mtime_nanos(),
            inode: u64::from(self.number),
        })
    }
}

/// Returns the type bits of a mode.
///
/// Spec: "Index Nodes", `i_mode`.
pub(super) fn format_bits(kind: FileKind) -> u16 {
    match kind {
        FileKind::Fifo => 0x1000,
        FileKind::CharDevice => 0x2000,
        FileKind::Directory => 0x4000,
        FileKind::BlockDevice => 0x6000,
        FileKind::File => 0x8000,
        FileKind::Symlink => 0xA000,
        FileKind::Socket => 0xC000,
    }
}

/// Returns the seconds since 1970 of a stored time.
///
/// Spec: "the lower two bits are used to extend the 32-bit seconds field to be 34 bit wide"
fn seconds(low: u32, epoch: u32) -> i64 {
    let base = i64::from(i32::from_le_bytes(low.to_le_bytes()));
    base.saturating_add(i64::from(epoch) << 32)
}

/// Returns the two fields of a time, or `None` when they cannot hold it; without the second only 32 bits are there.
fn encode_time(time: Timestamp, wide: bool) -> Option<(u32, u32)> {
    let (low, _) = halves(u64::from_le_bytes(time.secs.to_le_bytes()));
    let epoch = time.secs.checked_sub(seconds(low, 0))? >> 32;
    let epoch = u32::try_from(epoch).ok().filter(|epoch| *epoch <= if wide { 3 } else { 0 })?;
    Some((low, epoch | time.nanos.min(999_999_999) << 2))
}

/// Where the number of links is, in bytes.
pub(super) const LINKS_COUNT: usize = offset_of!(RawInode, i_links_count);
const BASE: usize = 128;
/// What a new inode's extra size is.
const EXTRA_BYTES: u16 = 32;
/// Where the second half of the checksum ends, in bytes behind the first 128.
pub(super) const CHECKSUM_HI_END: usize = 4;
const CTIME_EXTRA_END: usize = 8;
const MTIME_EXTRA_END: usize = 12;
const ATIME_EXTRA_END: usize = 16;
const CRTIME_EXTRA_END: usize = 24;
const PROJECT_END: usize = 32;

/// The list of blocks that the disk cannot hold.
pub(super) const BAD_BLOCKS_INODE: u32 = 1;
/// The root folder.
pub(super) const ROOT_INODE: u32 = 2;

/// The flags that a folder passes on to what is made in it, but for blindness to case, as such folders are not changed: secure
/// deletion, undeletion, compressed, synchronous, no dump, no access time, not compressed, data in the journal, no tail merging,
/// synchronous folder, direct access, project.
///
/// Spec: ext4, "Inode Table", `i_flags`, for the bits.
const INHERITED: u32 = 0x1
    | 0x2
    | 0x4
    | 0x8
    | NODUMP_FLAG
    | NOATIME_FLAG
    | 0x400
    | 0x4000
    | 0x8000
    | DIRSYNC_FLAG
    | 0x200_0000
    | PROJECT_INHERIT_FLAG;
const NODUMP_FLAG: u32 = 0x40;
const NOATIME_FLAG: u32 = 0x80;
const DIRSYNC_FLAG: u32 = 0x1_0000;
pub(super) const IMMUTABLE_FLAG: u32 = 0x10;
pub(super) const APPEND_FLAG: u32 = 0x20;
pub(super) const ENCRYPT_FLAG: u32 = 0x800;
/// The folder has an index.
pub(super) const INDEX_FLAG: u32 = 0x1000;
const HUGE_FILE_FLAG: u32 = 0x40000;
pub(super) const EXTENTS_FLAG: u32 = 0x80000;
pub(super) const VERITY_FLAG: u32 = 0x10_0000;
pub(super) const EA_INODE_FLAG: u32 = 0x20_0000;
pub(super) const INLINE_DATA_FLAG: u32 = 0x1000_0000;
/// What is made in the folder is of its project.
pub(super) const PROJECT_INHERIT_FLAG: u32 = 0x2000_0000;
/// Names in the folder are blind to case.
pub(super) const CASEFOLD_FLAG: u32 = 0x4000_0000;

#[cfg(test)]
mod tests {
    use super::{Timestamp, encode_time, seconds};

    #[test]
    fn times_reach_from_1901_to_2446_with_the_extra_field_and_to_2038_without() {
        for secs in [i64::from(i32::MIN), -1, 0, 1_700_000_000, 2_147_483_647, 2_200_000_000, 4_294_967_296, 15_032_385_535] {
            let (low, extra) = encode_time(Timestamp { secs, nanos: 5 }, true).unwrap();
            assert_eq!((seconds(low, extra & 3), extra >> 2), (secs, 5));
        }
        let fits = |secs, wide| encode_time(Timestamp { secs, nanos: 0 }, wide).is_some();
        assert!(!fits(15_032_385_536, true) && !fits(i64::from(i32::MIN) - 1, true));
        assert!(fits(2_147_483_647, false) && !fits(2_147_483_648, false));
        assert!(!fits(i64::MAX, true) && !fits(i64::MIN, true));
    }
}
