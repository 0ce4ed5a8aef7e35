//! The journal: changes that were promised before they were made.
//!
//! ```text
//! | superblock | descriptor | block | block | ... | revocations | commit | descriptor | ... | stale |
//!   s_start ---^  what goes where                                 the whole counts from here on
//! ```
//!
//! A file system that was not unmounted holds the old state; the complete transactions of the log, written over it, make it the
//! new one. Until then nothing in it may be trusted but the superblock and the journal's own inode.
//!
//! Spec: the kernel's `Documentation/filesystems/ext4/journal.rst`.

mod block;
mod log;
mod replay;
mod scan;
mod superblock;
mod write;

pub(super) use self::log::Journal;
pub(super) use self::replay::{check_idle, replay, write_log};
pub(super) use self::write::Blocks;
