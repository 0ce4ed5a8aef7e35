//! What the partitions of a disk hold.

use std::sync::Arc;

use imgcore::block::{BlockRead, ByteRange, Slice};
use imgcore::fs::ext4::Ext4;
use imgcore::image::Disk;
use imgcore::partition::{Partition, Table};
use seed::guest::{Volume, VolumeContent, VolumeNames};

use crate::attached::{Attached, Kind, Target};
use crate::error::CommandError;

/// Returns what each partition of `disk` holds, or what the disk holds when it has no table.
///
/// # Errors
///
/// The failure of the disk; contents that cannot be read are an [`VolumeContent::Other`].
pub fn volumes(disk: &Arc<Disk>, table: Option<&Table>) -> Result<Vec<Volume>, CommandError> {
    let Some(table) = table else {
        let whole = ByteRange::new(0, disk.size()).unwrap_or_default();
        return Ok(vec![volume(disk, 0, whole, VolumeNames::default())?]);
    };
    let data = table.partitions.iter().filter(|partition| !partition.is_extended());
    data.map(|partition| volume(disk, partition.number, partition.range, names(partition))).collect()
}

fn names(partition: &Partition) -> VolumeNames {
    let part_label = Some(partition.name.clone()).filter(|name| !name.is_empty());
    VolumeNames { part_uuid: Some(partition.part_uuid.clone()), part_label, ..VolumeNames::default() }
}

fn volume(disk: &Arc<Disk>, partition: u32, range: ByteRange, mut names: VolumeNames) -> Result<Volume, CommandError> {
    let window = Slice::open(Arc::clone(disk), range)?;
    if let Some(name) = foreign(&window)? {
        return Ok(Volume { partition, names, content: VolumeContent::Other(format!("{name}, which is not supported")) });
    }
    let content = match Ext4::open(window) {
        Ok(files) => {
            names.uuid = Some(uuid::Uuid::from_bytes(files.uuid()).to_string());
            names.label = Some(String::from_utf8_lossy(&files.label()).into_owned()).filter(|label| !label.is_empty());
            VolumeContent::Files(Arc::new(files))
        }
        Err(imgcore::fs::Error::Storage(error)) => return Err(error.into()),
        Err(error) => VolumeContent::Other(error.to_string()),
    };
    Ok(Volume { partition, names, content })
}

/// Has the kernel read what this program does not: XFS and btrfs, of the disk behind `attached`.
///
/// What cannot be mounted says why. Returns the file systems that are mounted now.
pub fn attach(volumes: &mut [Volume], attached: &Attached) -> Vec<Target> {
    let mut targets = Vec::new();
    for volume in volumes.iter_mut().filter(|volume| matches!(volume.content, VolumeContent::Other(_))) {
        let Ok(probe) = attached.probe(volume.partition) else { continue };
        if probe.kind == Kind::Ext {
            continue;
        }
        volume.names.uuid = Some(uuid::Uuid::from_bytes(probe.uuid).to_string());
        volume.names.label = probe.label;
        let found = attached.find(volume.partition);
        volume.content = match found.and_then(|target| attached.mount(target, false).map(|files| (target, files))) {
            Ok((target, files)) => {
                targets.push(target);
                VolumeContent::Files(Arc::new(files))
            }
            Err(error) => VolumeContent::Other(error.to_string()),
        };
    }
    targets
}

/// Returns what people call contents that are known not to be ext4, or `None` for those that may be.
fn foreign(volume: &dyn BlockRead) -> Result<Option<&'static str>, CommandError> {
    match known_content(volume)? {
        Some(EXT) => Ok(None),
        other => Ok(Some(other.unwrap_or("no known file system"))),
    }
}

/// Returns what people call the contents of a volume, or `None` for those that have no known mark.
///
/// # Errors
///
/// The failure of the disk.
pub fn known_content(volume: &dyn BlockRead) -> Result<Option<&'static str>, CommandError> {
    let starts = |offset: u64, magic: &[u8]| -> Result<bool, CommandError> {
        let mut bytes = vec![0; magic.len()];
        let end = offset.checked_add(u64::try_from(magic.len()).unwrap_or(u64::MAX));
        if end.is_none_or(|end| end > volume.size()) {
            return Ok(false);
        }
        volume.read_exact_at(&mut bytes, offset)?;
        Ok(bytes == magic)
    };
    for (offset, magic, name) in MAGICS {
        if starts(*offset, magic)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The names of contents that are more than names.
pub const EXT: &str = "ext4";
/// See [`EXT`].
pub const XFS: &str = "XFS";
/// See [`EXT`].
pub const BTRFS: &str = "btrfs";
/// See [`EXT`].
pub const LVM: &str = "LVM";

const MAGICS: &[(u64, &[u8], &str)] = &[
    (0, b"XFSB", XFS),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (54, b"FAT1", "FAT"),
    (82, b"FAT32", "FAT"),
    (3, b"NTFS    ", "NTFS"),
    (0, b"hsqs", "squashfs"),
    (512, b"LABELONE", LVM),
    (4086, b"SWAPSPACE2", "swap space"),
    (32769, b"CD001", "ISO 9660"),
    (65600, b"_BHRfS_M", BTRFS),
    (1080, &[0x53, 0xEF], EXT),
];
