//! Work on an image that takes long: it shows how far it is, and a signal ends it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use imgcore::block;

use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// What looks on while an image is worked on.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    context: &'a Context,
    progress: Option<Mutex<Progress>>,
    done: AtomicU64,
}

impl<'a> Watch<'a> {
    /// Returns what looks on while `label` is done to `total` bytes; a quiet one shows nothing.
    pub(super) fn new(context: &'a Context, label: &str, total: u64, quiet: bool) -> Self {
        Self {
            context,
            progress: (!quiet).then(|| Mutex::new(Progress::bytes(context, label, total))),
            done: AtomicU64::new(0),
        }
    }

    /// Takes note that the work has come to `offset`.
    ///
    /// # Errors
    ///
    /// When a signal asks the program to stop.
    pub(super) fn tell(&self, offset: u64) -> Result<(), block::Error> {
        self.done.store(offset, Ordering::Relaxed);
        if let Some(progress) = &self.progress {
            progress.lock().unwrap_or_else(PoisonError::into_inner).set(offset);
        }
        let stopped = self.context.interrupt().is_set();
        if stopped { Err(block::Error::new(block::ErrorKind::Io, "interrupted")) } else { Ok(()) }
    }
}

impl Watch<'_> {
    /// Takes note that the work has come `bytes` further.
    ///
    /// # Errors
    ///
    /// As [`Watch::tell`].
    pub(super) fn advance(&self, bytes: u64) -> Result<(), block::Error> {
        self.tell(self.done.load(Ordering::Relaxed).saturating_add(bytes))
    }
}

/// A limit of the bytes in a second.
#[derive(Debug)]
pub(super) struct Rate {
    /// Bytes in a second; 0 for no limit.
    limit: u64,
    /// Until when those who come have to wait.
    free: Mutex<Instant>,
}

impl Rate {
    /// Returns the limit of so many bytes in a second, or none with 0.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, free: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may be moved, or until `interrupt` is set.
    pub(super) fn wait(&self, bytes: u64, interrupt: &Interrupt) {
        let nanos = u128::from(bytes).saturating_mul(1_000_000_000).checked_div(u128::from(self.limit)).unwrap_or(0);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let turn = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*free).max(Instant::now());
            *free = turn.checked_add(cost).unwrap_or(turn);
            turn
        };
        while !interrupt.is_set() && Instant::now() < turn {
            std::thread::sleep(turn.saturating_duration_since(Instant::now()).min(NAP));
        }
    }
}

/// How long nobody looks whether a signal has come.
const NAP: Duration = Duration::from_millis(50);

/// Returns how many threads read an image: more than that wait for the file.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}
