use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::crc32c;
use super::error::{corrupt, refused};
use super::inode::{EA_INODE_FLAG, Inode};
use super::layout::Layout;
use super::volume::Volume;
use crate::block::BlockRead;
use crate::fs::Error;

/// The head of a block of extended attributes.
///
/// Spec: "Extended Attributes", `struct ext4_xattr_header`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawXattrHeader {
    pub(super) h_magic: U32,
    pub(super) h_refcount: U32,
    pub(super) h_blocks: U32,
    pub(super) h_hash: U32,
    pub(super) h_checksum: U32,
    pub(super) h_reserved: [U32; 3],
}

/// Spec: "Extended Attributes", `struct ext4_xattr_entry`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawXattrEntry {
    e_name_len: u8,
    e_name_index: u8,
    e_value_offs: U16,
    e_value_inum: U32,
    e_value_size: U32,
    e_hash: U32,
}

// Offsets as printed in the specification.
const _: () = {
    assert!(size_of::<RawXattrHeader>() == BLOCK_HEADER);
    assert!(offset_of!(RawXattrHeader, h_checksum) == 0x10);
    assert!(size_of::<RawXattrEntry>() == ENTRY);
    assert!(offset_of!(RawXattrEntry, e_hash) == 0xC);
};

/// An extended attribute.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Xattr {
    /// What prefix the name has, as a number.
    pub(super) index: u8,
    /// The name without its prefix.
    pub(super) name: Vec<u8>,
    pub(super) value: Value,
}

impl Xattr {
    /// Returns whether it is a part of the file's contents.
    pub(super) fn is_contents(&self) -> bool {
        (self.index, &*self.name) == INLINE_DATA
    }
}

/// Where the value of an extended attribute is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Value {
    Here(Vec<u8>),
    /// In an inode of its own, with the size in bytes.
    Inode(u32, u32),
}

/// Returns all extended attributes of `inode`: those inside it, then those of its block.
pub(super) fn read_xattrs<D: BlockRead>(volume: &Volume<D>, inode: &Inode) -> Result<Vec<Xattr>, Error> {
    let mut all = read_inside(inode)?;
    if inode.xattr_block() != 0 {
        let block = read_block(volume, inode.xattr_block())?;
        decode(&block, BLOCK_HEADER, &format!("extended attributes of inode {}", inode.number), &mut all)?;
    }
    Ok(all)
}

/// Returns the extended attributes inside `inode`.
pub(super) fn read_inside(inode: &Inode) -> Result<Vec<Xattr>, Error> {
    let mut all = Vec::new();
    let inside = inode.xattr_space().and_then(|space| inode.tail.get(space)).unwrap_or_default();
    if let Some((magic, entries)) = inside.split_first_chunk::<4>()
        && u32::from_le_bytes(*magic) == XATTR_MAGIC
    {
        decode(entries, 0, &format!("extended attributes of inode {}", inode.number), &mut all)?;
    }
    Ok(all)
}

/// Returns the checked bytes of a block of extended attributes.
pub(super) fn read_block<D: BlockRead>(volume: &Volume<D>, number: u64) -> Result<std::sync::Arc<[u8]>, Error> {
    let block = volume.store.block(number)?;
    let bad = |rule: &str| corrupt(format!("block {number} of extended attributes"), rule);
    let (header, _) = RawXattrHeader::read_from_prefix(&block).map_err(|_| bad("it has a header"))?;
    // Spec: "h_blocks: Number of disk blocks used."
    if header.h_magic.get() != XATTR_MAGIC || header.h_blocks.get() != 1 || header.h_refcount.get() == 0 {
        return Err(bad("it has the magic 0xEA020000, is one block and is in use"));
    }
    if volume.layout().has_metadata_csum() && header.h_checksum.get() != block_checksum(&block, number, volume.layout()) {
        return Err(bad("its checksum matches its bytes"));
    }
    Ok(block)
}

/// Returns the value of an attribute.
pub(super) fn read_value<D: BlockRead>(volume: &Volume<D>, value: &Value) -> Result<Vec<u8>, Error> {
    match value {
        Value::Here(bytes) => Ok(bytes.clone()),
        Value::Inode(number, size) => {
            let inode = volume.inode(*number)?;
            let bad = || corrupt(format!("inode {number}"), "it holds the value of an extended attribute");
            if !inode.has_flag(EA_INODE_FLAG) || inode.size() != u64::from(*size) {
                return Err(bad());
            }
            volume.contents(&inode, MAX_VALUE)?.ok_or_else(bad)
        }
    }
}

/// Decodes the entries of `bytes` from `at` on; values are relative to the start of `bytes`.
fn decode(bytes: &[u8], mut at: usize, place: &str, all: &mut Vec<Xattr>) -> Result<(), Error> {
    let bad = |rule: &str| corrupt(place, rule);
    // Spec: "The first four fields of the ext4_xattr_entry are set to zero to mark the end of the key list."
    while bytes.get(at..at.saturating_add(4)).is_some_and(|mark| mark != [0; 4]) {
        let rest = bytes.get(at..).unwrap_or_default();
        let (raw, names) = RawXattrEntry::read_from_prefix(rest).map_err(|_| bad("entries end inside their space"))?;
        let name_len = usize::from(raw.e_name_len);
        let name = names.get(..name_len).ok_or_else(|| bad("a name ends inside the space"))?.to_vec();
        let size = raw.e_value_size.get();
        let value = if raw.e_value_inum.get() != 0 {
            Value::Inode(raw.e_value_inum.get(), size)
        } else {
            let from = usize::from(raw.e_value_offs.get());
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let value = if size == 0 { Some(&[][..]) } else { bytes.get(from..).and_then(|rest| rest.get(..size)) };
            Value::Here(value.ok_or_else(|| bad("a value ends inside the space"))?.to_vec())
        };
        all.push(Xattr { index: raw.e_name_index, name, value });
        at = at.saturating_add(entry_len(name_len));
    }
    Ok(())
}

/// Returns the bytes that an attribute takes.
fn space(attribute: &Xattr) -> usize {
    let value = if let Value::Here(value) = &attribute.value { value.len().next_multiple_of(4) } else { 0 };
    entry_len(attribute.name.len()).saturating_add(value)
}

fn entry_len(name_len: usize) -> usize {
    ENTRY.saturating_add(name_len).next_multiple_of(4)
}

/// Splits attributes into those that fit `inside` bytes in the inode and those for a block of `block` bytes.
///
/// The contents of the file are the first in the inode. Returns `None` when they do not fit.
pub(super) fn split(mut attributes: Vec<Xattr>, inside: usize, block: usize) -> Option<(Vec<Xattr>, Vec<Xattr>)> {
    let mut free = inside.saturating_sub(END.saturating_add(END));
    attributes.sort_by_key(|attribute| !attribute.is_contents());
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for attribute in attributes {
        match free.checked_sub(space(&attribute)) {
            Some(left) => {
                free = left;
                here.push(attribute);
            }
            None => there.push(attribute),
        }
    }
    if there.iter().any(Xattr::is_contents) {
        return None;
    }
    let needed = there.iter().map(space).fold(BLOCK_HEADER.saturating_add(END), usize::saturating_add);
    (needed <= block).then_some((here, there))
}

/// Encodes attributes into the `len` bytes behind an inode's fields.
pub(super) fn encode_inside(attributes: &[Xattr], len: usize) -> Vec<u8> {
    if attributes.is_empty() || len <= END {
        return vec![0; len];
    }
    let mut bytes = vec![0; len.saturating_sub(END)];
    // Spec: "The kernel doesn't update the hash for in-inode attributes, so for that case this value must be zero"
    encode(attributes, &mut bytes, 0, |_| 0);
    [XATTR_MAGIC.to_le_bytes().to_vec(), bytes].concat()
}

/// Encodes attributes as block `number` with one user.
pub(super) fn encode_block(mut attributes: Vec<Xattr>, number: u64, layout: &Layout) -> Vec<u8> {
    // Spec: "The sort order is e_name_index, then e_name_len, and finally e_name."
    attributes.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
    let mut bytes = vec![0; layout.block_bytes()];
    encode(&attributes, &mut bytes, BLOCK_HEADER, entry_hash);
    let hashes = attributes.iter().map(entry_hash);
    let hash = hashes.fold(0_u32, |hash, entry| hash.rotate_left(16) ^ entry);
    seal_block(&mut bytes, 1, Some(hash), number, layout);
    bytes
}

/// Sets the number of users of a block of attributes, and its checksum.
pub(super) fn seal_block(bytes: &mut [u8], refcount: u32, hash: Option<u32>, number: u64, layout: &Layout) {
    let Ok((mut header, _)) = RawXattrHeader::read_from_prefix(bytes) else { return };
    header.h_magic.set(XATTR_MAGIC);
    header.h_blocks.set(1);
    header.h_refcount.set(refcount);
    if let Some(hash) = hash {
        header.h_hash.set(hash);
    }
    let mut store = |header: &RawXattrHeader| {
        if let Some(place) = bytes.get_mut(..BLOCK_HEADER) {
            place.copy_from_slice(header.as_bytes());
        }
        block_checksum(bytes, number, layout)
    };
    let sum = store(&header);
    if layout.has_metadata_csum() {
        header.h_checksum.set(sum);
        store(&header);
    }
}

fn encode(attributes: &[Xattr], bytes: &mut [u8], mut at: usize, hash: impl Fn(&Xattr) -> u32) {
    let mut end = bytes.len();
    for attribute in attributes {
        let (value, inode, size): (&[u8], u32, u32) = match &attribute.value {
            Value::Here(value) => (value, 0, u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Value::Inode(number, size) => (&[], *number, *size),
        };
        end = end.saturating_sub(value.len().next_multiple_of(4));
        let raw = RawXattrEntry {
            e_name_len: u8::try_from(attribute.name.len()).unwrap_or(u8::MAX),
            e_name_index: attribute.index,
            e_value_offs: U16::new(if value.is_empty() { 0 } else { u16::try_from(end).unwrap_or(u16::MAX) }),
            e_value_inum: U32::new(inode),
            e_value_size: U32::new(size),
            e_hash: U32::new(hash(attribute)),
        };
        for (place, part) in [(at, raw.as_bytes()), (at.saturating_add(ENTRY), &attribute.name), (end, value)] {
            if let Some(place) = bytes.get_mut(place..).and_then(|rest| rest.get_mut(..part.len())) {
                place.copy_from_slice(part);
            }
        }
        at = at.saturating_add(entry_len(attribute.name.len()));
    }
}

/// Spec: "e_hash: Hash value of attribute name and attribute value."
fn entry_hash(attribute: &Xattr) -> u32 {
    let name = attribute.name.iter().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    let Value::Here(value) = &attribute.value else { return name };
    value.chunks(4).fold(name, |hash, chunk| {
        let mut word = [0; 4];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// Spec: "The checksum is calculated against the FS UUID, the 64-bit block number of the extended attribute block, and the entire
/// block (header + entries)."
fn block_checksum(block: &[u8], number: u64, layout: &Layout) -> u32 {
    let at = offset_of!(RawXattrHeader, h_checksum);
    let start = crc32c(layout.seed, &number.to_le_bytes());
    let start = crc32c(start, block.get(..at).unwrap_or_default());
    let start = crc32c(start, &[0; 4]);
    crc32c(start, block.get(at.saturating_add(4)..).unwrap_or_default())
}

/// Returns the number of a full name's prefix and the rest of the name, or `None` when the prefix is not known.
pub(super) fn split_name(full: &str) -> Option<(u8, &[u8])> {
    if let Some((_, index)) = WHOLE_NAMES.iter().find(|(name, _)| *name == full) {
        return Some((*index, b""));
    }
    PREFIXES.iter().find_map(|(prefix, index)| {
        let rest = full.strip_prefix(prefix).filter(|rest| !rest.is_empty() && rest.len() <= 255)?;
        Some((*index, rest.as_bytes()))
    })
}

/// Returns the full name of an attribute, or `None` when its prefix is not known.
pub(super) fn full_name(attribute: &Xattr) -> Option<Vec<u8>> {
    if let Some((name, _)) = WHOLE_NAMES.iter().find(|(_, index)| *index == attribute.index) {
        return Some(name.as_bytes().to_vec());
    }
    let (prefix, _) = PREFIXES.iter().find(|(_, index)| *index == attribute.index)?;
    Some([prefix.as_bytes(), &attribute.name].concat())
}

/// Checks that none of the attributes has its value in an inode of its own.
pub(super) fn check_values_here(attributes: &[Xattr]) -> Result<(), Error> {
    match attributes.iter().find(|attribute| matches!(attribute.value, Value::Inode(..))) {
        None => Ok(()),
        Some(_) => Err(refused("keeps an extended attribute of a file to be changed in an inode of its own")),
    }
}

/// Spec: "Attribute Name Indices".
const PREFIXES: &[(&str, u8)] = &[("user.", 1), ("trusted.", 4), ("security.", 6), ("system.", 7)];
/// The attribute that holds what a file in its inode has no other place for.
pub(super) const INLINE_DATA: (u8, &[u8]) = (7, b"data");
pub(super) const ACL_ACCESS: u8 = 2;
pub(super) const ACL_DEFAULT: u8 = 3;
const WHOLE_NAMES: &[(&str, u8)] =
    &[("system.posix_acl_access", ACL_ACCESS), ("system.posix_acl_default", ACL_DEFAULT), ("system.richacl", 8)];

const XATTR_MAGIC: u32 = 0xEA02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;
/// Bytes of the mark behind the last entry, and of the magic before the first.
const END: usize = 4;
/// The most bytes of a value, as Linux has it.
const MAX_VALUE: u64 = 65536;
