//! Machines on disk: one folder each under the root, with a record of how it came to be.
//!
//! ```text
//! ROOT/
//!   web1/               a machine: complete, or not there at all
//!     machine.json      the record
//!     disk.qcow2        its disk, an overlay on the base
//!     seed.iso          its config drive or NoCloud seed
//!     domain.xml        what libvirt is given
//!   .web2.k3XbQz/       a preparation at work, or the trace of one that was killed
//!   images/             the image store
//! ```

mod identity;
mod name;
mod record;
mod root;
mod staging;

pub use identity::FileIdentity;
pub use name::{MachineName, NameError};
pub use record::{BaseRecord, DataRecord, DiskRecord, GuestRecord, Machine, RECORD_FILE, SeedRecord, State};
pub use root::{Root, RootArgs};
pub use staging::{Staging, remove_leftovers};
