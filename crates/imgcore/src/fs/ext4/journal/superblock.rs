use std::mem::offset_of;

use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::checksum::{CHECKSUM_START, crc32c};
use super::super::error::{corrupt, refused};
use super::super::layout::Layout;
use super::block::{Format, MAGIC, Sums};
use crate::fs::Error;

/// The superblock of a journal as stored, 1024 bytes at its start; all of jbd2 is big-endian.
///
/// Spec: "Journal (jbd2)", "Super Block", `struct journal_superblock_s`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawJournalSuperblock {
    h_magic: U32,
    h_blocktype: U32,
    h_sequence: U32,
    s_blocksize: U32,
    pub(super) s_maxlen: U32,
    pub(super) s_first: U32,
    pub(super) s_sequence: U32,
    pub(super) s_start: U32,
    s_errno: U32,
    s_feature_compat: U32,
    s_feature_incompat: U32,
    s_feature_ro_compat: U32,
    s_uuid: [u8; 16],
    s_nr_users: U32,
    s_dynsuper: U32,
    s_max_transaction: U32,
    s_max_trans_data: U32,
    s_checksum_type: u8,
    s_padding2: [u8; 3],
    s_num_fc_blks: U32,
    s_padding: [U32; 41],
    s_checksum: U32,
    s_users: [u8; 768],
}

// Offsets as printed in the specification.
const _: () = {
    assert!(size_of::<RawJournalSuperblock>() == 1024);
    assert!(offset_of!(RawJournalSuperblock, s_start) == 0x1C);
    assert!(offset_of!(RawJournalSuperblock, s_feature_incompat) == 0x28);
    assert!(offset_of!(RawJournalSuperblock, s_checksum_type) == 0x50);
    assert!(offset_of!(RawJournalSuperblock, s_num_fc_blks) == 0x54);
    assert!(offset_of!(RawJournalSuperblock, s_checksum) == 0xFC);
    assert!(offset_of!(RawJournalSuperblock, s_users) == 0x100);
};

impl RawJournalSuperblock {
    /// Decodes the superblock and checks what does not depend on where the journal lies.
    pub(super) fn decode(bytes: &[u8], layout: &Layout) -> Result<Self, Error> {
        let bad = |rule: &str| corrupt("journal superblock", rule);
        let (raw, _) = Self::read_from_prefix(bytes).map_err(|_| bad("it has 1024 bytes"))?;
        let version = raw.h_blocktype.get();
        if raw.h_magic.get() != MAGIC || !matches!(version, VERSION_1 | VERSION_2) {
            return Err(bad("it has the magic 0xC03B3998 and is of version 1 or 2"));
        }
        // Spec: "s_blocksize: Journal device block size."
        if raw.s_blocksize.get() != layout.block_size {
            return Err(bad("its blocks are those of the file system"));
        }
        raw.check_features()?;
        if raw.sums() >= Sums::V2 {
            if raw.s_checksum_type != CRC32C {
                return Err(bad("the checksum type is crc32c"));
            }
            // Spec: "Checksum of the entire superblock, with this field set to zero."
            if raw.s_checksum.get() != raw.checksum() {
                return Err(bad("its checksum matches its bytes"));
            }
        }
        // Spec: "s_errno: Error value, as set by jbd2_journal_abort()."
        if raw.s_errno.get() != 0 {
            return Err(refused("has a journal that was given up after an error: run e2fsck first"));
        }
        Ok(raw)
    }

    fn check_features(&self) -> Result<(), Error> {
        if self.is_version_1() {
            // Spec: "The remaining fields are only valid in a v2 superblock."
            return Ok(());
        }
        let unknown = [
            (self.s_feature_compat.get() & !COMPAT_CHECKSUM, "compatible"),
            (self.s_feature_incompat.get() & !KNOWN_INCOMPAT, "incompatible"),
            (self.s_feature_ro_compat.get(), "read-only compatible"),
        ];
        if let Some((bits, class)) = unknown.iter().find(|(bits, _)| *bits != 0) {
            return Err(refused(format!("has a journal with the {class} features {bits:#x}, which are not supported")));
        }
        if self.has(INCOMPAT_CSUM_V2) && self.has(INCOMPAT_CSUM_V3) {
            return Err(corrupt("journal superblock", "it has checksums of version 2 or of version 3, not both"));
        }
        Ok(())
    }

    /// Returns the bytes to store, with the right checksum.
    pub(super) fn encode(&mut self) -> [u8; 1024] {
        if self.sums() >= Sums::V2 {
            self.s_checksum.set(self.checksum());
        }
        zerocopy::transmute!(*self)
    }

    fn checksum(&self) -> u32 {
        let mut copy = *self;
        copy.s_checksum.set(0);
        crc32c(CHECKSUM_START, copy.as_bytes())
    }

    fn is_version_1(&self) -> bool {
        self.h_blocktype.get() == VERSION_1
    }

    fn has(&self, feature: u32) -> bool {
        !self.is_version_1() && self.s_feature_incompat.get() & feature != 0
    }

    fn sums(&self) -> Sums {
        if self.has(INCOMPAT_CSUM_V3) {
            Sums::V3
        } else if self.has(INCOMPAT_CSUM_V2) {
            Sums::V2
        } else if !self.is_version_1() && self.s_feature_compat.get() & COMPAT_CHECKSUM != 0 {
            Sums::V1
        } else {
            Sums::None
        }
    }

    /// Returns how the blocks of the log are stored.
    pub(super) fn format(&self, layout: &Layout) -> Format {
        Format {
            block_size: layout.block_bytes(),
            wide: self.has(INCOMPAT_64BIT),
            is_async: self.has(INCOMPAT_ASYNC_COMMIT),
            sums: self.sums(),
            seed: crc32c(CHECKSUM_START, &self.s_uuid),
            uuid: self.s_uuid,
        }
    }

    /// Returns how many blocks at the end of the journal are for fast commits.
    pub(super) fn fast_commit_blocks(&self) -> u32 {
        match self.s_num_fc_blks.get() {
            _ if !self.has(INCOMPAT_FAST_COMMIT) => 0,
            0 => DEFAULT_FAST_COMMIT_BLOCKS,
            blocks => blocks,
        }
    }
}

/// Spec: "Block Header", `h_blocktype`.
const VERSION_1: u32 = 3;
const VERSION_2: u32 = 4;
/// Spec: "Journal checksum type codes": 4 is CRC32C.
const CRC32C: u8 = 4;

/// Spec: "Journal maintains checksums on the data blocks."
const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const KNOWN_INCOMPAT: u32 =
    INCOMPAT_REVOKE | INCOMPAT_64BIT | INCOMPAT_ASYNC_COMMIT | INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3 | INCOMPAT_FAST_COMMIT;
/// What a journal with fast commits sets aside for them where it does not say.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;
