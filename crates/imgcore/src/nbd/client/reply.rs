//! What a server answers to one request, held to what was asked for.

use super::fault::Fault;
use super::stream::{Receiver, Wait};
use crate::block::ByteRange;
use crate::nbd::wire::{
    ChunkHeader, ChunkKind, Command, DATA_PREFIX_LEN, Failure, HOLE_LEN, HeaderStyle, HoleChunk, ReplyHeader, Status,
    decode_data_offset,
};

/// A request whose answer is awaited.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) style: HeaderStyle,
    pub(super) command: Command,
    /// What the request is about.
    pub(super) range: ByteRange,
    /// The number of the context whose status is asked for.
    pub(super) context: u32,
    /// Where the bytes of a read go.
    pub(super) buf: &'a mut [u8],
    /// What is known about the bytes of a read: runs that came, in order of offset, neighbours joined.
    covered: Vec<ByteRange>,
    /// The answer to a question for status.
    pub(super) status: Option<Status>,
    /// Why the server did not do it.
    pub(super) failure: Option<Failure>,
    failures: u32,
}

impl<'a> Answer<'a> {
    pub(super) fn new(style: HeaderStyle, command: Command, range: ByteRange, context: u32, buf: &'a mut [u8]) -> Self {
        Self { style, command, range, context, buf, covered: Vec::new(), status: None, failure: None, failures: 0 }
    }

    /// Returns how many bytes pass for it; work on the server counts as some.
    pub(super) fn cost(&self) -> u64 {
        match self.command {
            Command::Read | Command::Write => self.range.len(),
            Command::WriteZeroes => self.range.len().min(ZEROES),
            _ => 0,
        }
    }

    /// Reads what follows `header`, which belongs to this request, and returns whether the answer is complete.
    ///
    /// # Errors
    ///
    /// When the answer is not one to this request, or does not come in time: nothing that follows makes sense.
    pub(super) fn take(&mut self, header: &ReplyHeader, receiver: &mut Receiver, until: Wait) -> Result<bool, Fault> {
        match header {
            ReplyHeader::Simple(reply) => {
                if reply.error != 0 {
                    self.failure = Some(Failure { error: reply.error, message: String::new(), offset: None });
                    return if self.covered.is_empty() { Ok(true) } else { Err(Fault::lie("a reply has two kinds")) };
                }
                // Spec: "the server MUST use structured replies for any reply with a payload"
                if self.style != HeaderStyle::Simple && matches!(self.command, Command::Read | Command::BlockStatus) {
                    return Err(Fault::lie("this request must be answered in chunks"));
                }
                if self.command == Command::Read {
                    receiver.read_exact(self.buf, until)?;
                }
                Ok(true)
            }
            ReplyHeader::Chunk(chunk) => {
                // Spec: "offset ... MUST match the corresponding request"
                if self.style == HeaderStyle::Extended && chunk.offset != self.range.start() {
                    return Err(Fault::lie("a reply has another offset than its request"));
                }
                self.chunk(chunk, receiver, until)?;
                if chunk.is_done() {
                    self.finish()?;
                }
                Ok(chunk.is_done())
            }
        }
    }

    fn chunk(&mut self, chunk: &ChunkHeader, receiver: &mut Receiver, until: Wait) -> Result<(), Fault> {
        if ChunkKind::is_error(chunk.kind) {
            return self.error(chunk, receiver, until);
        }
        match (ChunkKind::from_number(chunk.kind), self.command) {
            (Some(ChunkKind::None), _) => Ok(()),
            (Some(ChunkKind::Data), Command::Read) => {
                let prefix = u64::try_from(DATA_PREFIX_LEN).unwrap_or(u64::MAX);
                let len = chunk.len.checked_sub(prefix).filter(|len| *len > 0);
                let len = len.ok_or_else(|| Fault::lie("a chunk of data must hold some"))?;
                let offset = decode_data_offset(receiver.read_array(until)?);
                let place = self.cover(offset, len)?;
                let place = self.buf.get_mut(place).ok_or_else(|| Fault::lie("a chunk goes beyond its request"))?;
                receiver.read_exact(place, until)
            }
            (Some(ChunkKind::Hole), Command::Read) => {
                let hole = HoleChunk::decode(&receiver.read_vec(chunk.len, HOLE_LEN, until)?)?;
                let place = self.cover(hole.offset, u64::from(hole.len))?;
                self.buf.get_mut(place).ok_or_else(|| Fault::lie("a chunk goes beyond its request"))?.fill(0);
                Ok(())
            }
            (Some(kind @ (ChunkKind::BlockStatus | ChunkKind::BlockStatusExt)), Command::BlockStatus) => {
                // Spec: "If extended headers were negotiated, the server MUST use `NBD_REPLY_TYPE_BLOCK_STATUS_EXT`"
                if (self.style == HeaderStyle::Extended) != (kind == ChunkKind::BlockStatusExt) {
                    return Err(Fault::lie("the status has another width than was agreed on"));
                }
                let status = Status::decode(kind, &receiver.read_vec(chunk.len, MOST_STATUS, until)?)?;
                if status.context != self.context {
                    return Err(Fault::lie("the status is that of a context nobody asked for"));
                }
                // Spec: "a server MUST NOT send more than one chunk for a given metadata context"
                match self.status.replace(status) {
                    None => Ok(()),
                    Some(_) => Err(Fault::lie("the status of one context comes once")),
                }
            }
            // Spec: "MUST initiate a hard disconnect" for a type that is not known, or not expected
            _ => Err(Fault::lie(format_args!("a chunk of type {} does not answer this request", chunk.kind))),
        }
    }

    fn error(&mut self, chunk: &ChunkHeader, receiver: &mut Receiver, until: Wait) -> Result<(), Fault> {
        let failure = Failure::decode(chunk.kind, &receiver.read_vec(chunk.len, MOST_ERROR, until)?)?;
        // Spec: "the offset MUST be within the range of the original request"
        let outside = |offset: u64| !self.range.contains(offset) && !self.range.is_empty();
        if failure.offset.is_some_and(outside) {
            return Err(Fault::lie("an error is at an offset outside its request"));
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures > MOST_ERRORS {
            return Err(Fault::lie("a reply has errors without end"));
        }
        self.failure.get_or_insert(failure);
        Ok(())
    }

    /// Notes that `len` bytes at `offset` came, and returns where they go.
    fn cover(&mut self, offset: u64, len: u64) -> Result<std::ops::Range<usize>, Fault> {
        let inside =
            ByteRange::at(offset, len).filter(|new| new.start() >= self.range.start() && new.end() <= self.range.end());
        // Spec: "MUST lie within the bounds of the original offset and length of the client's request"
        let new = inside.ok_or_else(|| Fault::lie("a chunk goes beyond its request"))?;
        let at = self.covered.partition_point(|run| run.start() < new.start());
        let before = at.checked_sub(1).and_then(|before| Some((before, *self.covered.get(before)?)));
        let after = self.covered.get(at).copied();
        // Spec: "MUST NOT overlap any earlier chunk"
        if before.is_some_and(|(_, run)| run.end() > new.start()) || after.is_some_and(|run| run.start() < new.end()) {
            return Err(Fault::lie("two chunks are about the same bytes"));
        }
        match before {
            Some((index, run)) if run.end() == new.start() => {
                if let Some(place) = self.covered.get_mut(index) {
                    *place = ByteRange::new(run.start(), new.end()).unwrap_or(new);
                }
            }
            _ if self.covered.len() >= MOST_RUNS => return Err(Fault::lie("a reply is in too many pieces")),
            _ => self.covered.insert(at, new),
        }
        let start = usize::try_from(offset.saturating_sub(self.range.start())).unwrap_or(usize::MAX);
        Ok(start..start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)))
    }

    /// Checks that all came that was asked for.
    fn finish(&self) -> Result<(), Fault> {
        if self.failure.is_some() {
            return Ok(());
        }
        let all = self.covered.iter().map(|run| run.len()).fold(0, u64::saturating_add);
        match self.command {
            // Spec: "the server MUST ensure that the data chunks cover the entire request"
            Command::Read if all != self.range.len() => Err(Fault::lie("a reply ends before all bytes came")),
            Command::BlockStatus if self.status.is_none() => Err(Fault::lie("the status is missing in the reply")),
            _ => Ok(()),
        }
    }
}

/// Bytes as many as pass while a server may be busy with zeros, however many these are.
const ZEROES: u64 = 2 << 20;

/// Bytes of the longest status that is read: a million of extents.
const MOST_STATUS: usize = (16 << 20) + 8;

/// Bytes of the longest error that is read.
const MOST_ERROR: usize = 8192;

/// Errors in one reply.
const MOST_ERRORS: u32 = 64;

/// Runs, with gaps between them, that one reply may be in at a time.
const MOST_RUNS: usize = 4096;
