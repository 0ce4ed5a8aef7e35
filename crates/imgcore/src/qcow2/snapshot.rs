use zerocopy::FromBytes as _;

use super::error::{Corrupt, Error};
use super::header::Header;
use super::offset::{HostOffset, to_usize};
use super::raw::RawSnapshot;
use super::table::read_stored;
use crate::block::BlockRead;

/// An internal snapshot, as the snapshot table describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The unique identifier, nearly always a number.
    pub id: String,
    /// The name that a person gave it.
    pub name: String,
    /// When it was taken, in seconds since the epoch.
    pub date_seconds: u32,
    /// The part of a second, in nanoseconds.
    pub date_nanoseconds: u32,
    /// How long the guest had been running, in nanoseconds.
    pub vm_clock: u64,
    /// Bytes of the saved state of the machine.
    pub vm_state_size: u64,
    /// Bytes of its disk, where they are recorded.
    pub disk_size: Option<u64>,
    /// The instruction counter, where it is recorded and was enabled.
    pub icount: Option<u64>,
}

/// Reads the snapshot table.
///
/// Spec: "Snapshots"
pub(super) fn read_all(storage: &dyn BlockRead, header: &Header) -> Result<Vec<Snapshot>, Error> {
    let mut snapshots = Vec::new();
    let mut offset = header.snapshots_offset;
    for _ in 0..header.snapshot_count {
        let mut fixed = [0; size_of::<RawSnapshot>()];
        read_stored(storage, "snapshot table", offset, &mut fixed)?;
        let at = offset.0;
        let corrupt = |rule| Corrupt::new("snapshot table", at, rule);
        let raw = RawSnapshot::read_from_bytes(&fixed).map_err(|_| corrupt("the entry is too short"))?;
        let extra_len = u64::from(raw.extra_data_size.get());
        if extra_len > MAX_EXTRA {
            return Err(corrupt("an entry has more than 1024 bytes of extra data").into());
        }
        let names_len = u64::from(raw.id_size.get()).saturating_add(u64::from(raw.name_size.get()));
        let mut variable = vec![0; to_usize(extra_len.saturating_add(names_len))];
        read_stored(storage, "snapshot table", offset.plus(FIXED), &mut variable)?;
        let (extra, names) = variable.split_at(to_usize(extra_len).min(variable.len()));
        let (id, name) = names.split_at(usize::from(raw.id_size.get()).min(names.len()));
        snapshots.push(Snapshot {
            id: String::from_utf8_lossy(id).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            date_seconds: raw.date_sec.get(),
            date_nanoseconds: raw.date_nsec.get(),
            vm_clock: raw.vm_clock_nsec.get(),
            // Spec: "If this field is present, the 32-bit value in bytes 32-35 is ignored."
            vm_state_size: word(extra, 0).unwrap_or_else(|| u64::from(raw.vm_state_size.get())),
            disk_size: word(extra, 8),
            // Spec: "Set to -1 if icount was disabled"
            icount: word(extra, 16).filter(|icount| *icount != u64::MAX),
        });
        let len = FIXED.saturating_add(extra_len).saturating_add(names_len).next_multiple_of(8);
        offset = HostOffset(offset.plus(len).0);
        if offset.0.saturating_sub(header.snapshots_offset.0) > MAX_TABLE {
            return Err(corrupt("the table is larger than 64 MiB").into());
        }
    }
    Ok(snapshots)
}

fn word(extra: &[u8], at: usize) -> Option<u64> {
    extra.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

const FIXED: u64 = 40;
/// Bytes of extra data that are read, as QEMU's limit is.
const MAX_EXTRA: u64 = 1024;
/// Bytes of the largest snapshot table, as QEMU's limit is.
const MAX_TABLE: u64 = 64 << 20;
