//! The snapshot table.

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{NewSnapshot, Snapshot};
use crate::block::BlockRead;
use crate::qcow2::error::{Corrupt, Error, Unsupported};
use crate::qcow2::header::{Header, MAX_L1, MAX_SNAPSHOTS};
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::raw::RawSnapshot;
use crate::qcow2::table::{len_of, read_stored};

/// An entry of the table, with what has no meaning here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stored {
    id: Vec<u8>,
    name: Vec<u8>,
    /// The fields that were added to the format later, as far as they are there, and those that are not known.
    extra: Vec<u8>,
}

/// Reads the snapshot table.
///
/// Spec: "Snapshots"
pub(in crate::qcow2) fn read_all<S: BlockRead + ?Sized>(storage: &S, header: &Header) -> Result<Vec<Snapshot>, Error> {
    let mut snapshots = Vec::new();
    let mut offset = header.snapshots_offset;
    for _ in 0..header.snapshot_count {
        let snapshot = read(storage, offset)?;
        offset = offset.plus(to_u64(snapshot.stored_len()));
        if offset.0.saturating_sub(header.snapshots_offset.0) > MAX_TABLE {
            return Err(Corrupt::new("snapshot table", offset.0, "it is larger than 64 MiB").into());
        }
        snapshots.push(snapshot);
    }
    Ok(snapshots)
}

fn read<S: BlockRead + ?Sized>(storage: &S, offset: HostOffset) -> Result<Snapshot, Error> {
    let corrupt = |rule| Corrupt::new("snapshot table", offset.0, rule);
    let mut fixed = [0; size_of::<RawSnapshot>()];
    read_stored(storage, "snapshot table", offset, &mut fixed)?;
    let raw = RawSnapshot::read_from_bytes(&fixed).map_err(|_| corrupt("the entry is too short"))?;
    let extra_len = to_usize(u64::from(raw.extra_data_size.get()));
    if extra_len > MAX_EXTRA {
        return Err(corrupt("an entry has more than 1024 bytes of extra data").into());
    }
    let id_len = usize::from(raw.id_size.get());
    let mut variable = vec![0; extra_len.saturating_add(id_len).saturating_add(usize::from(raw.name_size.get()))];
    read_stored(storage, "snapshot table", offset.plus(len_of(&fixed)), &mut variable)?;
    let (extra, names) = variable.split_at(extra_len.min(variable.len()));
    let (id, name) = names.split_at(id_len.min(names.len()));
    let word = |at: usize| extra.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    Ok(Snapshot {
        id: String::from_utf8_lossy(id).into_owned(),
        name: String::from_utf8_lossy(name).into_owned(),
        date_seconds: raw.date_sec.get(),
        date_nanoseconds: raw.date_nsec.get(),
        vm_clock: raw.vm_clock_nsec.get(),
        // Spec: "If this field is present, the 32-bit value in bytes 32-35 is ignored."
        vm_state_size: word(0).unwrap_or_else(|| u64::from(raw.vm_state_size.get())),
        disk_size: word(8),
        // Spec: "Set to -1 if icount was disabled"
        icount: word(16).filter(|icount| *icount != u64::MAX),
        l1_offset: HostOffset(raw.l1_table_offset.get()),
        l1_entries: u64::from(raw.l1_size.get()),
        stored: Stored { id: id.to_vec(), name: name.to_vec(), extra: extra.to_vec() },
    })
}

/// Returns the bytes of a table.
pub(super) fn encode(snapshots: &[Snapshot]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for snapshot in snapshots {
        snapshot.encode(&mut bytes);
    }
    let too_large = to_u64(snapshots.len()) > MAX_SNAPSHOTS || len_of(&bytes) > MAX_TABLE;
    if too_large { Err(Unsupported::TooLarge("snapshot table", MAX_TABLE).into()) } else { Ok(bytes) }
}

impl Snapshot {
    /// Returns a snapshot that is not stored yet. Its L1 table has no place.
    pub(super) fn unstored(id: u64, new: &NewSnapshot, disk_size: u64) -> Self {
        let id = id.to_string();
        let name = shortened(&new.name);
        let extra = [0, disk_size, 0].map(u64::to_be_bytes).concat();
        Self {
            stored: Stored { id: id.clone().into_bytes(), name: name.to_owned().into_bytes(), extra },
            id,
            name: name.to_owned(),
            date_seconds: new.seconds,
            date_nanoseconds: new.nanoseconds,
            vm_clock: 0,
            vm_state_size: 0,
            disk_size: Some(disk_size),
            icount: Some(0),
            l1_offset: HostOffset(0),
            l1_entries: 0,
        }
    }

    /// Adds what version 3 requires, for a disk of `disk_size` bytes, and returns whether anything was missing.
    ///
    /// Spec: "Version 3 images must include extra data at least up to byte 55."
    pub(in crate::qcow2) fn complete(&mut self, disk_size: u64) -> bool {
        let missing = self.disk_size.is_none();
        if missing {
            self.stored.extra = [self.vm_state_size, disk_size].map(u64::to_be_bytes).concat();
            self.disk_size = Some(disk_size);
        }
        missing
    }

    /// Returns the number that an id begins with.
    pub(super) fn number(&self) -> u64 {
        let digits = self.id.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.id.len());
        self.id.get(..digits).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// Checks that its L1 table has a place and a bounded size.
    pub(in crate::qcow2) fn check_l1(&self, header: &Header) -> Result<(), Error> {
        // Spec: "Must be aligned to a cluster boundary."
        if !header.geometry.is_aligned(self.l1_offset.0) {
            let rule = "the offset of an L1 table is not the start of a cluster";
            return Err(Corrupt::new("snapshot table", header.snapshots_offset.0, rule).into());
        }
        if self.l1_entries.saturating_mul(8) > MAX_L1 {
            return Err(Unsupported::TooLarge("L1 table", MAX_L1).into());
        }
        Ok(())
    }

    /// Returns the bytes of the entry, with the padding behind it.
    pub(super) fn stored_len(&self) -> usize {
        let Stored { id, name, extra } = &self.stored;
        let variable = extra.len().saturating_add(id.len()).saturating_add(name.len());
        size_of::<RawSnapshot>().saturating_add(variable).next_multiple_of(8)
    }

    /// Spec: "Snapshot table entry"
    fn encode(&self, bytes: &mut Vec<u8>) {
        let Stored { id, name, extra } = &self.stored;
        let narrow = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        let raw = RawSnapshot {
            l1_table_offset: self.l1_offset.0.into(),
            l1_size: u32::try_from(self.l1_entries).unwrap_or(u32::MAX).into(),
            id_size: narrow(id.len()).into(),
            name_size: narrow(name.len()).into(),
            date_sec: self.date_seconds.into(),
            date_nsec: self.date_nanoseconds.into(),
            vm_clock_nsec: self.vm_clock.into(),
            // Spec: "Size of the VM state in bytes. 0 if no VM state is saved." What does not fit is in the extra data.
            vm_state_size: u32::try_from(self.vm_state_size).unwrap_or(0).into(),
            extra_data_size: u32::try_from(extra.len()).unwrap_or(u32::MAX).into(),
        };
        bytes.extend_from_slice(raw.as_bytes());
        bytes.extend_from_slice(extra);
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(name);
        // Spec: "Padding to round up the snapshot table entry size to the next multiple of 8."
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
}

/// Returns the part of a name that other programs read as well.
fn shortened(name: &str) -> &str {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    name.get(..end).unwrap_or_default()
}

/// Bytes of extra data that are read, as QEMU's limit is.
const MAX_EXTRA: usize = 1024;
/// Bytes of a name, as QEMU's limit is.
const MAX_NAME: usize = 255;
/// Bytes of the largest snapshot table, as QEMU's limit is.
const MAX_TABLE: u64 = 64 << 20;
