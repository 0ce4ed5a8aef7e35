use std::sync::Arc;

use imgcore::fs::FileSystem;
use serde::Serialize;

use super::VolumeId;

/// A partition or logical volume of the guest's disk, or the whole disk when it has none, and what it holds.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Which one.
    pub partition: VolumeId,
    /// What the guest can call it by.
    pub names: VolumeNames,
    /// What it holds.
    pub content: VolumeContent,
}

/// The names by which a guest's fstab can mean a volume.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct VolumeNames {
    /// The file system's UUID, or the serial number of a FAT file system as in `1A2B-3C4D`.
    pub uuid: Option<String>,
    /// The file system's label.
    pub label: Option<String>,
    /// The partition's unique GUID, or `DISKID-NN` on an MBR disk.
    pub part_uuid: Option<String>,
    /// The partition's name in a GPT.
    pub part_label: Option<String>,
}

/// What a volume holds.
#[derive(Clone, Debug)]
pub enum VolumeContent {
    /// Files that can be read and planned for.
    Files(Arc<dyn FileSystem>),
    /// Anything else; the text says what and why not, as in `vfat is not supported`.
    Other(String),
}

impl Volume {
    /// Returns whether an fstab's first field, as in `LABEL=root` or `/dev/vda1`, means this volume.
    pub(super) fn is(&self, spec: &str) -> bool {
        let (tag, value) = match spec.split_once('=') {
            Some((tag, value)) if !spec.starts_with('/') => (tag, value.trim_matches('"').to_owned()),
            _ => match device_name(spec) {
                Some(Device::Number(number)) => return self.partition == VolumeId::Partition(number),
                Some(Device::Tag(tag, value)) => (tag, value),
                None => return self.partition.is_device(spec),
            },
        };
        if value.is_empty() {
            return false;
        }
        let same = |own: &Option<String>| own.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(&value));
        let equal = |own: &Option<String>| own.as_deref() == Some(value.as_str());
        match tag {
            "UUID" => same(&self.names.uuid),
            "PARTUUID" => same(&self.names.part_uuid),
            "LABEL" => equal(&self.names.label),
            "PARTLABEL" => equal(&self.names.part_label),
            _ => false,
        }
    }
}

/// What a path below `/dev` means on the disk that the guest starts from.
enum Device {
    /// The partition of this number, 0 for the whole disk.
    Number(u32),
    /// The tag and value that udev made the link from.
    Tag(&'static str, String),
}

fn device_name(spec: &str) -> Option<Device> {
    let name = spec.strip_prefix("/dev/")?;
    for (folder, tag) in [
        ("disk/by-uuid/", "UUID"),
        ("disk/by-label/", "LABEL"),
        ("disk/by-partuuid/", "PARTUUID"),
        ("disk/by-partlabel/", "PARTLABEL"),
    ] {
        if let Some(value) = name.strip_prefix(folder) {
            return Some(Device::Tag(tag, udev_unescaped(value)));
        }
    }
    // The first disk of each driver; a number after the letter `p` where the disk's name ends in a digit.
    let number = ["vda", "sda", "xvda", "hda"].iter().find_map(|disk| name.strip_prefix(disk)).or_else(|| {
        ["nvme0n1", "mmcblk0"]
            .iter()
            .find_map(|disk| name.strip_prefix(disk))
            .map(|rest| rest.strip_prefix('p').unwrap_or(rest))
    })?;
    if number.is_empty() { Some(Device::Number(0)) } else { number.parse().ok().map(Device::Number) }
}

/// Returns the value that udev wrote as `\x20` for each byte that it does not allow in a file name.
fn udev_unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', b'x', high, low, ..] => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Volume, VolumeContent, VolumeNames};

    #[test]
    fn a_volume_answers_to_every_name_that_an_fstab_may_use() {
        let volume = Volume {
            partition: 1.into(),
            names: VolumeNames {
                uuid: Some("0a1b2c3d-0000-4000-8000-000000000001".to_owned()),
                label: Some("cloud img".to_owned()),
                part_uuid: Some("B921B045-1DF0-41C3-AF44-4C6F280D3FAE".to_owned()),
                part_label: Some("root".to_owned()),
            },
            content: VolumeContent::Other("not looked at".to_owned()),
        };
        for spec in [
            "UUID=0A1B2C3D-0000-4000-8000-000000000001",
            "UUID=\"0a1b2c3d-0000-4000-8000-000000000001\"",
            "LABEL=cloud img",
            "PARTUUID=b921b045-1df0-41c3-af44-4c6f280d3fae",
            "PARTLABEL=root",
            "/dev/vda1",
            "/dev/sda1",
            "/dev/nvme0n1p1",
            "/dev/mmcblk0p1",
            "/dev/disk/by-label/cloud\\x20img",
            "/dev/disk/by-partlabel/root",
        ] {
            assert!(volume.is(spec), "{spec}");
        }
        for spec in
            ["LABEL=Cloud img", "/dev/vda", "/dev/vda2", "/dev/vdb1", "/dev/mapper/root", "tmpfs", "UUID=", "", "/dev/vda1x"]
        {
            assert!(!volume.is(spec), "{spec}");
        }
    }
}
