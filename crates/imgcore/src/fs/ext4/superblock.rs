use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{CHECKSUM_START, crc32c};
use super::error::{corrupt, refused};
use crate::block::BlockRead;
use crate::fs::Error;

/// The superblock as stored, 1024 bytes at offset 1024 of the file system.
///
/// ```text
///   0    counts: inodes, blocks, reserved, free        magic at 0x38
///  80    dynamic: first inode, inode size, features, uuid, label
/// 208    journal, hash seed, descriptor size
/// 336    64bit: high halves        608  checksum seed, orphan file        1020  checksum
/// ```
///
/// Spec: "Super Block", `struct ext4_super_block`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawSuperblock {
    pub(super) s_inodes_count: U32,
    pub(super) s_blocks_count_lo: U32,
    pub(super) s_r_blocks_count_lo: U32,
    pub(super) s_free_blocks_count_lo: U32,
    pub(super) s_free_inodes_count: U32,
    pub(super) s_first_data_block: U32,
    pub(super) s_log_block_size: U32,
    pub(super) s_log_cluster_size: U32,
    pub(super) s_blocks_per_group: U32,
    pub(super) s_clusters_per_group: U32,
    pub(super) s_inodes_per_group: U32,
    pub(super) s_mtime: U32,
    pub(super) s_wtime: U32,
    pub(super) s_mnt_count: U16,
    pub(super) s_max_mnt_count: U16,
    pub(super) s_magic: U16,
    pub(super) s_state: U16,
    pub(super) s_errors: U16,
    pub(super) s_minor_rev_level: U16,
    pub(super) s_lastcheck: U32,
    pub(super) s_checkinterval: U32,
    pub(super) s_creator_os: U32,
    pub(super) s_rev_level: U32,
    pub(super) s_def_resuid: U16,
    pub(super) s_def_resgid: U16,
    pub(super) s_first_ino: U32,
    pub(super) s_inode_size: U16,
    pub(super) s_block_group_nr: U16,
    pub(super) s_feature_compat: U32,
    pub(super) s_feature_incompat: U32,
    pub(super) s_feature_ro_compat: U32,
    pub(super) s_uuid: [u8; 16],
    pub(super) s_volume_name: [u8; 16],
    pub(super) s_last_mounted: [u8; 64],
    pub(super) s_algorithm_usage_bitmap: U32,
    pub(super) s_prealloc_blocks: u8,
    pub(super) s_prealloc_dir_blocks: u8,
    pub(super) s_reserved_gdt_blocks: U16,
    pub(super) s_journal_uuid: [u8; 16],
    pub(super) s_journal_inum: U32,
    pub(super) s_journal_dev: U32,
    pub(super) s_last_orphan: U32,
    pub(super) s_hash_seed: [U32; 4],
    pub(super) s_def_hash_version: u8,
    pub(super) s_jnl_backup_type: u8,
    pub(super) s_desc_size: U16,
    pub(super) s_default_mount_opts: U32,
    pub(super) s_first_meta_bg: U32,
    pub(super) s_mkfs_time: U32,
    pub(super) s_jnl_blocks: [U32; 17],
    pub(super) s_blocks_count_hi: U32,
    pub(super) s_r_blocks_count_hi: U32,
    pub(super) s_free_blocks_count_hi: U32,
    pub(super) s_min_extra_isize: U16,
    pub(super) s_want_extra_isize: U16,
    pub(super) s_flags: U32,
    pub(super) s_raid_stride: U16,
    pub(super) s_mmp_interval: U16,
    pub(super) s_mmp_block: U64,
    pub(super) s_raid_stripe_width: U32,
    pub(super) s_log_groups_per_flex: u8,
    pub(super) s_checksum_type: u8,
    pub(super) s_reserved_pad: U16,
    pub(super) s_kbytes_written: U64,
    pub(super) s_snapshot: [u8; 20],
    pub(super) s_error_count: U32,
    pub(super) s_errors_seen: [u8; 104],
    pub(super) s_mount_opts: [u8; 64],
    pub(super) s_usr_quota_inum: U32,
    pub(super) s_grp_quota_inum: U32,
    pub(super) s_overhead_blocks: U32,
    pub(super) s_backup_bgs: [U32; 2],
    pub(super) s_encrypt_algos: [u8; 4],
    pub(super) s_encrypt_pw_salt: [u8; 16],
    pub(super) s_lpf_ino: U32,
    pub(super) s_prj_quota_inum: U32,
    pub(super) s_checksum_seed: U32,
    pub(super) s_time_hi: [u8; 6],
    pub(super) s_pad: [u8; 2],
    pub(super) s_encoding: U16,
    pub(super) s_encoding_flags: U16,
    pub(super) s_orphan_file_inum: U32,
    pub(super) s_reserved: [U32; 94],
    pub(super) s_checksum: U32,
}

// Offsets as printed in the specification.
const _: () = {
    assert!(size_of::<RawSuperblock>() == 1024);
    assert!(offset_of!(RawSuperblock, s_magic) == 0x38);
    assert!(offset_of!(RawSuperblock, s_first_ino) == 0x54);
    assert!(offset_of!(RawSuperblock, s_uuid) == 0x68);
    assert!(offset_of!(RawSuperblock, s_reserved_gdt_blocks) == 0xCE);
    assert!(offset_of!(RawSuperblock, s_last_orphan) == 0xE8);
    assert!(offset_of!(RawSuperblock, s_hash_seed) == 0xEC);
    assert!(offset_of!(RawSuperblock, s_desc_size) == 0xFE);
    assert!(offset_of!(RawSuperblock, s_first_meta_bg) == 0x104);
    assert!(offset_of!(RawSuperblock, s_blocks_count_hi) == 0x150);
    assert!(offset_of!(RawSuperblock, s_flags) == 0x160);
    assert!(offset_of!(RawSuperblock, s_log_groups_per_flex) == 0x174);
    assert!(offset_of!(RawSuperblock, s_error_count) == 0x194);
    assert!(offset_of!(RawSuperblock, s_mount_opts) == 0x200);
    assert!(offset_of!(RawSuperblock, s_overhead_blocks) == 0x248);
    assert!(offset_of!(RawSuperblock, s_checksum_seed) == 0x270);
    assert!(offset_of!(RawSuperblock, s_orphan_file_inum) == 0x280);
    assert!(offset_of!(RawSuperblock, s_checksum) == 0x3FC);
};

impl RawSuperblock {
    /// Reads the primary superblock of `disk` and checks its magic and checksum.
    pub(super) fn read<D: BlockRead + ?Sized>(disk: &D) -> Result<Self, Error> {
        let mut bytes = [0; 1024];
        if disk.size() < 2048 {
            return Err(corrupt("superblock", "the device is too small for a file system"));
        }
        disk.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET)?;
        Self::decode(&bytes)
    }

    /// Decodes a superblock and checks its magic and checksum.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let raw = Self::read_from_bytes(bytes).map_err(|_| corrupt("superblock", "it has 1024 bytes"))?;
        if raw.s_magic.get() != MAGIC {
            return Err(corrupt("superblock", "its magic is 0xEF53"));
        }
        if raw.s_rev_level.get() > 1 {
            return Err(refused(format!("is of revision {}, which is not supported", raw.s_rev_level.get())));
        }
        if raw.s_rev_level.get() == 0 && raw.has_features() {
            return Err(corrupt("superblock", "a file system of revision 0 has no features"));
        }
        if raw.has_ro_compat(super::feature::METADATA_CSUM) {
            if raw.s_checksum_type != 1 {
                return Err(corrupt("superblock", "the checksum type is crc32c"));
            }
            // Spec: "The superblock checksum is calculated against the superblock structure"
            if raw.s_checksum.get() != raw.checksum() {
                return Err(corrupt("superblock", "its checksum matches its bytes"));
            }
        }
        Ok(raw)
    }

    /// Returns the bytes to store, with the right checksum when the file system has checksums.
    pub(super) fn encode(&mut self) -> [u8; 1024] {
        if self.has_ro_compat(super::feature::METADATA_CSUM) {
            self.s_checksum.set(self.checksum());
        }
        zerocopy::transmute!(*self)
    }

    fn has_features(&self) -> bool {
        [self.s_feature_compat, self.s_feature_incompat, self.s_feature_ro_compat].iter().any(|mask| mask.get() != 0)
    }

    /// Returns the first inode that is not reserved.
    ///
    /// Spec: "EXT4_GOOD_OLD_FIRST_INO": 11, where the superblock is of revision 0.
    pub(super) fn first_inode(&self) -> u32 {
        if self.s_rev_level.get() == 0 { 11 } else { self.s_first_ino.get() }
    }

    /// Returns the bytes of an inode.
    ///
    /// Spec: "EXT4_GOOD_OLD_INODE_SIZE": 128, where the superblock is of revision 0.
    pub(super) fn inode_size(&self) -> u16 {
        if self.s_rev_level.get() == 0 { 128 } else { self.s_inode_size.get() }
    }

    fn checksum(&self) -> u32 {
        let covered = self.as_bytes().get(..offset_of!(Self, s_checksum)).unwrap_or_default();
        crc32c(CHECKSUM_START, covered)
    }

    pub(super) fn has_compat(&self, bit: u32) -> bool {
        self.s_feature_compat.get() & bit != 0
    }

    pub(super) fn has_incompat(&self, bit: u32) -> bool {
        self.s_feature_incompat.get() & bit != 0
    }

    pub(super) fn has_ro_compat(&self, bit: u32) -> bool {
        self.s_feature_ro_compat.get() & bit != 0
    }

    /// Returns the number of blocks.
    pub(super) fn blocks_count(&self) -> u64 {
        self.wide(self.s_blocks_count_lo, self.s_blocks_count_hi)
    }

    /// Returns the number of free blocks.
    pub(super) fn free_blocks_count(&self) -> u64 {
        self.wide(self.s_free_blocks_count_lo, self.s_free_blocks_count_hi)
    }

    /// Returns the number of blocks set aside for root.
    pub(super) fn reserved_blocks_count(&self) -> u64 {
        self.wide(self.s_r_blocks_count_lo, self.s_r_blocks_count_hi)
    }

    /// Stores the number of free blocks.
    pub(super) fn set_free_blocks_count(&mut self, count: u64) {
        let (low, high) = halves(count);
        self.s_free_blocks_count_lo.set(low);
        if self.has_incompat(super::feature::BIT64) {
            self.s_free_blocks_count_hi.set(high);
        }
    }

    /// Returns the block that it lies in: with 1 KiB blocks not always the first of the first group.
    pub(super) fn home_block(&self) -> u64 {
        u64::from(self.s_log_block_size.get() == 0)
    }

    fn wide(&self, low: U32, high: U32) -> u64 {
        let high = if self.has_incompat(super::feature::BIT64) { high.get() } else { 0 };
        join(low.get(), high)
    }

    /// Returns what every metadata checksum starts from.
    pub(super) fn checksum_seed(&self) -> u32 {
        if self.has_incompat(super::feature::CSUM_SEED) {
            self.s_checksum_seed.get()
        } else {
            crc32c(CHECKSUM_START, &self.s_uuid)
        }
    }
}

/// Returns the 64-bit number of two halves.
pub(super) fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Returns the low and the high half of a number.
pub(super) fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// Returns the low and the high half of a number.
pub(super) fn halves16(value: u32) -> (u16, u16) {
    let [a, b, c, d] = value.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// Where the primary superblock lies, in bytes.
pub(super) const SUPERBLOCK_OFFSET: u64 = 1024;
pub(super) const MAGIC: u16 = 0xEF53;

/// `s_state`: cleanly unmounted.
pub(super) const STATE_VALID: u16 = 1;
/// `s_flags`: names are hashed as signed bytes.
pub(super) const FLAG_SIGNED_HASH: u32 = 1;
/// `s_flags`: names are hashed as unsigned bytes.
pub(super) const FLAG_UNSIGNED_HASH: u32 = 2;
