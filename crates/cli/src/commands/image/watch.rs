//! Work on an image that takes long: it shows how far it is, and a signal ends it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use imgcore::block::{self, BlockRead, Extent};

use crate::context::Context;
use crate::error::CommandError;
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// What looks on while an image is worked on.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    context: &'a Context,
    progress: Option<Mutex<Progress>>,
    done: AtomicU64,
    total: u64,
    /// The last percentage that was printed, in hundredths; `None` when none is.
    printed: Option<Mutex<u64>>,
}

impl<'a> Watch<'a> {
    /// Returns what looks on while `label` is done to `total` bytes; a quiet one shows nothing.
    pub(super) fn new(context: &'a Context, label: &str, total: u64, quiet: bool) -> Self {
        Self {
            context,
            progress: (!quiet).then(|| Mutex::new(Progress::bytes(context, label, total))),
            done: AtomicU64::new(0),
            total,
            printed: None,
        }
    }

    /// Prints progress on standard output as qemu-img does, if `wanted` says so, and no bar.
    ///
    /// # Errors
    ///
    /// As [`Context::write_out`].
    pub(super) fn percent(mut self, wanted: bool) -> Result<Self, CommandError> {
        if wanted {
            self.progress = None;
            self.printed = Some(Mutex::new(0));
            self.print(0)?;
        }
        Ok(self)
    }

    /// Takes note that all is done.
    ///
    /// # Errors
    ///
    /// As [`Context::write_out`].
    pub(super) fn finish(self) -> Result<(), CommandError> {
        self.complete()?;
        if self.printed.is_some() { self.context.write_out(b"\n") } else { Ok(()) }
    }

    /// As [`Watch::finish`], but the line goes on.
    ///
    /// # Errors
    ///
    /// As [`Context::write_out`].
    pub(super) fn complete(&self) -> Result<(), CommandError> {
        if self.printed.is_some() { self.print(WHOLE) } else { Ok(()) }
    }

    fn print(&self, hundredths: u64) -> Result<(), CommandError> {
        let (whole, part) = (hundredths.div_euclid(100), hundredths.rem_euclid(100));
        self.context.write_out(format!("    ({whole}.{part:02}/100%)\r").as_bytes())
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
        if let Some(printed) = &self.printed {
            let done = u128::from(offset).saturating_mul(u128::from(WHOLE)).checked_div(u128::from(self.total));
            let done = done.and_then(|done| u64::try_from(done).ok()).unwrap_or(WHOLE).min(WHOLE);
            let mut last = printed.lock().unwrap_or_else(PoisonError::into_inner);
            if done >= last.saturating_add(PERCENT) {
                *last = done;
                // Whether anybody reads it does not matter to the work.
                let _shown = self.print(done);
            }
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

/// A disk that is read at a limited rate.
#[derive(Debug)]
pub(super) struct Paced<'a> {
    disk: &'a dyn BlockRead,
    rate: Rate,
    context: &'a Context,
}

impl<'a> Paced<'a> {
    /// Returns `disk`, of which `limit` bytes can be read in a second.
    pub(super) fn new(disk: &'a dyn BlockRead, limit: u64, context: &'a Context) -> Self {
        Self { disk, rate: Rate::new(limit), context }
    }
}

impl BlockRead for Paced<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        self.rate.wait(u64::try_from(buf.len()).unwrap_or(u64::MAX), self.context.interrupt());
        self.disk.read_exact_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        self.disk.extent_at(offset)
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

/// All of the work, in hundredths of a percent.
const WHOLE: u64 = 10_000;
const PERCENT: u64 = 100;

/// How long nobody looks whether a signal has come.
const NAP: Duration = Duration::from_millis(50);

/// The most threads that read beside one that writes: each holds some MiB.
pub(super) const READERS: usize = 4;

/// Returns how many threads read an image: more than that wait for the file.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}
