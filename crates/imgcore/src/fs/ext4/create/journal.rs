use std::mem::offset_of;

use zerocopy::big_endian::U32;
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first block of a journal as stored.
///
/// Spec: "Journal (jbd2)", "Super Block", `struct journal_superblock_s`.
#[derive(Clone, Copy, Debug, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawJournalSuperblock {
    h_magic: U32,
    h_blocktype: U32,
    h_sequence: U32,
    s_blocksize: U32,
    s_maxlen: U32,
    s_first: U32,
    s_sequence: U32,
    s_start: U32,
    s_errno: U32,
    s_feature_compat: U32,
    s_feature_incompat: U32,
    s_feature_ro_compat: U32,
    s_uuid: [u8; 16],
    s_nr_users: U32,
}

// Offsets as printed in the specification.
const _: () = {
    assert!(offset_of!(RawJournalSuperblock, s_blocksize) == 0xC);
    assert!(offset_of!(RawJournalSuperblock, s_uuid) == 0x30);
    assert!(offset_of!(RawJournalSuperblock, s_nr_users) == 0x40);
};

/// Returns the first block of a new journal of `blocks` blocks: empty, and without features until a kernel mounts it.
pub(in crate::fs::ext4) fn first_block(block_size: u32, blocks: u32, uuid: [u8; 16]) -> Vec<u8> {
    let mut raw = RawJournalSuperblock::new_zeroed();
    raw.h_magic.set(MAGIC);
    raw.h_blocktype.set(SUPERBLOCK_V2);
    raw.s_blocksize.set(block_size);
    raw.s_maxlen.set(blocks);
    raw.s_first.set(1);
    raw.s_sequence.set(1);
    raw.s_uuid = uuid;
    raw.s_nr_users.set(1);
    let mut bytes = raw.as_bytes().to_vec();
    bytes.resize(usize::try_from(block_size).unwrap_or(usize::MAX), 0);
    bytes
}

/// Spec: "h_magic: jbd2 magic number, 0xC03B3998."
const MAGIC: u32 = 0xC03B_3998;
/// Spec: "h_blocktype": 4, "Journal superblock, v2."
const SUPERBLOCK_V2: u32 = 4;
