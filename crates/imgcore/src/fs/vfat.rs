//! FAT12, FAT16 and FAT32: an empty file system with a label.
//!
//! ```text
//! FAT12, FAT16  | boot sector | FAT | FAT | root folder | clusters ... |
//! FAT32         | boot sector | FSInfo | ... | copy of both | ... | FAT | FAT | cluster 2: root folder | clusters ... |
//! ```
//!
//! Spec: Microsoft, "FAT: General Overview of On-Disk Format", version 1.03.

use super::{Error, Refusal};
use crate::block::{BlockWrite, ByteRange, Hole};

/// Makes an empty FAT file system of all of `disk`, labeled unless `label` is empty, and returns its bytes.
///
/// As in mkfs.vfat, it is FAT32 from 512 MiB on. What is written is the head and the two tables, one block each where the disk
/// reads as zeros.
///
/// # Errors
///
/// [`Error::Refused`] when `disk` has less than 64 KiB or more than 2 TiB, or the label is none; nothing has been written then.
/// Otherwise the failure of the device.
pub fn create<D: BlockWrite>(mut disk: D, label: &str, serial: u32) -> Result<u64, Error> {
    let label = stored_label(label)?;
    let shape = Shape::fit(disk.size())?;
    let bytes = |sectors: u32| u64::from(sectors).saturating_mul(SECTOR);
    let root_end = shape.root.saturating_add(if shape.width == Width::Fat32 { shape.per_cluster } else { ROOT_SECTORS });
    // The marks of other file systems lie before this.
    let head = bytes(root_end).max(HEAD).min(disk.size());
    disk.write_zeroes_at(ByteRange::new(0, head).unwrap_or_default(), Hole::Allow)?;
    let boot = shape.boot_sector(label.unwrap_or(*b"NO NAME    "), serial);
    disk.write_all_at(&boot, 0)?;
    if shape.width == Width::Fat32 {
        let info = shape.info_sector();
        disk.write_all_at(&info, bytes(INFO_SECTOR))?;
        disk.write_all_at(&boot, bytes(COPY_SECTOR))?;
        disk.write_all_at(&info, bytes(COPY_SECTOR.saturating_add(INFO_SECTOR)))?;
    }
    // Spec: "The first reserved cluster, FAT[0], contains the BPB_Media byte value in its low 8 bits, and all other bits are set to
    // 1. … The second reserved cluster, FAT[1], is set by FORMAT to the EOC mark."
    let first: &[u8] = match shape.width {
        Width::Fat12 => &[MEDIA, 0xFF, 0xFF],
        Width::Fat16 => &[MEDIA, 0xFF, 0xFF, 0xFF],
        // And the root folder is one cluster long.
        Width::Fat32 => &[MEDIA, 0xFF, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0x0F],
    };
    for table in [0, shape.table] {
        disk.write_all_at(first, bytes(shape.reserved.saturating_add(table)))?;
    }
    if let Some(label) = label {
        let mut entry = label.to_vec();
        entry.push(ATTR_VOLUME_ID);
        disk.write_all_at(&entry, bytes(shape.root))?;
        // Spec: "DIR_WrtDate": the first day that can be said, so that the same arguments give the same bytes.
        disk.write_all_at(&0x21_u16.to_le_bytes(), bytes(shape.root).saturating_add(24))?;
    }
    Ok(bytes(shape.sectors))
}

/// How many bits an entry of the table has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// What lies where, in sectors.
#[derive(Clone, Copy, Debug)]
struct Shape {
    width: Width,
    sectors: u32,
    per_cluster: u32,
    reserved: u32,
    /// The length of one table.
    table: u32,
    /// Where the root folder begins.
    root: u32,
    clusters: u32,
}

impl Shape {
    fn fit(size: u64) -> Result<Self, Error> {
        let sectors = u32::try_from(size / SECTOR).map_err(|_| refused("cannot be made: FAT has at most 2 TiB"))?;
        // Spec: the tables `DskTableFAT16` and `DskTableFAT32`.
        let (width, per_cluster) = match sectors {
            0..128 => return Err(refused(format!("cannot be made: {size} bytes are fewer than 64 KiB"))),
            128..=8400 => (Width::Fat12, 4),
            8401..=32680 => (Width::Fat16, 2),
            32681..=262_144 => (Width::Fat16, 4),
            262_145..=524_288 => (Width::Fat16, 8),
            524_289..1_048_576 => (Width::Fat16, 16),
            1_048_576..=16_777_216 => (Width::Fat32, 8),
            16_777_217..=33_554_432 => (Width::Fat32, 16),
            33_554_433..=67_108_864 => (Width::Fat32, 32),
            _ => (Width::Fat32, 64),
        };
        let (bits, reserved, root_sectors) = match width {
            Width::Fat12 => (12_u64, 1, ROOT_SECTORS),
            Width::Fat16 => (16, 1, ROOT_SECTORS),
            Width::Fat32 => (32, 32, 0),
        };
        let rest = sectors.saturating_sub(reserved).saturating_sub(root_sectors);
        // A little more than needed: the tables take some of these clusters.
        let most = u64::from(rest.checked_div(per_cluster).unwrap_or_default());
        let table = most.saturating_add(2).saturating_mul(bits).div_ceil(8 * SECTOR);
        let table = u32::try_from(table).unwrap_or(u32::MAX);
        let root = reserved.saturating_add(table.saturating_mul(2));
        let data = sectors.saturating_sub(root).saturating_sub(root_sectors);
        let clusters = data.checked_div(per_cluster).unwrap_or_default();
        // Spec: "If(CountofClusters < 4085) { /* Volume is FAT12 */ } else if(CountofClusters < 65525) { /* Volume is FAT16 */ }"
        let by_count = match clusters {
            0..4085 => Width::Fat12,
            4085..65525 => Width::Fat16,
            _ => Width::Fat32,
        };
        if by_count != width {
            return Err(refused(format!("cannot be made: {size} bytes lie between two kinds of FAT")));
        }
        Ok(Self { width, sectors, per_cluster, reserved, table, root, clusters })
    }

    /// Spec: "Boot Sector and BPB Structure".
    fn boot_sector(&self, label: [u8; 11], serial: u32) -> Vec<u8> {
        let wide = self.width == Width::Fat32;
        let low = |value: u32| u16::try_from(value).unwrap_or_default().to_le_bytes();
        let mut sector = Vec::with_capacity(512);
        sector.extend_from_slice(if wide { b"\xEB\x58\x90vmimg   " } else { b"\xEB\x3C\x90vmimg   " });
        sector.extend_from_slice(&512_u16.to_le_bytes());
        sector.push(self.per_cluster.to_le_bytes()[0]);
        sector.extend_from_slice(&low(self.reserved));
        sector.push(2);
        sector.extend_from_slice(&low(if wide { 0 } else { ROOT_SECTORS * 16 }));
        let small = if wide { 0 } else { u16::try_from(self.sectors).unwrap_or_default() };
        sector.extend_from_slice(&small.to_le_bytes());
        sector.push(MEDIA);
        sector.extend_from_slice(&low(if wide { 0 } else { self.table }));
        // Sectors of a track, heads: nobody asks any more.
        sector.extend_from_slice(&[63, 0, 255, 0, 0, 0, 0, 0]);
        sector.extend_from_slice(&if small == 0 { self.sectors } else { 0 }.to_le_bytes());
        if wide {
            sector.extend_from_slice(&self.table.to_le_bytes());
            sector.extend_from_slice(&[0; 4]);
            sector.extend_from_slice(&ROOT_CLUSTER.to_le_bytes());
            sector.extend_from_slice(&low(INFO_SECTOR));
            sector.extend_from_slice(&low(COPY_SECTOR));
            sector.extend_from_slice(&[0; 12]);
        }
        // Spec: "BS_BootSig": 0x29, "Extended boot signature", that the next three fields are there.
        sector.extend_from_slice(&[0x80, 0, 0x29]);
        sector.extend_from_slice(&serial.to_le_bytes());
        sector.extend_from_slice(&label);
        sector.extend_from_slice(match self.width {
            Width::Fat12 => b"FAT12   ",
            Width::Fat16 => b"FAT16   ",
            Width::Fat32 => b"FAT32   ",
        });
        sector.resize(510, 0);
        sector.extend_from_slice(&[0x55, 0xAA]);
        sector
    }

    /// Spec: "FAT32 FSInfo Sector Structure".
    fn info_sector(&self) -> Vec<u8> {
        let mut sector = b"RRaA".to_vec();
        sector.resize(484, 0);
        sector.extend_from_slice(b"rrAa");
        sector.extend_from_slice(&self.clusters.saturating_sub(1).to_le_bytes());
        sector.extend_from_slice(&ROOT_CLUSTER.to_le_bytes());
        sector.resize(510, 0);
        sector.extend_from_slice(&[0x55, 0xAA]);
        sector
    }
}

/// Returns a label as it is stored, `None` for an empty one. Lower case is kept, as mkfs.vfat keeps it.
fn stored_label(label: &str) -> Result<Option<[u8; 11]>, Error> {
    if label.is_empty() {
        return Ok(None);
    }
    let mut stored = [b' '; 11];
    // Spec: "The following characters are not legal in any bytes of DIR_Name".
    let is_legal = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !b"\"*+,./:;<=>?[\\]|".contains(&byte);
    let place = stored.get_mut(..label.len()).filter(|_| label.bytes().all(is_legal) && !label.starts_with(' '));
    let rule = "cannot be made: its label has at most 11 letters, digits and spaces";
    place.ok_or_else(|| refused(rule))?.copy_from_slice(label.as_bytes());
    Ok(Some(stored))
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Refused(Refusal { format: "vfat", reason: reason.into() })
}

const SECTOR: u64 = 512;
/// Spec: "BPB_Media": 0xF8, "fixed" media.
const MEDIA: u8 = 0xF8;
/// 512 entries of 32 bytes.
const ROOT_SECTORS: u32 = 32;
const ROOT_CLUSTER: u32 = 2;
/// Spec: "BPB_FSInfo": "Usually 1."
const INFO_SECTOR: u32 = 1;
/// Spec: "BPB_BkBootSec": "No value other than 6 is recommended."
const COPY_SECTOR: u32 = 6;
const ATTR_VOLUME_ID: u8 = 8;
/// Bytes at the start where the marks of other formats lie.
const HEAD: u64 = 132 << 10;
