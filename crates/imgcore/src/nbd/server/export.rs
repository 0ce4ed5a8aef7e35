use std::fs::File;
use std::sync::{Arc, PoisonError, RwLock};

use crate::block::{BlockWrite, ByteRange, Error, Hole};
use crate::nbd::wire::flag::transmission;
use crate::nbd::wire::{ExportSummary, HeaderStyle};

/// A disk that a server can serve.
pub trait ServedDisk: BlockWrite {
    /// Makes `range` read as zeros if that takes less time than to write them; returns whether it did.
    ///
    /// # Errors
    ///
    /// As [`BlockWrite::write_zeroes_at`].
    fn write_zeroes_fast(&mut self, _range: ByteRange, _hole: Hole) -> Result<bool, Error> {
        Ok(false)
    }

    /// Returns the run at `offset` that one image of the chain holds, and which: 1 for the top, 0 for none.
    ///
    /// # Errors
    ///
    /// As [`crate::block::BlockRead::extent_at`].
    fn depth_at(&self, offset: u64) -> Result<(ByteRange, u32), Error> {
        Ok((self.extent_at(offset)?.range, 1))
    }

    /// Returns the file whose bytes are those of the disk, one to one, if there is one: long reads are sent from it.
    fn plain_file(&self) -> Option<File> {
        None
    }

    /// Makes everything durable for the last time.
    ///
    /// # Errors
    ///
    /// As [`BlockWrite::flush`].
    fn close(&mut self) -> Result<(), Error> {
        self.flush()
    }
}

/// A disk that is being served: many readers, or one writer.
pub(super) type Shared = Arc<RwLock<Box<dyn ServedDisk>>>;

/// What gives each client a disk of its own.
type Private = Box<dyn Fn() -> Result<Box<dyn ServedDisk>, Error> + Send + Sync>;

/// A disk under a name.
pub struct Export {
    name: String,
    description: String,
    size: u64,
    read_only: bool,
    source: Source,
}

enum Source {
    Shared(Shared),
    Private(Private),
}

impl Export {
    /// Returns `disk` under `name`, the same for all clients.
    #[must_use]
    pub fn new(name: impl Into<String>, disk: Box<dyn ServedDisk>, read_only: bool) -> Self {
        let size = disk.size();
        let source = Source::Shared(Arc::new(RwLock::new(disk)));
        Self { name: name.into(), description: String::new(), size, read_only, source }
    }

    /// Returns a disk of `size` bytes under `name` that each client has for itself: `make` makes it when transmission begins,
    /// and it is dropped when it ends.
    #[must_use]
    pub fn private(
        name: impl Into<String>,
        size: u64,
        make: impl Fn() -> Result<Box<dyn ServedDisk>, Error> + Send + Sync + 'static,
    ) -> Self {
        let source = Source::Private(Box::new(make));
        Self { name: name.into(), description: String::new(), size, read_only: false, source }
    }

    /// Returns the export with something to say about it to people.
    #[must_use]
    pub fn described(self, description: impl Into<String>) -> Self {
        Self { description: description.into(), ..self }
    }

    /// Returns the name by which clients ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what is said about it to people.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Returns its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns whether clients may only read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Returns what a client is told about it, who agreed on `style`.
    pub(super) fn summary(&self, style: HeaderStyle) -> ExportSummary {
        let mut flags = transmission::HAS_FLAGS | transmission::SEND_FLUSH | transmission::SEND_FUA | transmission::SEND_CACHE;
        if self.read_only {
            flags |= transmission::READ_ONLY;
        } else {
            flags |= transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES | transmission::SEND_FAST_ZERO;
        }
        // Spec: "MUST leave this flag clear if neither structured replies nor extended headers have been negotiated"
        if style != HeaderStyle::Simple {
            flags |= transmission::SEND_DF;
        }
        // Spec: "the effects of `NBD_CMD_FLUSH` and `NBD_CMD_FLAG_FUA` MUST be visible across all connections":
        // one disk, one lock, and nothing is kept beside it.
        if matches!(self.source, Source::Shared(_)) {
            flags |= transmission::CAN_MULTI_CONN;
        }
        ExportSummary { size: self.size, flags }
    }

    /// Returns the disk for a client.
    pub(super) fn open(&self) -> Result<Shared, Error> {
        match &self.source {
            Source::Shared(disk) => Ok(Arc::clone(disk)),
            Source::Private(make) => Ok(Arc::new(RwLock::new(make()?))),
        }
    }

    /// Makes everything durable for the last time.
    ///
    /// # Errors
    ///
    /// As [`ServedDisk::close`].
    pub fn close(&self) -> Result<(), Error> {
        match &self.source {
            Source::Shared(disk) => disk.write().unwrap_or_else(PoisonError::into_inner).close(),
            Source::Private(_) => Ok(()),
        }
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}
