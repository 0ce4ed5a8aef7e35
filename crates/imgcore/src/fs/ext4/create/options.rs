use super::super::Timestamp;
use super::super::feature::{
    BIT64, CSUM_SEED, DIR_INDEX, DIR_NLINK, EXT_ATTR, EXTENTS, EXTRA_ISIZE, FILETYPE, FLEX_BG, GDT_CSUM, HAS_JOURNAL,
    HUGE_FILE, LARGE_FILE, METADATA_CSUM, ORPHAN_FILE, RESIZE_INODE, SPARSE_SUPER,
};

/// Which of the three file systems is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Without a journal.
    Ext2,
    /// With a journal; files have block maps.
    Ext3,
    /// With a journal and extents.
    Ext4,
}

/// Whose mke2fs is taken as the example.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Release {
    /// mke2fs 1.42, as in EL 7: crc16 of group descriptors, no other checksums.
    El7,
    /// mke2fs 1.43 to 1.46.3, as in Debian 11, Ubuntu 20.04 and EL 8: file systems below 512 MiB have inodes of 128 bytes.
    Debian11,
    /// mke2fs 1.46.4 to 1.47.1, as in Debian 12, Ubuntu 22.04 and 24.04, and EL 9.
    Debian12,
    /// mke2fs 1.47.2 and newer, as in Debian 13: an orphan file, and checksums that do not depend on the UUID.
    Debian13,
}

/// What a new file system is to be like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
    /// Bytes of a block: a power of two from 1024 to 65536.
    pub block_size: u32,
    /// Bytes of an inode: a power of two from 128 to a block.
    pub inode_size: u16,
    /// Bytes of the disk for each inode.
    pub inode_ratio: u64,
    /// How many inodes, before tables are made whole blocks in every group; as many as `inode_ratio` makes them otherwise.
    pub inodes: Option<u64>,
    /// What only root may use, in hundredths of a percent: at most 5000.
    pub reserved: u32,
    /// Bytes of the journal; those that mke2fs chooses otherwise.
    pub journal_size: Option<u64>,
    /// The label: at most 16 bytes.
    pub label: String,
    /// The UUID.
    pub uuid: [u8; 16],
    /// What names are hashed with.
    pub hash_seed: [u8; 16],
    /// The most blocks that it can be grown to before its descriptors move; 1024 times as many as it has otherwise.
    pub most_blocks: Option<u64>,
    /// The time of what is made.
    pub now: Timestamp,
}

impl CreateOptions {
    /// Returns what mke2fs of `release` chooses for `size` bytes.
    ///
    /// Spec: mke2fs.conf(5), "fs_types", and mke2fs(8), `-T`: the type `floppy` is chosen below 3 MiB, `small` below 512 MiB,
    /// `big` from 4 TiB and `huge` from 16 TiB.
    #[must_use]
    pub fn new(kind: Kind, release: Release, size: u64, uuid: [u8; 16], hash_seed: [u8; 16], now: Timestamp) -> Self {
        let (block_size, inode_ratio) = match size {
            _ if size < 3 << 20 => (1024, 8192),
            _ if size < 512 << 20 => (1024, 4096),
            _ if size < 4 << 40 => (4096, 16384),
            _ if size < 16 << 40 => (4096, 32768),
            _ => (4096, 65536),
        };
        let old = matches!(release, Release::El7 | Release::Debian11);
        let inode_size = if old && block_size == 1024 { 128 } else { 256 };
        let mut options = Self {
            compat: RESIZE_INODE | DIR_INDEX | EXT_ATTR,
            incompat: FILETYPE,
            ro_compat: SPARSE_SUPER | LARGE_FILE,
            block_size,
            inode_size,
            inode_ratio,
            inodes: None,
            reserved: 500,
            journal_size: None,
            label: String::new(),
            uuid,
            hash_seed,
            most_blocks: None,
            now,
        };
        if kind != Kind::Ext2 {
            options.compat |= HAS_JOURNAL;
        }
        if kind == Kind::Ext4 {
            options.incompat |= EXTENTS | FLEX_BG;
            options.ro_compat |= HUGE_FILE | DIR_NLINK | EXTRA_ISIZE;
            if release == Release::El7 {
                options.ro_compat |= GDT_CSUM;
            } else {
                options.incompat |= BIT64;
                options.ro_compat |= METADATA_CSUM;
            }
            if release == Release::Debian13 {
                options.incompat |= CSUM_SEED;
                options.compat |= ORPHAN_FILE;
            }
        }
        options
    }

    /// Returns the blocks of the journal of a file system of `blocks` blocks, or `None` when it is too small for one.
    pub(super) fn journal_blocks(&self, blocks: u64) -> Option<u32> {
        if self.compat & HAS_JOURNAL == 0 {
            return None;
        }
        let wanted = self.journal_size.and_then(|size| size.checked_div(u64::from(self.block_size)));
        if let Some(wanted) = wanted {
            return u32::try_from(wanted).ok();
        }
        // As mke2fs chooses: thresholds in blocks.
        let steps = [
            (2048, None),
            (32 << 10, Some(1024)),
            (256 << 10, Some(4096)),
            (512 << 10, Some(8192)),
            (4096 << 10, Some(16384)),
            (8192 << 10, Some(32768)),
            (16384 << 10, Some(65536)),
            (32768 << 10, Some(131_072)),
        ];
        steps.iter().find(|(below, _)| blocks < *below).map_or(Some(262_144), |(_, journal)| *journal)
    }
}
