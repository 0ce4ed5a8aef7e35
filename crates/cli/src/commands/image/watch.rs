//! Work on an image that takes long: it shows how far it is, and a signal ends it.

use std::sync::{Mutex, PoisonError};

use imgcore::block;

use crate::context::Context;
use crate::progress::Progress;

/// What looks on while an image is worked on.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    context: &'a Context,
    progress: Option<Mutex<Progress>>,
}

impl<'a> Watch<'a> {
    /// Returns what looks on while `label` is done to `total` bytes; a quiet one shows nothing.
    pub(super) fn new(context: &'a Context, label: &str, total: u64, quiet: bool) -> Self {
        Self { context, progress: (!quiet).then(|| Mutex::new(Progress::bytes(context, label, total))) }
    }

    /// Takes note that the work has come to `offset`.
    ///
    /// # Errors
    ///
    /// When a signal asks the program to stop.
    pub(super) fn tell(&self, offset: u64) -> Result<(), block::Error> {
        if let Some(progress) = &self.progress {
            progress.lock().unwrap_or_else(PoisonError::into_inner).set(offset);
        }
        let stopped = self.context.interrupt().is_set();
        if stopped { Err(block::Error::new(block::ErrorKind::Io, "interrupted")) } else { Ok(()) }
    }
}

/// Returns how many threads read an image: more than that wait for the file.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}
