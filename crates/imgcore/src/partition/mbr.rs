//! Master boot records, and the chain of records in an extended partition.

use mbrman::{CHS, MBRHeader, MBRPartitionEntry};

use super::{Error, Growth, Partition, PartitionType, Table, TableKind};
use crate::block::{BlockRead, BlockWrite, ByteRange, Cursor, MemoryDisk};

/// Reads the MBR of `disk`, or returns `None` when the first sector is none.
pub(super) fn read(disk: &(impl BlockRead + ?Sized)) -> Result<Option<Table>, Error> {
    let Some(header) = header_at(disk, 0)? else { return Ok(None) };
    if !is_table(disk, &header)? {
        return Ok(None);
    }
    let signature = u32::from_le_bytes(header.disk_signature);
    let mut partitions = Vec::new();
    for (number, entry) in (1_u32..).zip(header.iter().map(|(_, entry)| entry)).filter(|(_, entry)| entry.is_used()) {
        partitions.push(partition(number, entry, 0, signature));
        if entry.is_extended() && partitions.iter().filter(|other| other.is_extended()).count() == 1 {
            read_logical(disk, entry, signature, &mut partitions)?;
        }
    }
    Ok(Some(Table {
        kind: TableKind::Mbr,
        sector_size: SECTOR,
        disk_id: format!("{signature:08x}"),
        partitions,
        notes: Vec::new(),
    }))
}

pub(super) fn grow(disk: &mut dyn BlockWrite, number: u32) -> Result<Growth, Error> {
    if number > 4 {
        return Err(Error::Unsupported("growing a logical partition of an MBR".to_owned()));
    }
    let mut header = header_at(disk, 0)?.ok_or(Error::NoTable)?;
    let index = usize::try_from(number).unwrap_or_default();
    let entry = header.get(index).filter(|entry| entry.is_used()).ok_or(Error::NoPartition(number))?;
    if entry.is_extended() {
        return Err(Error::Unsupported("growing an extended partition of an MBR".to_owned()));
    }
    let start = u64::from(entry.starting_lba);
    let old_end = start.saturating_add(u64::from(entry.sectors));
    let sectors = disk.size().checked_div(SECTOR).unwrap_or_default();
    let next = header.iter().map(|(_, other)| other).filter(|other| other.is_used() && u64::from(other.starting_lba) > start);
    let limit = next.map(|other| u64::from(other.starting_lba)).min().unwrap_or(sectors).min(sectors);
    // The number of sectors has 32 bits: 2 TiB less one sector.
    let new_end = limit.min(start.saturating_add(u64::from(u32::MAX))).max(old_end);
    let growth = Growth { old: bytes(start, old_end), new: bytes(start, new_end) };
    if new_end != old_end
        && let Some(entry) = header.get_mut(index)
    {
        entry.sectors = u32::try_from(new_end.saturating_sub(start)).unwrap_or(u32::MAX);
        // The address that stands for "beyond what CHS can say"; Linux and every BIOS in use go by the sector numbers.
        entry.last_chs = CHS::new(1023, 254, 63);
        let mut sector = Cursor::new(MemoryDisk::new(vec![0; 512]));
        header.write_into(&mut sector).map_err(|error| Error::Unsupported(format!("MBR: {error}")))?;
        disk.write_all_at(sector.into_inner().as_bytes(), 0)?;
        disk.flush()?;
    }
    Ok(growth)
}

/// Follows the chain of records in an extended partition.
fn read_logical(
    disk: &(impl BlockRead + ?Sized),
    extended: &MBRPartitionEntry,
    signature: u32,
    partitions: &mut Vec<Partition>,
) -> Result<(), Error> {
    let base = u64::from(extended.starting_lba);
    let mut record = base;
    for number in FIRST_LOGICAL..FIRST_LOGICAL.saturating_add(LOGICAL_MAX) {
        let place = format!("extended boot record at sector {record}");
        // An extended partition may be empty, and then need not have a record.
        let Some(header) = header_at(disk, record)? else {
            return if record == base { Ok(()) } else { Err(Error::corrupt(place, "must have the signature 55 AA")) };
        };
        if header.partition_1.is_used() {
            partitions.push(partition(number, &header.partition_1, record, signature));
        }
        let next = u64::from(header.partition_2.starting_lba);
        if header.partition_2.is_unused() || next == 0 {
            return Ok(());
        }
        let next = base.saturating_add(next);
        if next <= record {
            return Err(Error::corrupt(place, "the next record must come behind it"));
        }
        record = next;
    }
    Err(Error::Unsupported(format!("more than {LOGICAL_MAX} logical partitions")))
}

/// Decodes the record in the sector `lba`, or returns `None` when it is none or outside the disk.
fn header_at(disk: &(impl BlockRead + ?Sized), lba: u64) -> Result<Option<MBRHeader>, Error> {
    let mut sector = vec![0; 512];
    let offset = lba.saturating_mul(SECTOR);
    if offset.checked_add(SECTOR).is_none_or(|end| end > disk.size()) {
        return Ok(None);
    }
    disk.read_exact_at(&mut sector, offset)?;
    Ok(MBRHeader::read_from(&mut Cursor::new(MemoryDisk::new(sector))).ok())
}

/// Returns whether the first sector is a table, and not the boot sector of a file system, which has the same signature.
fn is_table(disk: &(impl BlockRead + ?Sized), header: &MBRHeader) -> Result<bool, Error> {
    let mut sector = [0; 512];
    disk.read_exact_at(&mut sector, 0)?;
    // FAT and NTFS name themselves where a boot record has code.
    let names: [(usize, &[u8]); 4] = [(3, b"NTFS    "), (54, b"FAT"), (82, b"FAT32"), (3, b"EXFAT   ")];
    let is_boot_sector = names.iter().any(|(at, name)| sector.get(*at..).is_some_and(|rest| rest.starts_with(name)));
    let plausible = header.iter().all(|(_, entry)| entry.is_unused() || (entry.starting_lba > 0 && entry.sectors > 0));
    Ok(plausible && !(is_boot_sector && header.iter().all(|(_, entry)| entry.is_unused())))
}

fn partition(number: u32, entry: &MBRPartitionEntry, base: u64, signature: u32) -> Partition {
    let start = base.saturating_add(u64::from(entry.starting_lba));
    Partition {
        number,
        range: bytes(start, start.saturating_add(u64::from(entry.sectors))),
        partition_type: PartitionType::Mbr(entry.sys),
        part_uuid: format!("{signature:08x}-{number:02x}"),
        name: String::new(),
        attributes: 0,
        bootable: entry.is_active(),
    }
}

fn bytes(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start.saturating_mul(SECTOR), end.saturating_mul(SECTOR)).unwrap_or_default()
}

/// Bytes of a sector: an MBR with others is not in use on virtual disks.
const SECTOR: u64 = 512;
/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;
/// The most logical partitions that are followed; Linux stops at 255 minors.
const LOGICAL_MAX: u32 = 251;
