//! Trees as tar archives: what `vmimg disk put --tar`, `get --tar` and `mkfs --from` read and write.
//!
//! Archives of GNU tar, star, bsdtar and of POSIX; written are those of POSIX, with the keywords of GNU tar for what it has none
//! for. Contents are read when they are needed, from where they lie in the archive. The headers themselves are the crate `tar`'s.

mod acl;
mod entry;
mod plan;
mod records;
mod sparse;
mod write;

use std::path::Path;
use std::sync::Arc;

use imgcore::block::BlockRead;
use imgcore::storage::{Access, FileDisk};

pub(super) use self::plan::plan;
pub(super) use self::write::{Output, write};
use super::pipe::Pipe;
use crate::context::Context;
use crate::error::CommandError;

/// Opens the archive `file` for `image`: a file, a pipe, or standard input for `-`.
///
/// # Errors
///
/// The failure of the operating system, and [`crate::error::ErrorKind::Interrupted`].
pub(super) fn open(context: &Context, file: &Path, image: &Path) -> Result<Arc<dyn BlockRead>, CommandError> {
    Ok(Arc::new(match Pipe::open(context, file)? {
        Some(pipe) => pipe.read(context, image, u64::MAX)?,
        None => FileDisk::open(&context.absolute(file), Access::Read)?,
    }))
}
