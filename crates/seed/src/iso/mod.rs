//! ISO 9660 images with Joliet and Rock Ridge: the form in which a seed reaches a guest.
//!
//! ```text
//! sector 0        16         17       18          19 …
//! | 16 empty | primary | Joliet | terminator | path tables (L, M of each) |
//! | primary folders | continuation areas | Joliet folders | contents, each once |
//! ```
//!
//! The primary tree has Rock Ridge, so that Linux and the BSDs see names as they are; Windows reads Joliet. Contents that occur
//! under several paths are stored once. The same input gives the same bytes.
//!
//! # Spec
//!
//! ECMA-119 (volume structure), Joliet (supplementary descriptor, UCS-2 names), SUSP 1.10 and RRIP 1.09 (system use).

mod error;
mod hierarchy;
mod label;
mod names;
mod raw;
mod read;
mod record;
mod space;
mod susp;
mod time;
mod verify;
mod walk;
mod write;

pub use error::Error;
pub use label::{LabelError, VolumeLabel};
pub use read::{Names, Volume, read, read_names};
pub use verify::verify;
pub use write::create;

/// The unit of all places in an image, in bytes.
const SECTOR: usize = 2048;
