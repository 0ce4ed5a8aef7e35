//! An image as a whole: its format, what may be opened because of it, its backing chain, and making new ones.
//!
//! ```text
//! open           path, format, policy  -->  Disk: a chain for reading      open_writable  -->  WritableDisk
//! Info           what qemu-img info says about a Disk, or about a chain; Display is its text
//! map            which image of a chain stores which bytes of a disk, and where
//! check, repair  is an image sound, and can it be made so; nothing below it is opened
//! compare        do two disks read the same; measure: how large would a copy become
//! create         an empty image; open_below is what will lie below it
//! convert        a disk  -->  an image, whole or as what differs from a backing disk
//! resize         a WritableDisk, in place
//! rebase         a WritableDisk onto another backing file, or none
//! commit         what an image holds  -->  an image below it
//! ```
//!
//! New files appear whole, by a rename. What takes long tells a function that the caller passes how far it is, and ends with
//! the error that this returns.

mod check;
mod commit;
mod compare;
mod convert;
mod convert_into;
mod copy;
mod create;
mod depth;
mod disk;
mod error;
mod format;
mod info;
mod inspect;
mod joined;
mod location;
mod map;
mod measure;
mod open;
mod open_commit;
mod origin;
mod policy;
mod rebase;
mod resize;
mod salvaged;
mod target;
mod text;
mod watched;
mod writable;

pub use check::{check, repair};
pub use commit::{CommitOptions, commit, commit_image};
pub use compare::{CompareError, CompareOptions, Comparison, compare};
pub use convert::{ConvertOptions, Watch, convert};
pub use convert_into::convert_into;
pub use create::{NewDisk, create, overlay_options};
pub use disk::Disk;
pub use error::Error;
pub use format::{Format, probe};
pub use info::{BitmapInfo, Child, FormatSpecific, Info, SnapshotInfo, Specific};
pub use joined::Joined;
pub use location::{Location, Storage};
pub use map::{MapEntry, MapKind, map, map_files};
pub use measure::{Measurement, measure, measure_new};
pub use open::{OpenOptions, open, open_below, open_over, open_writable};
pub use policy::OpenPolicy;
pub use rebase::{Chains, RebaseOptions, rebase, rebase_image, record_backing};
pub use resize::{ResizeOptions, resize};
pub use salvaged::Salvaged;
pub use text::SnapshotList;
pub use writable::WritableDisk;
