//! Writing back early: what is written is on its way to the disk before anybody waits for it.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::block::ByteRange;

/// What was written and not yet sent on its way: one run, as large writes go one behind the other.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    run: ByteRange,
}

impl Writeback {
    /// Takes note of a write to `range`; now and then the kernel is told to begin with what came before.
    pub(super) fn wrote(&mut self, file: &File, range: ByteRange) {
        if range.start() != self.run.end() {
            self.run = range;
        } else if let Some(run) = ByteRange::new(self.run.start(), range.end()) {
            self.run = run;
        }
        if self.run.len() >= RUN {
            begin(file, self.run);
            self.run = ByteRange::at(self.run.end(), 0).unwrap_or_default();
        }
    }
}

/// Tells the kernel to begin writing `range`, and waits for nothing. Only a hint: failures come with the next flush.
#[expect(unsafe_code, reason = "sync_file_range(2), which rustix lacks")]
fn begin(file: &File, range: ByteRange) {
    if let (Ok(start), Ok(len)) = (i64::try_from(range.start()), i64::try_from(range.len())) {
        // SAFETY: the descriptor is open as long as `file` lives, and the call takes no pointers.
        let _hint = unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// Bytes that are sent together: enough to keep a disk busy.
const RUN: u64 = 16 << 20;
