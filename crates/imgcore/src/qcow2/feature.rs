//! Feature bits, and the names under which other programs report those that they do not know.

use super::extension::Extension;

/// Refcounts may be inconsistent.
pub(super) const DIRTY: u64 = 1;
/// Any structure may be corrupt.
pub(super) const CORRUPT: u64 = 1 << 1;
/// Guest clusters are in an external data file.
pub(super) const DATA_FILE: u64 = 1 << 2;
/// Compressed clusters are not deflate.
pub(super) const COMPRESSION: u64 = 1 << 3;
/// L2 entries are 16 bytes.
pub(super) const EXTENDED_L2: u64 = 1 << 4;
/// Every incompatible bit that is known here.
pub(super) const INCOMPATIBLE: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
/// Refcount updates may be postponed (compatible).
pub(super) const LAZY_REFCOUNTS: u64 = 1;
/// The bitmaps extension is consistent (autoclear).
pub(super) const BITMAPS: u64 = 1;
/// The data file is a raw image by itself (autoclear).
pub(super) const RAW_DATA_FILE: u64 = 1 << 1;

/// Every autoclear bit that is known here.
pub(super) const AUTOCLEAR: u64 = BITMAPS | RAW_DATA_FILE;

/// Returns the feature name table: type, bit and 46 bytes of name for each.
pub(super) fn names() -> Extension {
    let mut data = Vec::with_capacity(NAMES.len().saturating_mul(ENTRY));
    for (kind, bit, name) in NAMES {
        let end = data.len().saturating_add(ENTRY);
        data.extend_from_slice(&[*kind, *bit]);
        data.extend_from_slice(name.as_bytes());
        data.resize(end, 0);
    }
    Extension { kind: Extension::FEATURE_NAMES, data }
}

/// Returns the names that `extensions` give to the incompatible `bits`, or their numbers.
pub(super) fn describe(bits: u64, extensions: &[Extension]) -> String {
    let table = extensions.iter().find(|extension| extension.kind == Extension::FEATURE_NAMES);
    let mut described = Vec::new();
    for bit in (0..64_u8).filter(|bit| bits.wrapping_shr(u32::from(*bit)) & 1 == 1) {
        let entries = table.map(|table| table.data.chunks_exact(ENTRY)).into_iter().flatten();
        let mut names = entries.filter_map(|entry| match entry.split_first_chunk::<2>() {
            Some(([0, number], name)) if *number == bit => Some(name),
            _ => None,
        });
        let name = names.next_back().map(|name| {
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(name).escape_debug().to_string()
        });
        described.push(name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("incompatible bit {bit}")));
    }
    described.join(", ")
}

const ENTRY: usize = 48;
const NAMES: &[(u8, u8, &str)] = &[
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];
