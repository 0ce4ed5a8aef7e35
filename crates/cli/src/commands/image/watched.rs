//! A disk that is read from its start to its end, with progress and with an eye on the signals.

use std::sync::{Mutex, PoisonError};

use imgcore::block::{BlockRead, Error, ErrorKind, Extent};

use crate::context::Context;
use crate::progress::Progress;

/// A disk whose reads move a progress bar, and fail once a signal asks the program to stop.
#[derive(Debug)]
pub(super) struct Watched<'a, D> {
    disk: &'a D,
    context: &'a Context,
    progress: Option<Mutex<Progress>>,
}

impl<'a, D: BlockRead> Watched<'a, D> {
    /// Returns `disk` with a progress bar under `label`, or with none.
    pub(super) fn new(context: &'a Context, disk: &'a D, label: Option<&str>) -> Self {
        let progress = label.map(|label| Mutex::new(Progress::bytes(context, label, disk.size())));
        Self { disk, context, progress }
    }
}

impl<D: BlockRead> BlockRead for Watched<'_, D> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        if self.context.interrupt().is_set() {
            return Err(Error::new(ErrorKind::Io, "interrupted"));
        }
        if let Some(progress) = &self.progress {
            progress.lock().unwrap_or_else(PoisonError::into_inner).set(offset);
        }
        self.disk.read_exact_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        self.disk.extent_at(offset)
    }
}
