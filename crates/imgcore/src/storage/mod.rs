//! Where an image's bytes are: regular files and block devices of the host.
//!
//! This and `image` are the only layers that know host paths.

mod duplicate;
mod file;
mod holes;
mod lock;
mod loops;
mod replace;
mod writeback;
mod xattrs;

pub use file::{Access, FileDisk};
pub use lock::{Lock, LockKind};
pub use loops::refuse_loop_writer;
pub use replace::Replacement;
