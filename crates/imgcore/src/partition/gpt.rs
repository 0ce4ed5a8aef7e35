//! GUID partition tables.
//!
//! # Spec
//!
//! UEFI 2.10, section 5.3.

mod write;

use std::io;

use gptman::{GPTHeader, GPTPartitionEntry};

use super::{Error, Growth, Guid, Partition, PartitionType, Table, TableKind};
use crate::block::{BlockRead, BlockWrite, ByteRange};

/// One sound copy of a GPT.
struct Copy {
    sector_size: u64,
    header: GPTHeader,
    entries: Vec<GPTPartitionEntry>,
}

/// Reads the GPT of `disk`, or returns `None` when neither copy has the signature.
pub(super) fn read(disk: &(impl BlockRead + ?Sized)) -> Result<Option<Table>, Error> {
    for sector_size in SECTOR_SIZES {
        let sectors = disk.size().checked_div(sector_size).unwrap_or_default();
        if sectors < 3 {
            continue;
        }
        let last = sectors.saturating_sub(1);
        match read_copy(disk, sector_size, 1) {
            Ok(Some(primary)) => {
                let mut table = primary.table();
                if primary.header.backup_lba != last {
                    table.notes.push("the backup header is not at the end of the disk".to_owned());
                } else if !matches!(read_copy(disk, sector_size, last), Ok(Some(_))) {
                    table.notes.push("the backup header is missing or damaged".to_owned());
                }
                return Ok(Some(table));
            }
            Ok(None) if !is_protective(disk)? => {}
            damaged => match read_copy(disk, sector_size, last) {
                Ok(Some(backup)) => {
                    let mut table = backup.table();
                    table.notes.push("the primary header is damaged; this is what the backup says".to_owned());
                    return Ok(Some(table));
                }
                _ => {
                    damaged?;
                }
            },
        }
    }
    if is_protective(disk)? {
        return Err(Error::corrupt("protective MBR", "there must be a GPT behind it"));
    }
    Ok(None)
}

pub(super) fn grow(disk: &mut dyn BlockWrite, number: u32) -> Result<Growth, Error> {
    let copy = primary(disk)?;
    if mbr_types(disk)?.iter().any(|kind| ![0, PROTECTIVE].contains(kind)) {
        return Err(Error::Unsupported("a GPT beside an MBR with partitions of its own".to_owned()));
    }
    let sectors = disk.size().checked_div(copy.sector_size).unwrap_or_default();
    let array = copy.array_sectors();
    let last_usable = sectors.checked_sub(array.saturating_add(2)).ok_or_else(|| too_small(&copy.entries))?;
    if copy.entries.iter().any(|entry| entry.is_used() && entry.ending_lba > last_usable) {
        return Err(too_small(&copy.entries));
    }
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1)).ok_or(Error::NoPartition(number))?;
    let entry = copy.entries.get(index).filter(|entry| entry.is_used());
    let entry = entry.ok_or(Error::NoPartition(number))?.clone();
    let next = copy.entries.iter().filter(|other| other.is_used() && other.starting_lba > entry.starting_lba);
    let limit = next.map(|other| other.starting_lba.saturating_sub(1)).min().unwrap_or(last_usable).min(last_usable);
    let ending_lba = limit.max(entry.ending_lba);
    let old = copy.range(&entry);
    let new = copy.range(&GPTPartitionEntry { ending_lba, ..entry });
    let backup_lba = sectors.saturating_sub(1);
    let fits = old == new && copy.header.backup_lba == backup_lba && copy.header.last_usable_lba == last_usable;
    if !fits || !matches!(read_copy(disk, copy.sector_size, backup_lba), Ok(Some(_))) {
        write::Growing { sector_size: copy.sector_size, backup_lba, last_usable, index, ending_lba }
            .write(disk, &copy.header)?;
    }
    cover(disk, sectors)?;
    Ok(Growth { old, new })
}

/// Makes the protective MBR's entry cover a disk of `sectors` sectors.
fn cover(disk: &mut dyn BlockWrite, sectors: u64) -> Result<(), Error> {
    let mut sector = [0; 512];
    disk.read_exact_at(&mut sector, 0)?;
    // Spec: "Size in LBA: the size of the disk minus one. Set to 0xFFFFFFFF if the size of the disk is too large"
    let size = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX).to_le_bytes();
    for (entry, at) in sector.get(446..510).unwrap_or_default().chunks_exact(16).zip([458_u64, 474, 490, 506]) {
        let is_protective = entry.get(4) == Some(&PROTECTIVE) && entry.get(8..12) == Some(&1_u32.to_le_bytes()[..]);
        if is_protective && entry.get(12..16) != Some(&size[..]) {
            disk.write_all_at(&size, at)?;
            disk.flush()?;
        }
    }
    Ok(())
}

/// Returns the sound primary copy.
fn primary(disk: &dyn BlockWrite) -> Result<Copy, Error> {
    let mut failure = Error::NoTable;
    for sector_size in SECTOR_SIZES {
        match read_copy(disk, sector_size, 1) {
            Ok(Some(copy)) => return Ok(copy),
            Ok(None) => {}
            Err(error) => failure = error,
        }
    }
    match failure {
        Error::NoTable => Err(Error::corrupt("GPT header at sector 1", "must be there: only the backup is")),
        error => Err(error),
    }
}

/// Reads the copy of the GPT whose header is at sector `lba`, or returns `None` when there is no signature.
fn read_copy(disk: &(impl BlockRead + ?Sized), sector_size: u64, lba: u64) -> Result<Option<Copy>, Error> {
    let place = || format!("GPT header at sector {lba}");
    let sectors = disk.size().checked_div(sector_size).unwrap_or_default();
    let Some(offset) = lba.checked_mul(sector_size).filter(|_| lba < sectors) else { return Ok(None) };
    let mut sector = [0; 512];
    disk.read_exact_at(&mut sector, offset)?;
    let header = match GPTHeader::read_from(&mut io::Cursor::new(sector)) {
        Ok(header) => header,
        Err(gptman::Error::InvalidSignature) => return Ok(None),
        // Spec: "HeaderSize must be greater than or equal to 92"; larger ones are allowed, and not known to exist.
        Err(error @ (gptman::Error::InvalidHeaderSize | gptman::Error::InvalidRevision)) => {
            return Err(Error::Unsupported(format!("{}: {error}", place())));
        }
        Err(error) => return Err(Error::corrupt(place(), error.to_string())),
    };
    check(&header, lba, sectors, sector_size)?;
    let entries = read_entries(disk, &header, sector_size)?
        .map_err(|error| Error::corrupt(format!("GPT entries of the header at sector {lba}"), error.to_string()))?;
    for (entry, number) in entries.iter().zip(1_u32..).filter(|(entry, _)| entry.is_used()) {
        let inside = header.first_usable_lba <= entry.starting_lba && entry.ending_lba <= header.last_usable_lba;
        // Spec: "StartingLBA … EndingLBA": both inside the usable space.
        if !inside || entry.starting_lba > entry.ending_lba {
            return Err(Error::corrupt(format!("GPT entry {number}"), "must lie between the first and last usable sector"));
        }
    }
    Ok(Some(Copy { sector_size, header, entries }))
}

/// Reads the entries of a checked header at once: `gptman` reads them one by one.
fn read_entries(
    disk: &(impl BlockRead + ?Sized),
    header: &GPTHeader,
    sector_size: u64,
) -> Result<gptman::Result<Vec<GPTPartitionEntry>>, Error> {
    let len = usize::try_from(header.number_of_partition_entries).unwrap_or(usize::MAX).saturating_mul(128);
    let mut bytes = vec![0; len];
    disk.read_exact_at(&mut bytes, header.partition_entry_lba.saturating_mul(sector_size))?;
    // Of each entry it takes as many bytes as its own value has in memory, more than are stored.
    bytes.resize(len.saturating_add(size_of::<GPTPartitionEntry>()), 0);
    let mut alone = header.clone();
    alone.partition_entry_lba = 0;
    Ok(alone.read_partitions(&mut io::Cursor::new(bytes), sector_size))
}

/// Checks what leads from a header to its entries, before it is followed.
fn check(header: &GPTHeader, lba: u64, sectors: u64, sector_size: u64) -> Result<(), Error> {
    let place = format!("GPT header at sector {lba}");
    // Spec: "SizeOfPartitionEntry … must be set to a value of 128 x 2^n"; nobody uses another n than 0.
    if header.size_of_partition_entry != 128 {
        return Err(Error::Unsupported(format!("{place}: entries of {} bytes", header.size_of_partition_entry)));
    }
    if header.number_of_partition_entries == 0 || header.number_of_partition_entries > ENTRIES_MAX {
        return Err(Error::Unsupported(format!("{place}: {} entries", header.number_of_partition_entries)));
    }
    // Spec: "MyLBA: the LBA that contains this data structure"
    if header.primary_lba != lba {
        return Err(Error::corrupt(place, "MyLBA must be the header's own sector"));
    }
    let array = u64::from(header.number_of_partition_entries).saturating_mul(128).div_ceil(sector_size);
    let end = header.partition_entry_lba.checked_add(array);
    if header.partition_entry_lba < 2 || end.is_none_or(|end| end > sectors) {
        return Err(Error::corrupt(place, "the entries must lie inside the disk"));
    }
    if header.first_usable_lba > header.last_usable_lba || header.last_usable_lba >= u64::MAX / 8192 {
        return Err(Error::corrupt(place, "the first usable sector must come before the last"));
    }
    Ok(())
}

impl Copy {
    fn array_sectors(&self) -> u64 {
        u64::from(self.header.number_of_partition_entries).saturating_mul(128).div_ceil(self.sector_size)
    }

    fn range(&self, entry: &GPTPartitionEntry) -> ByteRange {
        let start = entry.starting_lba.saturating_mul(self.sector_size);
        ByteRange::new(start, entry.ending_lba.saturating_add(1).saturating_mul(self.sector_size)).unwrap_or_default()
    }

    fn table(&self) -> Table {
        let used = self.entries.iter().zip(1_u32..).filter(|(entry, _)| entry.is_used());
        let partitions = used.map(|(entry, number)| Partition {
            number,
            range: self.range(entry),
            partition_type: PartitionType::Gpt(Guid(entry.partition_type_guid)),
            part_uuid: Guid(entry.unique_partition_guid).to_string().to_lowercase(),
            name: entry.partition_name.as_str().to_owned(),
            attributes: entry.attribute_bits,
            // Spec: attribute bit 2, "Legacy BIOS Bootable"
            bootable: entry.attribute_bits & 4 != 0,
        });
        Table {
            kind: TableKind::Gpt,
            sector_size: self.sector_size,
            disk_id: Guid(self.header.disk_guid).to_string(),
            partitions: partitions.collect(),
            notes: Vec::new(),
        }
    }
}

/// Returns whether the first sector says that a GPT protects itself with it.
fn is_protective(disk: &(impl BlockRead + ?Sized)) -> Result<bool, Error> {
    Ok(mbr_types(disk)?.contains(&PROTECTIVE))
}

/// Returns the types of the four partitions in the first sector, zeros when it is no MBR.
fn mbr_types(disk: &(impl BlockRead + ?Sized)) -> Result<[u8; 4], Error> {
    let mut sector = [0; 512];
    if disk.size() >= 512 {
        disk.read_exact_at(&mut sector, 0)?;
    }
    let mut types = [0; 4];
    if sector.get(510..) == Some(&[0x55, 0xAA]) {
        let entries = sector.get(446..510).unwrap_or_default().chunks_exact(16);
        for (kind, entry) in types.iter_mut().zip(entries) {
            *kind = entry.get(4).copied().unwrap_or_default();
        }
    }
    Ok(types)
}

fn too_small(entries: &[GPTPartitionEntry]) -> Error {
    let last = entries.iter().filter(|entry| entry.is_used()).map(|entry| entry.ending_lba).max().unwrap_or_default();
    Error::corrupt("disk", format!("must have room for the GPT's backup behind sector {last}, the last of a partition"))
}

/// Sizes of sectors that are looked for, in bytes.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
/// The type of the MBR partition that covers a disk with a GPT.
const PROTECTIVE: u8 = 0xEE;
/// The most entries that are read: eight times the usual number, and 128 KiB.
const ENTRIES_MAX: u32 = 1024;
