//! The Network Block Device protocol: images where other programs expect a device.
//!
//! ```text
//! server     disks for clients, over sockets
//! wire       messages as values, and as bytes; no input or output
//! ```
//!
//! Specification: `doc/proto.md` of the NBD project, in the version with extended headers.

pub mod server;
pub mod wire;
