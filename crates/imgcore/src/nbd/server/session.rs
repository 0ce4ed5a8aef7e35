//! Transmission: requests of one client, carried out by some threads.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::Advice;

use super::export::{ServedDisk, Shared};
use super::handshake::{Agreed, broken};
use super::outgoing::Outgoing;
use super::reply::Reply;
use super::request::{Refusal, Rules, Task};
use super::status::status;
use super::stream::Sink;
use super::{MAX_PAYLOAD, PIECE, discard};
use crate::block::{ByteRange, Error, ErrorKind, Hole};
use crate::nbd::wire::{ChunkKind, Command, ErrorCode, HeaderStyle, Malformed, Request};

/// One client that transmits.
pub(super) struct Session<'a> {
    agreed: Agreed<'a>,
    disk: Shared,
    /// The file that long reads are sent from.
    file: Option<File>,
    rules: Rules,
    /// Whether the server ends.
    stopping: &'a AtomicBool,
    report: &'a (dyn Fn(&str) + Send + Sync),
    /// Failures of this side that were reported.
    reported: AtomicUsize,
}

/// A request that is ready to be carried out, its payload read.
enum Job {
    /// With as many bytes of payload in the thread's buffer as the range has.
    Ready(Request, Result<Task, Refusal>),
    /// Carried out while its payload was read.
    Done(Request, Result<(), Refusal>),
}

impl<'a> Session<'a> {
    /// Opens the disk that was agreed on.
    pub(super) fn open(
        agreed: Agreed<'a>,
        stopping: &'a AtomicBool,
        report: &'a (dyn Fn(&str) + Send + Sync),
    ) -> io::Result<Self> {
        let disk = agreed.export.open().inspect_err(|error| report(&explain(error)))?;
        let rules = Rules {
            size: agreed.export.size(),
            read_only: agreed.export.is_read_only(),
            style: agreed.style,
            has_contexts: !agreed.contexts.is_empty(),
        };
        let file = disk.read().unwrap_or_else(PoisonError::into_inner).plain_file();
        Ok(Self { agreed, disk, file, rules, stopping, report, reported: AtomicUsize::new(0) })
    }

    /// Carries out requests until the client ends, and refuses them once the server does. Any number of threads may do so: one
    /// reads, the others work.
    ///
    /// The reader is taken away when nothing more will be read.
    pub(super) fn work<R: Read, W: Sink>(&self, reader: &Mutex<Option<R>>, writer: &Mutex<Outgoing<W>>) -> io::Result<()> {
        let mut buf = Vec::new();
        loop {
            let mut slot = reader.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(open) = slot.as_mut() else { return Ok(()) };
            let job = match self.next(open, &mut buf) {
                Ok(Some(job)) => job,
                other => {
                    *slot = None;
                    return other.map(|_| ());
                }
            };
            drop(slot);
            if let Err(error) = self.carry_out(job, &mut buf, writer) {
                // The connection has ended, so that nobody waits in the reader for ever.
                *reader.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return Err(error);
            }
        }
    }

    /// Reads a request and its payload, or nothing at the client's end.
    fn next(&self, reader: &mut impl Read, buf: &mut Vec<u8>) -> io::Result<Option<Job>> {
        let mut bytes = [0; LONGEST_HEADER];
        let header = bytes.get_mut(..Request::header_len(self.agreed.style)).unwrap_or_default();
        match reader.read_exact(header) {
            // A client that is just gone has ended as well, though not as it should.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let request = Request::decode(header, self.agreed.style).map_err(broken)?;
        if request.command == Command::Disconnect.number() {
            return Ok(None);
        }
        // Spec: "`NBD_ESHUTDOWN` (108), Server is in the process of being shut down."
        let task = self.until_stopped().and_then(|()| self.rules.check(&request));
        let payload = request.payload_len(self.agreed.style);
        // Spec: "A server SHOULD initiate hard disconnect if a client sets the `NBD_CMD_FLAG_PAYLOAD_LEN` flag and uses a
        // *length* larger than a server's advertised or default maximum payload length"
        if payload > u64::from(MAX_PAYLOAD) {
            return Err(broken(Malformed::new("request", "its payload is too long")));
        }
        let Ok(Task::Write { range, durable }) = task else {
            // Spec: "in all other cases, a server SHOULD gracefully consume *length* bytes of payload"
            discard(reader, payload)?;
            return Ok(Some(Job::Ready(request, task)));
        };
        if payload <= to_u64(PIECE) {
            reader.read_exact(sized(buf, payload))?;
            return Ok(Some(Job::Ready(request, task)));
        }
        let written = self.write_long(reader, buf, range, durable)?;
        Ok(Some(Job::Done(request, written)))
    }

    /// Writes what is too long for the buffer, piece by piece.
    fn write_long(
        &self,
        reader: &mut impl Read,
        buf: &mut Vec<u8>,
        range: ByteRange,
        durable: bool,
    ) -> io::Result<Result<(), Refusal>> {
        let mut written = Ok(());
        for piece in pieces(range, to_u64(PIECE)) {
            let bytes = sized(buf, piece.len());
            reader.read_exact(bytes)?;
            if written.is_ok() {
                written = self.writing(|disk| disk.write_all_at(bytes, piece.start()));
            }
        }
        Ok(written.and_then(|()| self.flush_if(durable)))
    }

    fn carry_out(&self, job: Job, buf: &mut Vec<u8>, writer: &Mutex<Outgoing<impl Sink>>) -> io::Result<()> {
        let (request, done) = match job {
            Job::Done(request, done) => (request, done),
            Job::Ready(request, Err(refusal)) => (request, Err(refusal)),
            Job::Ready(request, Ok(task)) => {
                let reply = Reply::to(&request, self.agreed.style);
                match task {
                    Task::Read { range, whole } => return self.read(range, whole, reply, buf, writer),
                    Task::Status { range, one } => return self.status(range, one, reply, writer),
                    task => (request, self.change(task, buf)),
                }
            }
        };
        let reply = Reply::to(&request, self.agreed.style);
        let writer = &mut *Outgoing::lock(writer);
        match done {
            Ok(()) => reply.done(writer),
            Err(refusal) => reply.refuse(writer, refusal),
        }
    }

    /// Does what is answered without a payload.
    fn change(&self, task: Task, buf: &mut Vec<u8>) -> Result<(), Refusal> {
        match task {
            Task::Write { range, durable } => {
                self.writing(|disk| disk.write_all_at(buf.get(..to_usize(range.len())).unwrap_or_default(), range.start()))?;
                self.flush_if(durable)
            }
            Task::Zero { range, hole, fast, durable } => {
                self.zero(range, hole, fast)?;
                self.flush_if(durable)
            }
            Task::Trim { range, durable } => {
                self.trim(range)?;
                self.flush_if(durable)
            }
            Task::Cache(range) => pieces(range, to_u64(PIECE))
                .try_for_each(|piece| self.reading(|disk| disk.read_exact_at(sized(buf, piece.len()), piece.start()))),
            Task::Flush => self.flush_if(true),
            Task::Read { .. } | Task::Status { .. } => Ok(()),
        }
    }

    /// Refuses everything that is not begun once the server ends.
    fn until_stopped(&self) -> Result<(), Refusal> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Refusal::new(ErrorCode::Shutdown, "the server is about to end"));
        }
        Ok(())
    }

    fn zero(&self, range: ByteRange, hole: Hole, fast: bool) -> Result<(), Refusal> {
        for piece in pieces(range, STEP) {
            self.until_stopped()?;
            // Where a part was fast, all of it takes less time than to write it.
            let may_refuse = fast && piece.start() == range.start();
            let done = self.writing(|disk| {
                let done = disk.write_zeroes_fast(piece, hole)?;
                if !done && !may_refuse {
                    disk.write_zeroes_at(piece, hole)?;
                }
                Ok(done || !may_refuse)
            })?;
            // Spec: "the server MUST fail quickly with `NBD_ENOTSUP` unless the request can be serviced in less time"
            if !done {
                return Err(Refusal::new(ErrorCode::NotSupported, "zeros are not faster than writing"));
            }
        }
        Ok(())
    }

    /// Spec: "MAY round *offset* up and *length* down to meet internal alignment constraints".
    fn trim(&self, range: ByteRange) -> Result<(), Refusal> {
        let start = range.start().next_multiple_of(TRIM_UNIT);
        let end = range.end().saturating_sub(range.end().checked_rem(TRIM_UNIT).unwrap_or(0));
        for piece in ByteRange::new(start, end).into_iter().flat_map(|range| pieces(range, STEP)) {
            self.until_stopped()?;
            self.writing(|disk| disk.write_zeroes_fast(piece, Hole::Allow))?;
        }
        Ok(())
    }

    fn read(
        &self,
        range: ByteRange,
        whole: bool,
        reply: Reply,
        buf: &mut Vec<u8>,
        writer: &Mutex<Outgoing<impl Sink>>,
    ) -> io::Result<()> {
        let is_simple = self.agreed.style == HeaderStyle::Simple;
        // A simple reply says whether the read has failed before it brings the first byte.
        if let Some(file) = self.file.as_ref().filter(|_| range.len() >= LONG && !is_simple) {
            return self.send(file, range, reply, buf, writer);
        }
        if whole && range.len() > to_u64(PIECE) {
            // Spec: "A server MAY reject a client's request with the error `NBD_EOVERFLOW` if the length is too large to send
            // without fragmentation"
            return reply.refuse(&mut *Outgoing::lock(writer), Refusal::new(ErrorCode::Overflow, "too long for one chunk"));
        }
        if range.is_empty() {
            return reply.done(&mut *Outgoing::lock(writer));
        }
        let mut held = None;
        for piece in pieces(range, to_u64(PIECE)) {
            let bytes = sized(buf, piece.len());
            let done = self.reading(|disk| disk.read_exact_at(bytes, piece.start()));
            let writer = &mut **held.get_or_insert_with(|| Outgoing::lock(writer));
            match done {
                Ok(()) => reply.data(writer, piece.start(), bytes, piece.end() == range.end())?,
                // Spec: "If an error occurs while reading after the server has already sent out the reply header ... the server
                // MUST immediately initiate a hard disconnect"
                Err(_) if is_simple && piece.start() != range.start() => {
                    writer.break_off();
                    return Err(io::Error::other("a read failed after its reply had begun"));
                }
                Err(refusal) => return reply.refuse(writer, refusal),
            }
            if !is_simple {
                // A simple reply is one message: nothing may come between its parts.
                held = None;
            }
        }
        Ok(())
    }

    /// Sends what is read straight from the file, in one chunk.
    fn send(
        &self,
        file: &File,
        range: ByteRange,
        reply: Reply,
        buf: &mut Vec<u8>,
        writer: &Mutex<Outgoing<impl Sink>>,
    ) -> io::Result<()> {
        // The storage begins while others still send.
        let _slower = rustix::fs::fadvise(file, range.start(), NonZero::new(range.len()), Advice::WillNeed);
        let writer = &mut *Outgoing::lock(writer);
        reply.begin(writer, range.len())?;
        let sent = writer.send_file(file, range)?;
        let rest = ByteRange::new(range.start().saturating_add(sent), range.end()).unwrap_or_default();
        let mut failed = None;
        for piece in pieces(rest, to_u64(PIECE)) {
            let bytes = sized(buf, piece.len());
            if failed.is_none() {
                failed = self.reading(|disk| disk.read_exact_at(bytes, piece.start())).err();
            }
            if failed.is_some() {
                // Spec: "it MUST use padding bytes which SHOULD be zero, for any remaining data portion of a chunk"
                bytes.fill(0);
            }
            writer.write_all(bytes)?;
        }
        match failed {
            Some(refusal) => reply.refuse(writer, refusal),
            None => reply.done(writer),
        }
    }

    fn status(&self, range: ByteRange, one: bool, reply: Reply, writer: &Mutex<Outgoing<impl Sink>>) -> io::Result<()> {
        let contexts = &self.agreed.contexts;
        let found = self
            .reading(|disk| contexts.iter().map(|context| status(disk, *context, range, one)).collect::<Result<Vec<_>, _>>());
        let kind = match self.agreed.style {
            HeaderStyle::Extended => ChunkKind::BlockStatusExt,
            HeaderStyle::Simple | HeaderStyle::Structured => ChunkKind::BlockStatus,
        };
        let writer = &mut *Outgoing::lock(writer);
        match found {
            Ok(found) => {
                // Spec: "exactly one status chunk per negotiated metadata context ID"
                for (status, index) in found.iter().zip(1..) {
                    reply.chunk(writer, kind, index == found.len(), &[&status.encode(kind)])?;
                }
                Ok(())
            }
            Err(refusal) => reply.refuse(writer, refusal),
        }
    }

    fn flush_if(&self, durable: bool) -> Result<(), Refusal> {
        if durable && !self.rules.read_only { self.writing(|disk| disk.flush()) } else { Ok(()) }
    }

    fn writing<T>(&self, change: impl FnOnce(&mut dyn ServedDisk) -> Result<T, Error>) -> Result<T, Refusal> {
        let mut disk = self.disk.write().unwrap_or_else(PoisonError::into_inner);
        self.seen(change(&mut **disk))
    }

    fn reading<T>(&self, look: impl FnOnce(&dyn ServedDisk) -> Result<T, Error>) -> Result<T, Refusal> {
        let disk = self.disk.read().unwrap_or_else(PoisonError::into_inner);
        self.seen(look(&**disk))
    }

    /// Turns a failure into what the client is told, and reports the first ones.
    fn seen<T>(&self, done: Result<T, Error>) -> Result<T, Refusal> {
        done.map_err(|error| {
            if error.kind() != ErrorKind::ReadOnly && self.reported.fetch_add(1, Ordering::Relaxed) < MOST_REPORTS {
                (self.report)(&explain(&error));
            }
            Refusal::of(error.kind())
        })
    }
}

/// Returns an error and its causes in one line.
fn explain(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

/// Returns the first `len` bytes of the buffer, which grows if it must.
fn sized(buf: &mut Vec<u8>, len: u64) -> &mut [u8] {
    let len = to_usize(len);
    if buf.len() < len {
        buf.resize(len, 0);
    }
    buf.get_mut(..len).unwrap_or_default()
}

/// Returns the parts of `range` of at most `step` bytes.
fn pieces(range: ByteRange, step: u64) -> impl Iterator<Item = ByteRange> {
    let starts = std::iter::successors(Some(range.start()), move |at| at.checked_add(step));
    let starts = starts.take_while(move |at| *at < range.end());
    starts.filter_map(move |at| ByteRange::new(at, at.saturating_add(step).min(range.end())))
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Bytes of the longest request header.
const LONGEST_HEADER: usize = 32;

/// Bytes from which on a read is sent straight from a file.
const LONG: u64 = 128 << 10;

/// Bytes that are zeroed while others wait.
const STEP: u64 = 128 << 20;

/// What a trim is rounded to.
const TRIM_UNIT: u64 = 4096;

/// Failures of this side that are reported for one client.
const MOST_REPORTS: usize = 10;
