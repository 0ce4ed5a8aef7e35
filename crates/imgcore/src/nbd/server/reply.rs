//! Replies, in the style that was agreed on.

use std::io::{self, IoSlice, Write};

use super::request::Refusal;
use crate::nbd::wire::{ChunkHeader, ChunkKind, Failure, HeaderStyle, Request, SimpleReply, flag};

/// Writes the replies to one request. The caller keeps others from writing until a message is whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    style: HeaderStyle,
    cookie: u64,
    offset: u64,
}

impl Reply {
    pub(super) fn to(request: &Request, style: HeaderStyle) -> Self {
        Self { style, cookie: request.cookie, offset: request.offset }
    }

    /// Says that a command without a payload is done.
    pub(super) fn done(self, writer: &mut impl Write) -> io::Result<()> {
        match self.style {
            HeaderStyle::Simple => writer.write_all(&SimpleReply { error: 0, cookie: self.cookie }.encode()),
            HeaderStyle::Structured | HeaderStyle::Extended => self.chunk(writer, ChunkKind::None, true, &[]),
        }
    }

    /// Says why a command failed; it is the last part of the reply.
    pub(super) fn refuse(self, writer: &mut impl Write, refusal: Refusal) -> io::Result<()> {
        let error = refusal.code.number();
        if self.style == HeaderStyle::Simple {
            return writer.write_all(&SimpleReply { error, cookie: self.cookie }.encode());
        }
        let failure = Failure { error, message: refusal.message.to_owned(), offset: None };
        self.chunk(writer, failure.kind(), true, &[&failure.encode()])
    }

    /// Begins a chunk of what was read, `len` bytes that follow; [`Reply::done`] or [`Reply::refuse`] comes behind them.
    ///
    /// Spec: "MUST NOT do so for a content chunk if it would still be possible to detect an error while transmitting the chunk".
    pub(super) fn begin(self, writer: &mut impl Write, len: u64) -> io::Result<()> {
        let len = len.saturating_add(8);
        let header = ChunkHeader { flags: 0, kind: ChunkKind::Data.number(), cookie: self.cookie, offset: self.offset, len };
        writer.write_all(&[header.encode(self.style), self.offset.to_be_bytes().to_vec()].concat())
    }

    /// Sends a part of what was read, the bytes at `at`; a simple reply begins with the first part.
    pub(super) fn data(self, writer: &mut impl Write, at: u64, bytes: &[u8], last: bool) -> io::Result<()> {
        if self.style != HeaderStyle::Simple {
            return self.chunk(writer, ChunkKind::Data, last, &[&at.to_be_bytes(), bytes]);
        }
        let header = SimpleReply { error: 0, cookie: self.cookie }.encode();
        write_all(writer, &[if at == self.offset { &header } else { &[] }, bytes])
    }

    /// Sends a chunk; `last` is the end of the reply.
    pub(super) fn chunk(self, writer: &mut impl Write, kind: ChunkKind, last: bool, payload: &[&[u8]]) -> io::Result<()> {
        let len = payload.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let header = ChunkHeader {
            flags: if last { flag::reply::DONE } else { 0 },
            kind: kind.number(),
            cookie: self.cookie,
            // Spec: "*offset* which MUST match the *offset* of the client's request"
            offset: self.offset,
            len: u64::try_from(len).unwrap_or(u64::MAX),
        };
        let header = header.encode(self.style);
        match payload {
            [] => writer.write_all(&header),
            [first] => write_all(writer, &[&header, first]),
            // A data chunk: what comes before the data goes with the header.
            [first, rest @ ..] => {
                let start = [&header, *first].concat();
                write_all(writer, &[&start, rest.first().copied().unwrap_or_default()])
            }
        }
    }
}

/// Writes both parts, at once where the stream can.
fn write_all(writer: &mut impl Write, parts: &[&[u8]; 2]) -> io::Result<()> {
    let [first, second] = parts;
    let written = loop {
        match writer.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) if !first.is_empty() || !second.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
            other => break other?,
        }
    };
    if let Some(rest) = first.get(written..) {
        writer.write_all(rest)?;
    }
    writer.write_all(second.get(written.saturating_sub(first.len())..).unwrap_or_default())
}
