use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::crc32c;
use super::error::corrupt;
use crate::fs::{Error, FileKind};

/// The head of a folder's record, before the name.
///
/// Spec: "Directory Entries", `struct ext4_dir_entry_2`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawDirEntry {
    inode: U32,
    rec_len: U16,
    name_len: u8,
    file_type: u8,
}

// Offsets as printed in the specification.
const _: () = {
    assert!(size_of::<RawDirEntry>() == RECORD_HEADER);
    assert!(offset_of!(RawDirEntry, file_type) == 7);
};

/// A record of a block of a folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// Where it begins in the block, in bytes.
    pub(super) offset: usize,
    /// Bytes to the next one.
    pub(super) len: usize,
    /// 0 when nothing is named here.
    pub(super) inode: u32,
    pub(super) name: &'a [u8],
    pub(super) file_type: u8,
}

impl Record<'_> {
    /// Returns the bytes that it needs; the rest is slack.
    pub(super) fn used(&self) -> usize {
        if self.inode == 0 { 0 } else { record_len(self.name.len()) }
    }

    /// Returns the bytes that another record can take of it, where records end at `end`.
    pub(super) fn slack(&self, end: usize) -> usize {
        self.len.min(end.saturating_sub(self.offset)).saturating_sub(self.used())
    }
}

/// Returns the records of a block of folder `inode`, in order.
///
/// ```text
/// | inode | rec_len | len | type | name, padded | inode | ...                  | tail, 12 bytes, with checksums |
/// |<-------------- rec_len ---->|<-------------- the last record ends here -->|
/// ```
pub(super) fn records(block: &[u8], inode: u32) -> Result<Vec<Record<'_>>, Error> {
    let mut records = Vec::with_capacity(block.len() / USUAL_RECORD);
    for record in each_record(block, inode) {
        records.push(record?);
    }
    Ok(records)
}

/// Returns the records of a block of folder `inode` one by one, the first broken one as the last.
pub(super) fn each_record(block: &[u8], inode: u32) -> Records<'_> {
    Records { block, inode, offset: 0 }
}

/// See [`each_record`].
#[derive(Debug)]
pub(super) struct Records<'a> {
    block: &'a [u8],
    inode: u32,
    offset: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.block.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let read = read_record(rest, self.offset, self.block.len());
        self.offset = read.as_ref().map_or(self.block.len(), |record| self.offset.saturating_add(record.len));
        Some(read.map_err(|rule| corrupt(format!("folder {}", self.inode), rule)))
    }
}

/// Reads the record at the start of `rest`, which lies at `offset` of a block of `size` bytes, or says which rule it breaks.
fn read_record(rest: &[u8], offset: usize, size: usize) -> Result<Record<'_>, &'static str> {
    let (raw, names) = RawDirEntry::read_from_prefix(rest).map_err(|_| "records fill the block")?;
    // A record of 64 KiB does not fit its field.
    let stored = usize::from(raw.rec_len.get());
    let len = if size == 1 << 16 && (stored == 0 || stored == 65535) { size } else { stored };
    // Spec: "rec_len: Length of this directory entry. Must be a multiple of 4."
    let name_len = usize::from(raw.name_len);
    if len < RECORD_HEADER || len % 4 != 0 || len > rest.len() {
        return Err("the length of a record is a multiple of 4 and ends inside the block");
    }
    let name = names.get(..name_len).filter(|_| RECORD_HEADER.saturating_add(name_len) <= len);
    let name = name.ok_or("a name ends inside its record")?;
    let inode = raw.inode.get();
    if inode != 0 && (name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/'))) {
        return Err("a name has at least one byte, and neither NUL nor `/`");
    }
    Ok(Record { offset, len, inode, name, file_type: raw.file_type })
}

/// Returns the bytes that a record of a name of `name_len` bytes needs.
pub(super) fn record_len(name_len: usize) -> usize {
    RECORD_HEADER.saturating_add(name_len).next_multiple_of(4)
}

/// Writes a record of `len` bytes at `offset`.
pub(super) fn put_record(block: &mut [u8], offset: usize, len: usize, inode: u32, name: &[u8], file_type: u8) {
    let raw = RawDirEntry {
        inode: U32::new(inode),
        rec_len: U16::new(u16::try_from(len).unwrap_or(u16::MAX)),
        name_len: u8::try_from(name.len()).unwrap_or(u8::MAX),
        file_type,
    };
    let Some(place) = block.get_mut(offset..offset.saturating_add(len)) else { return };
    let (head, rest) = place.split_at_mut(RECORD_HEADER.min(len));
    head.copy_from_slice(raw.as_bytes());
    if let Some(to) = rest.get_mut(..name.len()) {
        to.copy_from_slice(name);
    }
}

/// Changes the length of the record at `offset`.
pub(super) fn set_record_len(block: &mut [u8], offset: usize, len: usize) {
    let at = offset.saturating_add(offset_of!(RawDirEntry, rec_len));
    if let Some(place) = block.get_mut(at..at.saturating_add(2)) {
        place.copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
    }
}

/// Changes what the record at `offset` names.
pub(super) fn set_record_inode(block: &mut [u8], offset: usize, inode: u32) {
    if let Some(place) = block.get_mut(offset..offset.saturating_add(4)) {
        place.copy_from_slice(&inode.to_le_bytes());
    }
}

/// Returns where the records of a block end: before the tail when there are checksums.
pub(super) fn records_end(block_size: usize, checksums: bool) -> usize {
    if checksums { block_size.saturating_sub(TAIL) } else { block_size }
}

/// Writes the tail with the checksum of the records before it.
pub(super) fn seal(block: &mut [u8], seed: u32) {
    let at = block.len().saturating_sub(TAIL);
    let (records, tail) = block.split_at_mut(at);
    // Spec: "the entire directory entry block up to (but not including) the fake directory entry"
    let [a, b, c, d] = crc32c(seed, records).to_le_bytes();
    tail.copy_from_slice(&[0, 0, 0, 0, 12, 0, 0, TAIL_TYPE, a, b, c, d]);
}

/// Returns whether the tail is there and right.
pub(super) fn is_sealed(block: &[u8], seed: u32) -> bool {
    let (records, tail) = block.split_at(block.len().saturating_sub(TAIL));
    let [a, b, c, d] = crc32c(seed, records).to_le_bytes();
    tail == [0, 0, 0, 0, 12, 0, 0, TAIL_TYPE, a, b, c, d]
}

/// Returns the kind of a stored file type, or `None` when the inode has to be asked.
pub(super) fn kind_of(file_type: u8) -> Option<FileKind> {
    Some(match file_type {
        1 => FileKind::File,
        2 => FileKind::Directory,
        3 => FileKind::CharDevice,
        4 => FileKind::BlockDevice,
        5 => FileKind::Fifo,
        6 => FileKind::Socket,
        7 => FileKind::Symlink,
        _ => return None,
    })
}

/// Returns what a record stores of a kind.
///
/// Spec: "Directory Entries", the file type.
pub(super) fn type_of(kind: FileKind) -> u8 {
    match kind {
        FileKind::File => 1,
        FileKind::Directory => TYPE_DIRECTORY,
        FileKind::CharDevice => 3,
        FileKind::BlockDevice => 4,
        FileKind::Fifo => 5,
        FileKind::Socket => 6,
        FileKind::Symlink => 7,
    }
}

pub(super) const TYPE_DIRECTORY: u8 = 2;

const RECORD_HEADER: usize = 8;
/// Bytes of a record with a name of usual length.
const USUAL_RECORD: usize = 24;
/// Bytes of the record that holds a block's checksum.
const TAIL: usize = 12;
const TAIL_TYPE: u8 = 0xDE;
