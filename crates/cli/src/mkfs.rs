//! What a whole disk or a partition is made into: a file system or swap space.

use imgcore::block::{BlockWrite, ByteRange, Hole};
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

/// Zeros what would have a used `disk` be taken for what it was: marks of other file systems, and the table of partitions with its
/// copy at the end.
///
/// # Errors
///
/// The failure of the device.
pub fn wipe<D: BlockWrite>(mut disk: D) -> Result<(), Error> {
    let size = disk.size();
    disk.write_zeroes_at(ByteRange::new(0, MARKS.min(size)).unwrap_or_default(), Hole::Allow)?;
    for sector in [512, 4096] {
        let sectors = size.checked_div(sector).unwrap_or_default();
        let Some(last) = sectors.checked_sub(1).map(|last| last.saturating_mul(sector)) else { continue };
        let mut magic = [0; 8];
        disk.read_exact_at(&mut magic, last)?;
        if magic == *GPT {
            let table = ByteRange::new(last.saturating_sub(GPT_ENTRIES), last.saturating_add(sector));
            disk.write_zeroes_at(table.unwrap_or_default(), Hole::Allow)?;
        }
    }
    Ok(())
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

/// The marks of all that blkid(8) knows lie before this; the last is that of btrfs, at 64 KiB.
const MARKS: u64 = 68 << 10;
/// Spec: UEFI 2.10, 5.3.2: the signature "EFI PART" of the header in the last block; 5.3.1: "a minimum of 16,384 bytes" of entries
/// before it.
const GPT: &[u8; 8] = b"EFI PART";
const GPT_ENTRIES: u64 = 16 << 10;

/// Returns the serial number that FAT has in place of a UUID.
fn serial(uuid: Uuid) -> u32 {
    uuid.as_fields().0
}
