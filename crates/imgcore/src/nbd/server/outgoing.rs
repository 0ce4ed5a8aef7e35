use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::{Mutex, MutexGuard};

use super::stream::Sink;
use crate::block::ByteRange;

/// Where the replies to a client go, one after the other, until one of them stays incomplete: nothing follows that one.
#[derive(Debug)]
pub(super) struct Outgoing<S> {
    sink: S,
    is_broken: bool,
}

impl<S: Sink> Outgoing<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, is_broken: false }
    }

    /// Keeps all others from writing, until what is returned is dropped.
    pub(super) fn lock(this: &Mutex<Self>) -> MutexGuard<'_, Self> {
        this.lock().unwrap_or_else(|poisoned| {
            let mut outgoing = poisoned.into_inner();
            outgoing.break_off();
            outgoing
        })
    }

    /// Ends the connection at once, since a reply that was begun cannot be finished.
    ///
    /// Spec: "MUST immediately initiate a hard disconnect; it MUST NOT send any further data to the client"
    pub(super) fn break_off(&mut self) {
        self.is_broken = true;
        // Another thread may wait for the client's next request, and is not to be waited for.
        self.sink.hang_up();
    }

    /// Sends the bytes of `file` in `range` as [`Sink::send_file`] does.
    pub(super) fn send_file(&mut self, file: &File, range: ByteRange) -> io::Result<u64> {
        self.pass(|sink| sink.send_file(file, range))
    }

    fn pass<T>(&mut self, write: impl FnOnce(&mut S) -> io::Result<T>) -> io::Result<T> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = write(&mut self.sink);
        if written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
            self.break_off();
        }
        written
    }
}

impl<S: Sink> Write for Outgoing<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.pass(|sink| sink.write(buf))
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.pass(|sink| sink.write_vectored(bufs))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.pass(|sink| sink.flush())
    }
}
