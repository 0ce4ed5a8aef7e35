//! What a whole disk or a partition is made into: a file system or swap space.

use imgcore::block::BlockWrite;
use imgcore::fs::ext4::{self, CreateOptions, Release, Timestamp};
use imgcore::fs::{Error, swap, vfat};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A file system, or swap space.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Kind {
    /// ext2.
    Ext2,
    /// ext3.
    Ext3,
    /// ext4.
    Ext4,
    /// FAT12, FAT16 or FAT32.
    Vfat,
    /// Swap space.
    Swap,
}

impl Kind {
    /// Returns the name that blkid gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Vfat => "vfat",
            Self::Swap => "swap",
        }
    }

    /// Returns which of the ext file systems it is, if it is one.
    #[must_use]
    pub fn ext(self) -> Option<ext4::Kind> {
        match self {
            Self::Ext2 => Some(ext4::Kind::Ext2),
            Self::Ext3 => Some(ext4::Kind::Ext3),
            Self::Ext4 => Some(ext4::Kind::Ext4),
            Self::Vfat | Self::Swap => None,
        }
    }

    /// Returns the UUID as the disk has it: vfat has 8 digits of it.
    #[must_use]
    pub fn shown(self, uuid: Uuid) -> String {
        let serial = serial(uuid);
        if self == Self::Vfat { format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF) } else { uuid.to_string() }
    }
}

/// Makes all of `disk` a file system or swap space as its usual program would, and returns its bytes.
///
/// # Errors
///
/// When the size or the label does not fit it; nothing has been written then. Otherwise the failure of the device.
pub fn make<D: BlockWrite>(disk: D, kind: Kind, label: &str, uuid: Uuid, now: Timestamp) -> Result<u64, Error> {
    match (kind.ext(), kind) {
        (Some(kind), _) => {
            let mut options = ext_options(kind, Release::Debian12, disk.size(), uuid, now);
            label.clone_into(&mut options.label);
            ext4::create(disk, &options)
        }
        (None, Kind::Vfat) => vfat::create(disk, label, serial(uuid)),
        (None, _) => swap::create(disk, label, uuid.into_bytes()),
    }
}

/// Returns what mke2fs of `release` chooses. What names are hashed with follows from the UUID, so that the same arguments and clock
/// give the same bytes.
#[must_use]
pub fn ext_options(kind: ext4::Kind, release: Release, size: u64, uuid: Uuid, now: Timestamp) -> CreateOptions {
    let mut hash_seed = [0; 16];
    hash_seed.iter_mut().zip(Sha256::digest(uuid.as_bytes())).for_each(|(to, from)| *to = from);
    CreateOptions::new(kind, release, size, uuid.into_bytes(), hash_seed, now)
}

/// Returns the serial number that FAT has in place of a UUID.
fn serial(uuid: Uuid) -> u32 {
    uuid.as_fields().0
}
