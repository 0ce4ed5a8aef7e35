//! Trees as tar archives: what `vmimg disk put --tar`, `get --tar` and `mkfs --from` read and write.
//!
//! Archives of GNU tar, star, bsdtar and of POSIX; written are those of POSIX, with the keywords of GNU tar for what it has none
//! for. Contents are read when they are needed, from where they lie in the archive. The headers themselves are the crate `tar`'s.

mod acl;
mod entry;
mod plan;
mod records;
mod source;
mod sparse;
mod write;

pub(super) use self::plan::plan;
pub(super) use self::source::open;
pub(super) use self::write::{Output, write};
