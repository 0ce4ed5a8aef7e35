//! System use entries: Rock Ridge's names, modes and times, and where they go on when a record is full.
//!
//! Spec: SUSP (IEEE P1281), 5; RRIP (IEEE P1282), 4.1.

use zerocopy::IntoBytes as _;

use super::SECTOR;
use super::raw::Both32;

/// What continues behind directory records: entries for which a record has no room.
#[derive(Debug)]
pub(super) struct Continuation {
    /// The first sector.
    sector: u32,
    pub(super) bytes: Vec<u8>,
}

impl Continuation {
    pub(super) fn new(sector: u32) -> Self {
        Self { sector, bytes: Vec::new() }
    }

    /// Stores `entries` and returns the entry that points to them.
    fn add(&mut self, entries: &[u8]) -> Vec<u8> {
        // Linux reads no continuation across the border of a sector.
        if (self.bytes.len() % SECTOR).saturating_add(entries.len()) > SECTOR {
            super::record::pad_to_sector(&mut self.bytes);
        }
        let sector = u32::try_from(self.bytes.len() / SECTOR).unwrap_or(u32::MAX).saturating_add(self.sector);
        let offset = u32::try_from(self.bytes.len() % SECTOR).unwrap_or(u32::MAX);
        let len = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(entries);
        let fields = [sector, offset, len].map(Both32::new);
        entry(*b"CE", fields.as_bytes())
    }
}

/// Returns the system use of a record with `room` for it: mode, links, times and name, the latter continued when it must be.
pub(super) fn of_entry(attributes: &[u8], name: &str, room: usize, continuation: &mut Continuation) -> Vec<u8> {
    let names = name_entries(name.as_bytes());
    let mut system_use = attributes.to_vec();
    if system_use.len().saturating_add(names.len()) <= room {
        system_use.extend_from_slice(&names);
    } else {
        system_use.extend_from_slice(&continuation.add(&names));
    }
    system_use
}

/// Returns the system use of the root's own record, by which readers see that there is any.
pub(super) fn of_root(attributes: &[u8], continuation: &mut Continuation) -> Vec<u8> {
    // Spec: "SP … shall be recorded as the first … System Use Entry of the first Directory Record of the root".
    let mut system_use = entry(*b"SP", &[0xbe, 0xef, 0]);
    system_use.extend_from_slice(attributes);
    system_use.extend_from_slice(&continuation.add(&extension()));
    system_use
}

/// Returns mode, links and owner (root), and the times of modification, access and change.
pub(super) fn attributes(is_folder: bool, links: u32, time: [u8; 7]) -> Vec<u8> {
    let mode = if is_folder { MODE_FOLDER } else { MODE_FILE };
    let fields = [mode, links, 0, 0].map(Both32::new);
    let mut attributes = entry(*b"PX", fields.as_bytes());
    let mut times = vec![TF_MODIFY_ACCESS_CHANGE];
    times.extend_from_slice(&time.repeat(3));
    attributes.extend_from_slice(&entry(*b"TF", &times));
    attributes
}

/// Returns the entries of a name, which are two for the longest.
fn name_entries(name: &[u8]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut parts = name.chunks(MAX_NAME_PART).peekable();
    while let Some(part) = parts.next() {
        let mut body = vec![if parts.peek().is_some() { NM_CONTINUE } else { 0 }];
        body.extend_from_slice(part);
        entries.extend_from_slice(&entry(*b"NM", &body));
    }
    entries
}

/// Returns the entry that names Rock Ridge as the extension in use.
fn extension() -> Vec<u8> {
    let len = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
    let mut body = vec![len(RRIP_ID), len(RRIP_DESCRIPTION), len(RRIP_SOURCE), 1];
    for text in [RRIP_ID, RRIP_DESCRIPTION, RRIP_SOURCE] {
        body.extend_from_slice(text.as_bytes());
    }
    entry(*b"ER", &body)
}

/// Returns an entry of version 1; `body` has at most 251 bytes.
fn entry(signature: [u8; 2], body: &[u8]) -> Vec<u8> {
    let [first, second] = signature;
    let len = u8::try_from(body.len().saturating_add(4)).unwrap_or(u8::MAX);
    let mut entry = vec![first, second, len, 1];
    entry.extend_from_slice(body);
    entry
}

pub(super) const NM_CONTINUE: u8 = 1;
const TF_MODIFY_ACCESS_CHANGE: u8 = 2 | 4 | 8;
/// Bytes of a name in one entry.
const MAX_NAME_PART: usize = 250;
/// `dr-xr-xr-x` and `-r--r--r--`, which is what Nova's config drives have.
const MODE_FOLDER: u32 = 0o40555;
const MODE_FILE: u32 = 0o100_444;
const RRIP_ID: &str = "RRIP_1991A";
const RRIP_DESCRIPTION: &str = "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
const RRIP_SOURCE: &str = "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.";
