//! Partition tables: read, and one partition grown after its disk has become larger.
//!
//! ```text
//! GPT   | protective MBR | header | entries | … partitions … | entries | header |      sectors of 512 or 4096 bytes
//! MBR   | boot code, 4 entries | … partitions, an extended one with a chain of logical ones … |
//! ```
//!
//! The bytes of a table are hostile: `gptman` and `mbrman` decode single structures, and everything that leads from one to the
//! next is checked here before it is followed.

mod error;
mod gpt;
mod guid;
mod mbr;
mod table;

pub use error::{Corrupt, Error};
pub use guid::Guid;
pub use table::{Growth, Partition, PartitionType, Table, TableKind};

use crate::block::BlockWrite;

/// Grows the partition `number` as far as the disk and the partition behind it allow, and fits the table to the size of the disk.
///
/// A GPT's backup header and entries move to the end, and the protective MBR covers the disk. Numbers, GUIDs, names, attributes,
/// boot code and all other partitions keep their bytes. A table that fits already is not written. After a power cut at any write,
/// the primary is the old table or the new one, as long as one of the four entries in the sector of the partition's is unused;
/// otherwise the backup is, which is written first.
///
/// # Errors
///
/// [`Error::NoTable`], [`Error::NoPartition`], [`Error::Corrupt`] also when the primary of a GPT is damaged,
/// [`Error::Unsupported`] for extended and logical partitions. Nothing is written then.
pub fn grow(disk: &mut dyn BlockWrite, number: u32) -> Result<Growth, Error> {
    match Table::read(disk)?.ok_or(Error::NoTable)?.kind {
        TableKind::Gpt => gpt::grow(disk, number),
        TableKind::Mbr => mbr::grow(disk, number),
    }
}
