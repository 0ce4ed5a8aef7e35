use zerocopy::IntoBytes as _;

use super::SECTOR;
use super::raw::{Both16, Both32, FOLDER, RawRecord};

/// Where something is: its first sector and its length in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) sector: u32,
    pub(super) len: u32,
}

/// Returns a directory record; `id` and `system_use` together have at most 220 bytes.
pub(super) fn encode(id: &[u8], place: Place, is_folder: bool, time: [u8; 7], system_use: &[u8]) -> Vec<u8> {
    let fixed = RawRecord {
        location: Both32::new(place.sector),
        size: Both32::new(place.len),
        time,
        flags: if is_folder { FOLDER } else { 0 },
        sequence: Both16::new(1),
        id_len: u8::try_from(id.len()).unwrap_or(u8::MAX),
        ..RawRecord::default()
    };
    let mut record = fixed.as_bytes().to_vec();
    record.extend_from_slice(id);
    pad_to_even(&mut record);
    record.extend_from_slice(system_use);
    pad_to_even(&mut record);
    // OK to saturate: the caller's limit keeps a record below 255 bytes.
    let len = u8::try_from(record.len()).unwrap_or(u8::MAX);
    if let Some(first) = record.first_mut() {
        *first = len;
    }
    record
}

/// Returns how many bytes of system use fit into a record with this identifier.
pub(super) fn system_use_room(id: &[u8]) -> usize {
    let used = size_of::<RawRecord>().saturating_add(id.len());
    MAX_RECORD.saturating_sub(used.next_multiple_of(2))
}

/// Appends `record`, at the next sector when it would cross the border of one.
///
/// Spec: ECMA-119, 6.8.1.1: "Each Directory Record shall end in the Logical Sector in which it begins".
pub(super) fn append(folder: &mut Vec<u8>, record: &[u8]) {
    let used = folder.len() % SECTOR;
    if used.saturating_add(record.len()) > SECTOR {
        pad_to_sector(folder);
    }
    folder.extend_from_slice(record);
}

/// Fills up the last sector with zeros.
pub(super) fn pad_to_sector(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
}

fn pad_to_even(bytes: &mut Vec<u8>) {
    if !bytes.len().is_multiple_of(2) {
        bytes.push(0);
    }
}

/// The largest even length that a byte can state.
const MAX_RECORD: usize = 254;
