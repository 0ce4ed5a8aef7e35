//! An image as a whole: its format, what may be opened because of it, its backing chain, and making new ones.
//!
//! ```text
//! open           path, format, policy  -->  Disk: a chain for reading      open_writable  -->  WritableDisk
//! Info           what qemu-img info says about a Disk
//! create, convert, resize                   new files appear whole, by a rename
//! ```

mod convert;
mod create;
mod disk;
mod error;
mod format;
mod info;
mod open;
mod policy;
mod resize;
mod text;
mod writable;

pub use convert::{ConvertOptions, convert};
pub use create::{NewDisk, create, create_overlay, overlay_options};
pub use disk::Disk;
pub use error::Error;
pub use format::{Format, probe};
pub use info::{BitmapInfo, Child, FormatSpecific, Info, SnapshotInfo, Specific};
pub use open::{OpenOptions, open, open_writable};
pub use policy::OpenPolicy;
pub use resize::{ResizeOptions, resize};
pub use writable::WritableDisk;
