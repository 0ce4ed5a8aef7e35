//! Internal snapshots: states of the disk that are kept in the image.
//!
//! ```text
//! header --> snapshot table --> L1 table --> L2 table --> cluster
//!        --> active L1 table ----------------^
//! ```
//!
//! A snapshot shares tables and clusters with the active state; each way from an L1 table through an L2 table to a cluster is one
//! reference to both. What is shared is copied before it is written, as its entries are not marked as the only reference.
//!
//! # Spec
//!
//! QEMU's docs/interop/qcow2.rst, "Snapshots".

mod change;
mod table;

use self::table::Stored;
pub(super) use self::table::read_all;
use super::offset::HostOffset;

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
    /// Where its L1 table is.
    pub(super) l1_offset: HostOffset,
    pub(super) l1_entries: u64,
    stored: Stored,
}

/// A snapshot to be taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewSnapshot {
    /// Its name, of which 255 bytes are kept. It need not be unique.
    pub name: String,
    /// The time, in seconds since the epoch.
    pub seconds: u32,
    /// The part of a second, in nanoseconds.
    pub nanoseconds: u32,
}

/// Why a snapshot cannot be taken, applied or deleted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is none of this name or id.
    #[error("snapshot `{0}` not found")]
    NotFound(String),
    /// Bitmaps would have to record everything that differs.
    #[error("a snapshot cannot be applied to an image with persistent bitmaps")]
    Bitmaps,
    /// The clusters are in an external data file, which holds one state alone.
    /// The disk is in a file of its own.
    #[error("an image with an external data file has no snapshots")]
    DataFile,
    /// Every number is taken.
    #[error("no number is left for another snapshot")]
    NoNumber,
}
