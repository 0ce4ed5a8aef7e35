//! Dirty pages are sent to the disk while more are made, so that the flush at the end has little left to wait for.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::block::ByteRange;

/// A thread that has what was written to a file stored by and by. It makes nothing durable; a flush does.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    /// What was written and not handed on yet.
    written: ByteRange,
    /// Bytes that were written, the same ones counted again.
    total: u64,
    thread: Option<(SyncSender<ByteRange>, JoinHandle<()>)>,
    off: bool,
}

impl Writeback {
    /// Returns one that does nothing, for a file that nobody will flush.
    pub(super) fn off() -> Self {
        Self { written: ByteRange::default(), total: 0, thread: None, off: true }
    }

    /// Takes note that `range` was written.
    pub(super) fn wrote(&mut self, file: &File, range: ByteRange) {
        if self.off {
            return;
        }
        self.total = self.total.saturating_add(range.len());
        let near = range.start() >= self.written.start() && range.start() <= self.written.end().saturating_add(STEP);
        if !near {
            self.hand_on(file);
            self.written = range;
        }
        self.written = ByteRange::new(self.written.start(), self.written.end().max(range.end())).unwrap_or(range);
        if self.written.len() >= STEP {
            self.hand_on(file);
        }
    }

    fn hand_on(&mut self, file: &File) {
        // For a little, a flush alone is faster.
        if self.written.is_empty() || self.total.max(self.written.len()) < STEP {
            return;
        }
        if self.thread.is_none() {
            self.thread = start(file);
        }
        let Some((send, _)) = &self.thread else { return };
        // When the disk is behind, the next run becomes longer.
        if !matches!(send.try_send(self.written), Err(TrySendError::Full(_))) {
            self.written = ByteRange::new(self.written.end(), self.written.end()).unwrap_or_default();
        }
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        if let Some((send, thread)) = self.thread.take() {
            drop(send);
            // The thread has nothing to say: what could not be stored is reported to the flush.
            let _ended = thread.join();
        }
    }
}

/// Starts the thread; everything works without it as well.
fn start(file: &File) -> Option<(SyncSender<ByteRange>, JoinHandle<()>)> {
    let file = file.try_clone().ok()?;
    let (send, receive) = sync_channel::<ByteRange>(2);
    let work = move || receive.iter().for_each(|range| begin(&file, range));
    let thread = thread::Builder::new().name("writeback".to_owned()).spawn(work).ok()?;
    Some((send, thread))
}

/// Begins to store the dirty pages of `range`. Failures are left for the flush, which meets them as well.
#[expect(unsafe_code, reason = "sync_file_range(2), which only the C library offers")]
fn begin(file: &File, range: ByteRange) {
    let (Ok(start), Ok(len)) = (i64::try_from(range.start()), i64::try_from(range.len())) else { return };
    // SAFETY: the descriptor is open as long as `file` lives; the call takes numbers and touches no memory of ours.
    let _begun = unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Bytes that are handed on together.
const STEP: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{ByteRange, STEP, Writeback};

    #[test]
    fn runs_are_joined_and_handed_on_when_they_are_long_enough() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("disk")).unwrap();
        let mut writeback = Writeback::default();
        let run = |start, end| ByteRange::new(start, end).unwrap();
        writeback.wrote(&file, run(0, 4096));
        writeback.wrote(&file, run(8192, 12288));
        assert_eq!(writeback.written, run(0, 12288), "the gap is small");
        assert!(writeback.thread.is_none());
        writeback.wrote(&file, run(12288, STEP));
        assert_eq!(writeback.written, run(STEP, STEP));
        assert!(writeback.thread.is_some());
        writeback.wrote(&file, run(5 * STEP, 5 * STEP + 1));
        assert_eq!(writeback.written, run(5 * STEP, 5 * STEP + 1), "somewhere else");
        let mut little = Writeback::default();
        little.wrote(&file, run(0, 4096));
        little.wrote(&file, run(5 * STEP, 5 * STEP + 1));
        assert!(little.thread.is_none());
        let mut off = Writeback::off();
        off.wrote(&file, run(0, STEP));
        assert!(off.thread.is_none());
    }
}
