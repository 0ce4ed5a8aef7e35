//! Files of the host as contents of a guest's.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use imgcore::block::{self, BlockRead, Extent};
use imgcore::fs::Content;
use imgcore::storage::{Access, FileDisk};

use crate::error::CommandError;

/// Makes contents of files, and knows how many of them are in memory.
#[derive(Debug, Default)]
pub(super) struct Contents {
    held: u64,
}

impl Contents {
    /// Returns the contents of a host file: those of a small one at once, as long as all of them do not fill the memory, and those of
    /// others when they are needed.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub(super) fn of(&mut self, source: PathBuf, found: &Metadata) -> Result<Content, CommandError> {
        let is_dense = found.blocks().saturating_mul(512) >= found.size();
        let held = self.held.saturating_add(found.size());
        if found.size() > SMALL || !is_dense || held > MOST_HELD {
            return Ok(Content::Disk(Arc::new(HostFile { size: found.size(), path: source })));
        }
        self.held = held;
        let read = fs::read(&source);
        read.map(Content::from).map_err(|error| CommandError::io(format!("cannot read `{}`", source.display()), error))
    }
}

/// A file of the host that is open only while it is read, as there may be more of them than may be open.
#[derive(Debug)]
struct HostFile {
    path: PathBuf,
    size: u64,
}

impl HostFile {
    fn open(&self) -> Result<FileDisk, block::Error> {
        FileDisk::open(&self.path, Access::Read)
    }
}

impl BlockRead for HostFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        self.open()?.read_exact_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        self.open()?.extent_at(offset)
    }
}

/// Bytes of a file that is read at once.
const SMALL: u64 = 1 << 20;
/// Bytes of all files that are.
const MOST_HELD: u64 = 64 << 20;
