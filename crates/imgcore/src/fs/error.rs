use super::{FileKind, GuestPath};
use crate::block;

/// The failure of an operation on a guest's file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file, or a folder on the way to it, does not exist.
    #[error("`{0}` does not exist in the guest")]
    NotFound(GuestPath),
    /// The file is of another type than the operation needs.
    #[error("`{path}` is a {kind:?} in the guest")]
    WrongKind {
        /// The file.
        path: GuestPath,
        /// What it is.
        kind: FileKind,
    },
    /// More than 40 symbolic links were met on the way: they may run in a circle.
    #[error("too many symbolic links on the way to `{0}`")]
    TooManyLinks(GuestPath),
    /// The file is larger than the caller is ready to take.
    #[error("`{path}` has {size} bytes, more than {limit}")]
    TooLarge {
        /// The file.
        path: GuestPath,
        /// Its size in bytes.
        size: u64,
        /// The most that was asked for.
        limit: u64,
    },
    /// The file system has no room for the change.
    #[error("no space left in the guest's file system: {0}")]
    NoSpace(String),
    /// A value of the edit cannot be stored in this file system.
    #[error("`{path}`: {rule}")]
    Unrepresentable {
        /// The file.
        path: GuestPath,
        /// What cannot be stored, and the limit.
        rule: String,
    },
    /// What was read back is not what was planned.
    #[error("`{path}` was not written as planned: {difference}")]
    Mismatch {
        /// The file.
        path: GuestPath,
        /// What differs.
        difference: String,
    },
    /// The file system breaks a rule of its format.
    #[error("corrupt {format} file system: {place}: {rule}")]
    Corrupt {
        /// The format, as in `ext4`.
        format: &'static str,
        /// The structure, with its number or offset.
        place: String,
        /// The rule.
        rule: String,
    },
    /// The file system is sound but is not changed, or not read, in this state.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The journal has no room for all that would change at once.
    #[error("the file system's journal has room for {room} blocks, and {blocks} would change at once")]
    JournalTooSmall {
        /// Blocks that would change, or a part of them that is too many already.
        blocks: usize,
        /// Blocks that the journal has.
        room: usize,
    },
    /// The device below failed.
    #[error(transparent)]
    Storage(#[from] block::Error),
}

/// A sound file system that is left alone, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the {format} file system {reason}")]
pub struct Refusal {
    /// The format, as in `ext4`.
    pub format: &'static str,
    /// What is in the way, as in ``has the feature `quota`, which is not supported``.
    pub reason: String,
}
