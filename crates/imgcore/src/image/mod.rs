//! An image as a whole: its format, what may be opened because of it, its backing chain, and making new ones.

mod disk;
mod error;
mod format;
mod open;
mod policy;
mod writable;

pub use disk::Disk;
pub use error::Error;
pub use format::{Format, probe};
pub use open::{OpenOptions, open, open_writable};
pub use policy::OpenPolicy;
pub use writable::WritableDisk;
