//! A disk that is read from its start to its end while somebody looks on.

use std::fmt;

use crate::block::{BlockRead, Error, Extent};

/// A disk that tells the offset of each read beforehand to a function, which may refuse it.
pub(super) struct Watched<'a> {
    pub(super) disk: &'a dyn BlockRead,
    pub(super) watch: &'a (dyn Fn(u64) -> Result<(), Error> + Sync),
}

impl fmt::Debug for Watched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl BlockRead for Watched<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        (self.watch)(offset)?;
        self.disk.read_exact_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        self.disk.extent_at(offset)
    }
}
