//! Writing a GPT whose disk or partition has grown, so that a power cut leaves a table.
//!
//! ```text
//! backup    entries and header at the new end                               flushed
//! primary   header: it has the new sizes, and fits the old entries          one sector, flushed
//!           the entry that grows                                            one sector, flushed
//! ```
//!
//! The header holds a checksum of the entries. Programs that find the two not to fit need not look for the backup, and Linux does
//! not: so the checksum stays the same, by four bytes of an unused entry in the sector that changes.

use gptman::GPTHeader;

use super::Error;
use crate::block::BlockWrite;

/// What a GPT becomes.
pub(super) struct Growing {
    pub(super) sector_size: u64,
    pub(super) backup_lba: u64,
    pub(super) last_usable: u64,
    /// The entry of the partition that grows, counted from 0.
    pub(super) index: usize,
    pub(super) ending_lba: u64,
}

impl Growing {
    /// Writes both copies of the table whose sound primary header is `header`.
    pub(super) fn write(&self, disk: &mut dyn BlockWrite, header: &GPTHeader) -> Result<(), Error> {
        let mut sector = [0; SECTOR];
        let place = header.primary_lba.saturating_mul(self.sector_size);
        disk.read_exact_at(&mut sector, place)?;
        let count = usize::try_from(header.number_of_partition_entries).unwrap_or_default();
        let mut old = vec![0; count.saturating_mul(ENTRY)];
        let array_place = header.partition_entry_lba.saturating_mul(self.sector_size);
        disk.read_exact_at(&mut old, array_place)?;
        let (array, is_same_sum) = self.array(&old)?;

        put(&mut sector, LAST_USABLE, &self.last_usable.to_le_bytes());
        put(&mut sector, ENTRIES_SUM, &(!continue_sum(!0, &array)).to_le_bytes());
        let mut backup = sector;
        put(&mut backup, OWN, &self.backup_lba.to_le_bytes());
        put(&mut backup, OTHER, &header.primary_lba.to_le_bytes());
        put(&mut backup, ENTRIES, &self.last_usable.saturating_add(1).to_le_bytes());
        put(&mut sector, OTHER, &self.backup_lba.to_le_bytes());
        disk.write_all_at(&array, self.last_usable.saturating_add(1).saturating_mul(self.sector_size))?;
        disk.write_all_at(&summed(backup, header), self.backup_lba.saturating_mul(self.sector_size))?;
        disk.flush()?;

        disk.write_all_at(&summed(sector, header), place)?;
        if is_same_sum {
            disk.flush()?;
        }
        for (at, (new, old)) in (0_u64..).zip(array.chunks(SECTOR).zip(old.chunks(SECTOR))) {
            if new != old {
                disk.write_all_at(new, array_place.saturating_add(at.saturating_mul(512)))?;
            }
        }
        Ok(disk.flush()?)
    }

    /// Returns the entries as they will be, and whether they have the checksum of the `old` ones.
    fn array(&self, old: &[u8]) -> Result<(Vec<u8>, bool), Error> {
        let mut array = old.to_vec();
        let start = self.index.saturating_mul(ENTRY);
        put(&mut array, start.saturating_add(ENDING), &self.ending_lba.to_le_bytes());
        if array == old {
            return Ok((array, true));
        }
        let sector = start.saturating_sub(start.checked_rem(SECTOR).unwrap_or_default());
        let entries = (sector..sector.saturating_add(SECTOR)).step_by(ENTRY);
        // Spec: "Partition Type GUID: … A value of zero defines that this partition entry is not being used."
        let unused = |at: &usize| array.get(*at..).and_then(|entry| entry.get(..16)).is_some_and(|kind| kind == [0; 16]);
        let Some(spare) = entries.filter(unused).max() else { return Ok((array, false)) };
        let at = spare.saturating_add(UNIQUE);
        let bytes = forged(&array, at, !continue_sum(!0, old));
        let bytes = bytes.ok_or_else(|| Error::corrupt("GPT entries", "must have 128 bytes each"))?;
        put(&mut array, at, &bytes);
        Ok((array, true))
    }
}

/// Returns the header in `sector` with its checksum.
fn summed(mut sector: [u8; SECTOR], header: &GPTHeader) -> [u8; SECTOR] {
    // Spec: "computed by setting this field to 0, and computing the 32-bit CRC for HeaderSize bytes."
    put(&mut sector, SUM, &[0; 4]);
    let size = usize::try_from(header.header_size).unwrap_or_default();
    let sum = !continue_sum(!0, sector.get(..size).unwrap_or_default());
    put(&mut sector, SUM, &sum.to_le_bytes());
    sector
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
        place.copy_from_slice(value);
    }
}

/// Returns the four bytes for `at` by which `bytes` get the checksum `sum`.
fn forged(bytes: &[u8], at: usize, sum: u32) -> Option<[u8; 4]> {
    let before = continue_sum(!0, bytes.get(..at)?);
    let behind = bytes.get(at.checked_add(4)?..)?;
    let after = behind.iter().rev().fold(!sum, |state, byte| (0..8).fold(state, |state, _| back(state)) ^ u32::from(*byte));
    Some((before ^ (0..32).fold(after, |state, _| back(state))).to_le_bytes())
}

/// Returns the state of a CRC-32 behind `bytes`; the checksum is its complement.
fn continue_sum(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| if state & 1 == 1 { state >> 1 ^ POLYNOMIAL } else { state >> 1 })
    })
}

/// Returns the state of a CRC-32 one bit before `state`.
fn back(state: u32) -> u32 {
    if state >> 31 == 1 { (state ^ POLYNOMIAL) << 1 | 1 } else { state << 1 }
}

const POLYNOMIAL: u32 = 0xEDB8_8320;
/// Bytes that are stored whole or not at all.
const SECTOR: usize = 512;
/// Bytes of an entry.
const ENTRY: usize = 128;
/// Where in an entry its GUID and its last sector are.
const UNIQUE: usize = 16;
const ENDING: usize = 40;
/// Where in a header its fields are: HeaderCRC32, MyLBA, AlternateLBA, LastUsableLBA, PartitionEntryLBA,
/// PartitionEntryArrayCRC32.
const SUM: usize = 16;
const OWN: usize = 24;
const OTHER: usize = 32;
const LAST_USABLE: usize = 48;
const ENTRIES: usize = 72;
const ENTRIES_SUM: usize = 88;

#[cfg(test)]
mod tests {
    use super::{continue_sum, forged};

    #[test]
    fn a_checksum_is_kept_by_four_bytes() {
        // The check value of CRC-32: that of the text "123456789".
        assert_eq!(!continue_sum(!0, b"123456789"), 0xCBF4_3926);
        let mut bytes: Vec<u8> = (0..=255).collect();
        for (at, wanted) in [(0, 0), (77, 0x1234_5678), (252, 0xFFFF_FFFF)] {
            let four = forged(&bytes, at, wanted).unwrap();
            bytes[at..at + 4].copy_from_slice(&four);
            assert_eq!(!continue_sum(!0, &bytes), wanted);
        }
        assert_eq!(forged(&bytes, 253, 0), None);
    }
}
