use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which volume of a disk: a partition, or a logical volume of LVM. As text it is `2` or `debian/root`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum VolumeId {
    /// The partition of this number, 0 for a disk without a partition table.
    Partition(u32),
    /// A logical volume.
    Logical {
        /// The name of its volume group.
        group: String,
        /// Its own name.
        name: String,
    },
}

/// A text that is neither a number nor `GROUP/NAME`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a partition is a number, and a logical volume is GROUP/NAME")]
pub struct NoVolumeId;

impl VolumeId {
    /// Returns what messages call it, as in `partition 2`, `logical volume debian/root`, or `the disk` for one without partitions.
    #[must_use]
    pub fn described(&self) -> String {
        match self {
            Self::Partition(0) => "the disk".to_owned(),
            Self::Partition(number) => format!("partition {number}"),
            Self::Logical { .. } => format!("logical volume {self}"),
        }
    }

    /// Returns whether a path below `/dev` is that of the logical volume.
    pub(super) fn is_device(&self, path: &str) -> bool {
        let Self::Logical { group, name } = self else { return false };
        let doubled = |text: &str| text.replace('-', "--");
        // Spec: lvm(8), "VALID NAMES": device-mapper's names have a hyphen between group and name, and two for one that is in them.
        path.strip_prefix("/dev/mapper/").is_some_and(|found| found == format!("{}-{}", doubled(group), doubled(name)))
            || path.strip_prefix("/dev/").is_some_and(|found| found == self.to_string())
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(number) => number.fmt(f),
            Self::Logical { group, name } => write!(f, "{group}/{name}"),
        }
    }
}

impl FromStr for VolumeId {
    type Err = NoVolumeId;

    fn from_str(text: &str) -> Result<Self, NoVolumeId> {
        match text.split_once('/') {
            None => text.parse().map(Self::Partition).map_err(|_| NoVolumeId),
            Some((group, name)) if !group.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Logical { group: group.to_owned(), name: name.to_owned() })
            }
            Some(_) => Err(NoVolumeId),
        }
    }
}

impl From<u32> for VolumeId {
    fn from(number: u32) -> Self {
        Self::Partition(number)
    }
}

/// A number stays one.
impl Serialize for VolumeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Partition(number) => serializer.serialize_u32(*number),
            Self::Logical { .. } => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for VolumeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            Number(u32),
            Text(String),
        }
        match Stored::deserialize(deserializer)? {
            Stored::Number(number) => Ok(Self::Partition(number)),
            Stored::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VolumeId;

    #[test]
    fn what_is_written_is_read() {
        for text in ["0", "16", "debian/root", "vg-0/a.b+c"] {
            assert_eq!(text.parse::<VolumeId>().unwrap().to_string(), text);
        }
        for text in ["", "x", "-1", "/root", "vg/", "/dev/vg/root", "4294967296"] {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_logical_volume_answers_to_its_paths() {
        let root: VolumeId = "vg-0/my-root".parse().unwrap();
        assert!(root.is_device("/dev/vg-0/my-root") && root.is_device("/dev/mapper/vg--0-my--root"));
        for path in ["/dev/mapper/vg-0-my-root", "/dev/vg-0/my", "vg-0/my-root", "/dev/vda1"] {
            assert!(!root.is_device(path), "{path}");
        }
        assert!(!VolumeId::Partition(1).is_device("/dev/1"));
    }
}
