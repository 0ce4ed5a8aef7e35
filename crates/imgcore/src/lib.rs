//! Disk images from the inside: block devices, image formats, partition tables and file systems.
//!
//! ```text
//! image      a disk from a reference: probe, open policy, backing chain, convert
//! storage  qcow2  partition  lvm  fs  nbd    each knows `block` alone
//! block      BlockRead, BlockWrite, Resize · extents · MemoryDisk, Slice, Staged, Cursor · copy
//! ```
//!
//! Arrows point down only and siblings never meet. Nothing here reads the terminal, the environment or the clock, and nothing
//! makes random numbers of its own: a caller that needs a timestamp or an identifier in an image passes it in. `nbd` alone
//! measures time, to end its waiting.
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used,
        reason = "a test that panics has failed, as it should"
    )
)]

pub mod block;
pub mod fs;
pub mod image;
pub mod lvm;
pub mod nbd;
pub mod partition;
pub mod qcow2;
pub mod storage;
