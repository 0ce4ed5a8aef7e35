//! What the partitions and logical volumes of a disk hold.

use std::sync::Arc;

use imgcore::block::{BlockRead, ByteRange, Joined};
use imgcore::fs::ext4::Ext4;
use imgcore::image::Disk;
use imgcore::partition::Partition;
use seed::guest::{Volume, VolumeContent, VolumeId, VolumeNames};

use crate::attached::{Attached, Kind, Target, expect, probe};
use crate::context::Context;
use crate::error::CommandError;
use crate::layout::Layout;

/// Returns what each volume of `disk` holds: partitions, logical volumes, or the disk when it has no table.
///
/// # Errors
///
/// The failure of the disk; contents that cannot be read are an [`VolumeContent::Other`].
pub fn volumes(disk: &Arc<Disk>, layout: &Layout) -> Result<Vec<Volume>, CommandError> {
    let mut all = Vec::new();
    for (id, place) in layout.volumes() {
        let names = match &id {
            VolumeId::Partition(number) => layout.partition(*number).map(names).unwrap_or_default(),
            VolumeId::Logical { .. } => VolumeNames::default(),
        };
        all.push(volume(disk, id, &place, names)?);
    }
    let other = |partition, reason| Volume { partition, names: VolumeNames::default(), content: VolumeContent::Other(reason) };
    for (id, logical) in layout.logical() {
        if let Err(reason) = &logical.place {
            all.push(other(id, format!("it is not used: {reason}")));
        }
    }
    for physical in &layout.lvm.physical {
        if let Some(reason) = &physical.obstacle {
            all.push(other(physical.partition.into(), format!("a physical volume of LVM, which is not used: {reason}")));
        }
    }
    Ok(all)
}

fn names(partition: &Partition) -> VolumeNames {
    let part_label = Some(partition.name.clone()).filter(|name| !name.is_empty());
    VolumeNames { part_uuid: Some(partition.part_uuid.clone()), part_label, ..VolumeNames::default() }
}

fn volume(disk: &Arc<Disk>, partition: VolumeId, place: &[ByteRange], mut names: VolumeNames) -> Result<Volume, CommandError> {
    let window = Joined::open(Arc::clone(disk), place)?;
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

/// Has the kernel read what this program does not: XFS and btrfs, of the image behind `disk`.
///
/// What cannot be mounted says why. Returns the file systems that are mounted now.
///
/// # Errors
///
/// The failure of the disk, and of the process that serves it.
pub fn attach(
    context: &Context,
    volumes: &mut [Volume],
    (disk, layout): (&Disk, &Layout),
    attached: &mut Attached,
) -> Result<Vec<Target>, CommandError> {
    let mut targets = Vec::new();
    for volume in volumes.iter_mut().filter(|volume| matches!(volume.content, VolumeContent::Other(_))) {
        let Ok(window) = layout.open(disk, &volume.partition) else { continue };
        let Some(found) = probe(&window)?.filter(|found| found.kind != Kind::Ext) else { continue };
        volume.names.uuid = Some(uuid::Uuid::from_bytes(found.uuid).to_string());
        volume.names.label = found.label;
        if let Err(error) = expect(&window, &volume.partition) {
            volume.content = VolumeContent::Other(error.to_string());
            continue;
        }
        attached.add(context, &volume.partition)?;
        let found = attached.find(&volume.partition);
        volume.content = match found.and_then(|target| attached.mount(&target, false).map(|files| (target, files))) {
            Ok((target, files)) => {
                targets.push(target);
                VolumeContent::Files(Arc::new(files))
            }
            Err(error) => VolumeContent::Other(error.to_string()),
        };
    }
    Ok(targets)
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

/// Returns whether both ends of a disk or volume are zeros, where partition tables and file systems have their marks.
///
/// # Errors
///
/// The failure of the disk.
pub fn is_empty(volume: &dyn BlockRead) -> Result<bool, CommandError> {
    let len = END.min(volume.size());
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    for offset in [0, volume.size().saturating_sub(len)] {
        volume.read_exact_at(&mut bytes, offset)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Bytes of an end: VMFS begins at 1 MiB, what others call their superblock before that.
const END: u64 = 2 << 20;

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
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, &[0x1F, 0x8B, 8], "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, &[0x28, 0xB5, 0x2F, 0xFD], "zstd"),
    (0, b"BZh", "bzip2"),
];
