use serde::{Serialize, Serializer};

use super::{Error, Guid, gpt, mbr};
use crate::block::{BlockRead, ByteRange};

/// The partition table of a disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    /// Its kind.
    pub kind: TableKind,
    /// Bytes of a sector, 512 or 4096.
    pub sector_size: u64,
    /// The disk's GUID, or an MBR's signature as eight hexadecimal digits.
    pub disk_id: String,
    /// The partitions by ascending number; an extended one is among them.
    pub partitions: Vec<Partition>,
    /// What is wrong with the table although it can be read, as a sentence each.
    pub notes: Vec<String>,
}

/// The kind of a partition table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// A GUID partition table.
    Gpt,
    /// A master boot record.
    Mbr,
}

/// A partition of a disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Partition {
    /// Its number: the entry of a GPT, 1 to 4 for primary and from 5 for logical ones of an MBR.
    pub number: u32,
    /// Where it is; it lies inside the disk.
    pub range: ByteRange,
    /// What it is for.
    pub partition_type: PartitionType,
    /// The text that Linux calls PARTUUID, lower case.
    pub part_uuid: String,
    /// Its name; empty for an MBR's.
    pub name: String,
    /// The attribute bits of a GPT's; 0 for an MBR's.
    pub attributes: u64,
    /// Whether an MBR marks it as active, or a GPT as bootable by a legacy BIOS.
    pub bootable: bool,
}

/// What a partition is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PartitionType {
    /// The type GUID of a GPT's.
    Gpt(Guid),
    /// The type byte of an MBR's.
    Mbr(u8),
}

/// What has become of a partition that was grown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Growth {
    /// Where it was.
    pub old: ByteRange,
    /// Where it is: the same start.
    pub new: ByteRange,
}

impl Table {
    /// Reads the table of `disk`, or returns `None` when there is none.
    ///
    /// A GPT is looked for with sectors of 512 and of 4096 bytes; a damaged primary is replaced by the backup at the end, with a
    /// note. A boot sector of a file system without partitions is no table.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when there is a table but no sound copy of it, or partitions overlap or leave the disk;
    /// [`Error::Unsupported`] for sizes of entries and headers that nobody uses.
    pub fn read(disk: &(impl BlockRead + ?Sized)) -> Result<Option<Self>, Error> {
        let table = match gpt::read(disk)? {
            Some(table) => Some(table),
            None => mbr::read(disk)?,
        };
        table.map(|table| table.checked(disk.size())).transpose()
    }

    /// Returns the partition `number`.
    #[must_use]
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }

    fn checked(mut self, size: u64) -> Result<Self, Error> {
        self.partitions.sort_by_key(|partition| partition.number);
        for partition in &self.partitions {
            if partition.range.end() > size || partition.range.is_empty() {
                return Err(Error::corrupt(format!("partition {}", partition.number), "must lie inside the disk"));
            }
        }
        let mut data: Vec<_> = self.partitions.iter().filter(|partition| !partition.is_extended()).collect();
        data.sort_by_key(|partition| partition.range.start());
        for pair in data.windows(2) {
            if let [first, second] = pair
                && first.range.end() > second.range.start()
            {
                return Err(Error::corrupt(format!("partitions {} and {}", first.number, second.number), "must not overlap"));
            }
        }
        Ok(self)
    }
}

impl Partition {
    /// Returns whether it only holds logical partitions.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        matches!(self.partition_type, PartitionType::Mbr(0x05 | 0x0F | 0x85))
    }
}

impl std::fmt::Display for PartitionType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gpt(guid) => guid.fmt(f),
            Self::Mbr(byte) => write!(f, "0x{byte:02x}"),
        }
    }
}

impl Serialize for PartitionType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
