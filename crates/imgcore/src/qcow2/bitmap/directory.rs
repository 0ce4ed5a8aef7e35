//! The bitmap directory: what bitmaps there are.

use std::collections::BTreeSet;

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{AUTO, Bitmap, EXTRA_COMPATIBLE, IN_USE, MAX_DATA};
use crate::block::BlockRead;
use crate::qcow2::error::{Corrupt, Error, Unsupported};
use crate::qcow2::extension::Extension;
use crate::qcow2::feature;
use crate::qcow2::geometry::Geometry;
use crate::qcow2::header::Header;
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::raw::{RawBitmap, RawBitmaps};
use crate::qcow2::table::read_stored;

/// Where the directory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::qcow2) struct Place {
    pub(in crate::qcow2) offset: HostOffset,
    pub(in crate::qcow2) len: u64,
    pub(super) count: u32,
}

impl Place {
    /// Returns what the header says, or `None` where the extension is missing or out of date.
    ///
    /// Spec: "Bitmaps extension"
    pub(in crate::qcow2) fn find(header: &Header) -> Result<Option<Self>, Error> {
        let Some(extension) = header.extension(Extension::BITMAPS) else {
            // Spec: "It is an error if this bit is set without the bitmaps extension present." QEMU reads such an image
            // without bitmaps, and so is it here.
            return Ok(None);
        };
        // Spec: "If the bitmaps extension is present but this bit is unset, the bitmaps extension data must be considered
        // inconsistent."
        if header.autoclear & feature::BITMAPS == 0 {
            return Ok(None);
        }
        let corrupt = |rule| Corrupt::new("bitmaps extension", 0, rule);
        let raw = RawBitmaps::read_from_bytes(extension).map_err(|_| corrupt("it does not have 24 bytes"))?;
        let (offset, len, count) = (raw.bitmap_directory_offset.get(), raw.bitmap_directory_size.get(), raw.nb_bitmaps.get());
        // Spec: "The number of bitmaps contained in the image. Must be greater than or equal to 1."
        if count == 0 {
            return Err(corrupt("there are no bitmaps in it").into());
        }
        // Spec: "Reserved, must be zero."
        if raw.reserved.get() != 0 {
            return Err(corrupt("a reserved field is not zero").into());
        }
        // Spec: "Must be aligned to a cluster boundary."
        if !header.geometry.is_aligned(offset) || offset == 0 {
            return Err(corrupt("the directory's offset is not the start of a cluster").into());
        }
        if count > MAX_BITMAPS || len > MAX_DIRECTORY {
            return Err(Unsupported::TooLarge("bitmap directory", MAX_DIRECTORY).into());
        }
        Ok(Some(Self { offset: HostOffset(offset), len, count }))
    }

    /// Returns the extension that says so.
    pub(super) fn extension(self) -> Extension {
        let raw = RawBitmaps {
            nb_bitmaps: self.count.into(),
            reserved: 0.into(),
            bitmap_directory_size: self.len.into(),
            bitmap_directory_offset: self.offset.0.into(),
        };
        Extension { kind: Extension::BITMAPS, data: raw.as_bytes().to_vec() }
    }
}

/// Reads the directory; there are no bitmaps where the extension is missing or out of date.
pub(in crate::qcow2) fn read_all<S: BlockRead + ?Sized>(storage: &S, header: &Header) -> Result<Vec<Bitmap>, Error> {
    let Some(place) = Place::find(header)? else { return Ok(Vec::new()) };
    let mut bytes = vec![0; to_usize(place.len)];
    read_stored(storage, "bitmap directory", place.offset, &mut bytes)?;
    decode(&bytes, place, header)
}

/// Spec: "Bitmap directory"
fn decode(bytes: &[u8], place: Place, header: &Header) -> Result<Vec<Bitmap>, Error> {
    let corrupt = |offset: HostOffset, rule| Corrupt::new("bitmap directory", offset.0, rule);
    let mut bitmaps = Vec::new();
    let mut names = BTreeSet::new();
    let mut entries = 0_u64;
    let mut rest = bytes;
    for _ in 0..place.count {
        let at = place.offset.plus(to_u64(bytes.len().saturating_sub(rest.len())));
        let (bitmap, len) = decode_entry(rest, at, header.geometry).map_err(|rule| corrupt(at, rule))?;
        // Spec: "Must be unique among all bitmap names within the bitmaps extension."
        if !names.insert(bitmap.stored_name.clone()) {
            return Err(corrupt(at, "two bitmaps have one name").into());
        }
        // An outdated size is what a bitmap in use may have.
        if !bitmap.in_use
            && bitmap.is_usable()
            && Some(bitmap.table_entries) != bitmap.entries_for(header.size, header.geometry)
        {
            return Err(corrupt(at, "the size of a bitmap is not that of the disk").into());
        }
        entries = entries.saturating_add(bitmap.table_entries);
        bitmaps.push(bitmap);
        rest = rest.get(len..).unwrap_or_default();
    }
    // Spec: "It is the cumulative size of all (nb_bitmaps) bitmap directory entries."
    if !rest.is_empty() {
        return Err(corrupt(place.offset, "it is larger than its entries").into());
    }
    if entries > MAX_TABLES {
        return Err(Unsupported::TooLarge("bitmap tables", MAX_TABLES.saturating_mul(8)).into());
    }
    Ok(bitmaps)
}

/// Returns the entry that begins `bytes`, and its length.
fn decode_entry(bytes: &[u8], at: HostOffset, geometry: Geometry) -> Result<(Bitmap, usize), &'static str> {
    const LEAVES: &str = "an entry leaves the directory";
    let (raw, variable) = RawBitmap::read_from_prefix(bytes).map_err(|_| LEAVES)?;
    let extra_len = to_usize(u64::from(raw.extra_data_size.get()));
    let name_len = usize::from(raw.name_size.get());
    let (extra, behind) = variable.split_at_checked(extra_len).ok_or(LEAVES)?;
    let name = behind.get(..name_len).ok_or(LEAVES)?;
    let len = size_of::<RawBitmap>().saturating_add(extra_len).saturating_add(name_len);
    // Spec: "Padding to round up the bitmap directory entry size to the next multiple of 8." What it holds means nothing.
    bytes.get(len..len.next_multiple_of(8)).ok_or(LEAVES)?;
    let (table, table_entries, flags) =
        (raw.bitmap_table_offset.get(), u64::from(raw.bitmap_table_size.get()), raw.flags.get());
    let most = MAX_DATA.checked_div(geometry.cluster_size()).unwrap_or(0);
    let rules = [
        // Spec: "Size of the bitmap name. Must be non-zero. Note: QEMU currently doesn't support values greater than 1023."
        ((1..=MAX_NAME).contains(&name_len), "the length of a name is not 1 to 1023"),
        // Spec: "Bits 3 - 31 are reserved and must be 0."
        (flags & !(IN_USE | AUTO | EXTRA_COMPATIBLE) == 0, "a reserved flag is set"),
        // Spec: "Values 0, 2 - 255 are reserved."
        (raw.kind == DIRTY_TRACKING, "a type is not that of a dirty tracking bitmap"),
        // Spec: "QEMU currently supports only values 9 - 31."
        (GRANULARITY_BITS.contains(&raw.granularity_bits), "a granularity is not 2^9 to 2^31"),
        // Spec: "Must be aligned to a cluster boundary."
        (table != 0 && geometry.is_aligned(table), "the offset of a table is not the start of a cluster"),
        (table_entries > 0, "a table has no entries"),
        (table_entries <= most, "a bitmap is larger than 512 MiB"),
    ];
    if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
        return Err(rule);
    }
    let bitmap = Bitmap {
        name: String::from_utf8_lossy(name).into_owned(),
        granularity: 1_u64.wrapping_shl(u32::from(raw.granularity_bits)),
        in_use: flags & IN_USE != 0,
        auto: flags & AUTO != 0,
        stored_name: name.to_vec(),
        extra: extra.to_vec(),
        extra_compatible: flags & EXTRA_COMPATIBLE != 0,
        table: HostOffset(table),
        table_entries,
        flags_offset: at.plus(12),
    };
    Ok((bitmap, len.next_multiple_of(8)))
}

/// Returns the stored form of a directory.
pub(super) fn encode(bitmaps: &[Bitmap]) -> Vec<u8> {
    let narrow = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    for bitmap in bitmaps {
        let raw = RawBitmap {
            bitmap_table_offset: bitmap.table.0.into(),
            bitmap_table_size: u32::try_from(bitmap.table_entries).unwrap_or(u32::MAX).into(),
            flags: bitmap.flags().into(),
            kind: DIRTY_TRACKING,
            granularity_bits: u8::try_from(bitmap.granularity.trailing_zeros()).unwrap_or(u8::MAX),
            name_size: u16::try_from(bitmap.stored_name.len()).unwrap_or(u16::MAX).into(),
            extra_data_size: narrow(bitmap.extra.len()).into(),
        };
        bytes.extend_from_slice(raw.as_bytes());
        bytes.extend_from_slice(&bitmap.extra);
        bytes.extend_from_slice(&bitmap.stored_name);
        // Spec: "Padding to round up the bitmap directory entry size to the next multiple of 8. All bytes of the padding must
        // be zero."
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// The type of all bitmaps that there are.
const DIRTY_TRACKING: u8 = 1;
/// Granularities from 512 bytes to 2 GiB, as QEMU's limits are.
pub(super) const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
/// The most bitmaps, as QEMU's limit is.
pub(super) const MAX_BITMAPS: u32 = 65_535;
/// Bytes of the longest name, as QEMU's limit is.
pub(super) const MAX_NAME: usize = 1023;
/// Bytes of the largest directory: that many entries with the longest names, in 8-byte units.
const MAX_DIRECTORY: u64 = 65_535 * 1048;
/// The most entries of all tables together: what names a terabyte of bitmaps in clusters of 64 KiB.
const MAX_TABLES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::{Bitmap, Extension, Header, HostOffset, Place, decode, encode, feature};
    use crate::qcow2::{CreateOptions, Error};

    fn bitmap(name: &str, auto: bool) -> Bitmap {
        Bitmap { auto, table: HostOffset(0x50000), table_entries: 1, ..Bitmap::unstored(name, 65536) }
    }

    fn header() -> Header {
        CreateOptions::new(1 << 20).header().unwrap()
    }

    fn rule(error: Error) -> String {
        match error {
            Error::Corrupt(why) => why.to_string(),
            other => other.to_string(),
        }
    }

    /// Two entries as qemu-img 10.0 stores them.
    const STORED: &str = "00000000000700000000001000000002_0110_0001_00000000_62000000_00000000\
                          00000000000800000000000100000000_011f_0002_00000000_63640000_00000000";

    #[test]
    fn entries_of_another_program_survive_the_round_trip() {
        let digits: Vec<u8> = STORED.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes: Vec<u8> =
            digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        let mut header = header();
        header.size = 16 << 35;
        let place = Place { offset: HostOffset(0x40000), len: 64, count: 2 };
        let bitmaps = decode(&bytes, place, &header).unwrap();
        assert_eq!((bitmaps[0].name.as_str(), bitmaps[0].auto, bitmaps[0].table_entries), ("b", true, 16));
        assert_eq!((bitmaps[1].granularity, bitmaps[1].auto, bitmaps[1].flags_offset.0), (1 << 31, false, 0x4002c));
        assert_eq!(encode(&bitmaps), bytes);
    }

    #[test]
    fn each_broken_rule_of_the_directory_has_its_own_message() {
        let sound = encode(&[bitmap("one", true), bitmap("two", false)]);
        let place = Place { offset: HostOffset(0x40000), len: 64, count: 2 };
        assert_eq!(decode(&sound, place, &header()).unwrap().len(), 2);
        for (at, value, want) in [
            (0, 0xff, "leaves"),
            (6, 1, "not the start of a cluster"),
            (9, 1, "larger than 512 MiB"),
            (11, 0, "no entries"),
            (11, 2, "not that of the disk"),
            (15, 8, "reserved flag"),
            (16, 2, "a type is"),
            (17, 8, "a granularity is"),
            (17, 32, "a granularity is"),
            (19, 0, "not 1 to 1023"),
            (18, 4, "leaves"),
            (20, 1, "leaves"),
            (56, b'o', "one name"),
        ] {
            let mut bytes = sound.clone();
            bytes[at] = value;
            if at == 0 {
                bytes.truncate(60);
            }
            if at == 56 {
                bytes[56..59].copy_from_slice(b"one");
            }
            let error = rule(decode(&bytes, place, &header()).unwrap_err());
            assert!(error.contains(want), "byte {at} = {value}: {error}");
        }
        let mut longer = sound;
        longer.extend_from_slice(&[0; 8]);
        assert!(rule(decode(&longer, place, &header()).unwrap_err()).contains("larger than its entries"));
    }

    #[test]
    fn each_broken_rule_of_the_extension_has_its_own_message() {
        let place = Place { offset: HostOffset(0x40000), len: 64, count: 2 };
        let mut header = header();
        header.autoclear = feature::BITMAPS;
        header.extensions.push(place.extension());
        assert_eq!(Place::find(&header).unwrap(), Some(place));
        let last = header.extensions.len() - 1;
        for (at, value, want) in [
            (3, 0, "no bitmaps"),
            (0, 1, "larger than"),
            (7, 1, "reserved field"),
            (10, 1, "larger than"),
            (22, 1, "not the start of a cluster"),
        ] {
            let mut broken = header.clone();
            broken.extensions[last].data[at] = value;
            let error = match Place::find(&broken).unwrap_err() {
                Error::Unsupported(why) => why.to_string(),
                other => rule(other),
            };
            assert!(error.contains(want), "byte {at}: {error}");
        }
        header.autoclear = 0;
        assert_eq!(Place::find(&header).unwrap(), None);
        header.extensions.retain(|extension| extension.kind != Extension::BITMAPS);
        assert_eq!(Place::find(&header).unwrap(), None);
    }
}
