use std::sync::Mutex;

use super::connection::{MOST_REQUESTS, lock};
use super::fault::Fault;
use super::pool::Pool;
use super::reply::Answer;
use super::stream::Patience;
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Extent, ExtentKind, Hole, Resize};
use crate::nbd::Uri;
use crate::nbd::wire::{Command, Status, flag};

/// An export of an NBD server as a block device.
///
/// Writes are under way when they return; one that fails is told by the next call, and by every one after it. Durable is what
/// was written before a flush that succeeded.
#[derive(Debug)]
pub struct NbdDisk {
    uri: Uri,
    access: Access,
    pool: Pool,
    /// The run of extents that the server told last, in order.
    extents: Mutex<Vec<Extent>>,
    /// Why a flush has failed: what it lost is not known.
    lost: Option<Fault>,
}

/// What an export is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl NbdDisk {
    /// Connects to the export at `uri`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] without such a server or export, [`ErrorKind::Corrupt`] for one that breaks the protocol,
    /// [`ErrorKind::ReadOnly`], and [`ErrorKind::Refused`] when it cannot be encrypted as wanted, or not be written durably.
    pub fn open(uri: &Uri, access: Access, patience: Patience) -> Result<Self, Error> {
        let pool = Pool::open(uri, patience).and_then(|pool| judge(pool, access));
        let pool = pool.map_err(|fault| fault.into_error().context(format!("cannot open `{uri}`")))?;
        Ok(Self { uri: uri.clone(), access, pool, extents: Mutex::default(), lost: None })
    }

    /// Returns the address that it was opened by.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    fn has(&self, flag: u16) -> bool {
        self.pool.agreement.flags & flag != 0
    }

    fn inside(&self, offset: u64, len: u64) -> Result<ByteRange, Error> {
        ByteRange::at(offset, len)
            .filter(|range| range.end() <= self.size())
            .ok_or_else(|| Error::out_of_bounds(offset, len, self.size()))
    }

    fn writable(&self, offset: u64, len: u64) -> Result<ByteRange, Error> {
        if self.access == Access::Read {
            return Err(Error::new(ErrorKind::ReadOnly, format!("`{}` is open for reading only", self.uri)));
        }
        self.inside(offset, len)
    }

    fn failed(&self, what: &str, range: ByteRange, fault: Fault) -> Error {
        let context = format!("cannot {what} {} bytes at offset {} of `{}`", range.len(), range.start(), self.uri);
        fault.into_error().context(context)
    }

    /// Returns `range` with its ends moved outwards to where blocks of the server begin.
    fn blocks(&self, range: ByteRange) -> ByteRange {
        let block = u64::from(self.pool.agreement.blocks.minimum);
        let start = range.start().saturating_sub(range.start().checked_rem(block).unwrap_or(0));
        ByteRange::new(start, range.end().next_multiple_of(block)).unwrap_or(range)
    }

    /// Returns the longest piece of at most `most` bytes that the server takes.
    fn piece(&self, most: u64) -> u64 {
        let blocks = self.pool.agreement.blocks;
        let most = most.min(u64::from(blocks.maximum));
        most.saturating_sub(most.checked_rem(u64::from(blocks.minimum)).unwrap_or(0)).max(u64::from(blocks.minimum))
    }

    /// Reads whole blocks.
    fn read_blocks(&self, buf: &mut [u8], range: ByteRange) -> Result<(), Fault> {
        self.pool.settle(range)?;
        let line = self.pool.idlest()?;
        let piece = usize::try_from(self.piece(READ_PIECE)).unwrap_or(usize::MAX);
        let mut offset = range.start();
        for batch in buf.chunks_mut(piece.saturating_mul(MOST_REQUESTS)) {
            let mut answers = Vec::new();
            for part in batch.chunks_mut(piece) {
                let range = ByteRange::at(offset, len(part)).unwrap_or_default();
                offset = range.end();
                answers.push(Answer::new(line.style(), Command::Read, range, 0, part));
            }
            line.call(0, answers)?.iter().try_for_each(done)?;
        }
        Ok(())
    }

    /// Writes whole blocks.
    fn write_blocks(&self, buf: &[u8], offset: u64) -> Result<(), Fault> {
        let mut offset = offset;
        for part in buf.chunks(usize::try_from(self.piece(WRITE_PIECE)).unwrap_or(usize::MAX)) {
            let range = ByteRange::at(offset, len(part)).unwrap_or_default();
            self.pool.settle(range)?;
            self.pool.freest()?.write_behind(Command::Write, 0, range, part)?;
            offset = range.end();
        }
        Ok(())
    }

    /// Writes the parts of `range` that are not whole blocks, and returns the middle, which is.
    fn write_edges(&self, range: ByteRange, buf: Option<&[u8]>) -> Result<ByteRange, Fault> {
        let block = u64::from(self.pool.agreement.blocks.minimum);
        let whole = self.blocks(range);
        let first = if whole.start() < range.start() { whole.start().saturating_add(block) } else { range.start() };
        let last = if whole.end() > range.end() { whole.end().saturating_sub(block) } else { range.end() };
        let mut edges = Vec::new();
        if first > range.start() {
            edges.push(first.saturating_sub(block));
        }
        if last < range.end() && edges.last() != Some(&last) {
            edges.push(last);
        }
        for start in edges {
            let edge = ByteRange::at(start, block).unwrap_or_default();
            let mut bytes = vec![0; usize::try_from(block).unwrap_or(usize::MAX)];
            self.read_blocks(&mut bytes, edge)?;
            let Some(part) = edge.intersection(range) else { continue };
            if let Some(place) = bytes.get_mut(within(part, start)) {
                match buf.and_then(|buf| buf.get(within(part, range.start()))) {
                    Some(new) => place.copy_from_slice(new),
                    None => place.fill(0),
                }
            }
            self.write_blocks(&bytes, start)?;
        }
        Ok(ByteRange::new(first, last.max(first)).unwrap_or_default())
    }

    fn zero_blocks(&self, range: ByteRange, hole: Hole) -> Result<(), Fault> {
        if !self.has(flag::transmission::SEND_WRITE_ZEROES) {
            let zeros = vec![0; usize::try_from(self.piece(WRITE_PIECE).min(range.len())).unwrap_or(usize::MAX)];
            let mut offset = range.start();
            while offset < range.end() {
                let left = usize::try_from(range.end().saturating_sub(offset)).unwrap_or(usize::MAX);
                let part = zeros.get(..left.min(zeros.len())).unwrap_or_default();
                self.write_blocks(part, offset)?;
                offset = offset.saturating_add(len(part).max(1));
            }
            return Ok(());
        }
        let flags = if hole == Hole::Keep { flag::command::NO_HOLE } else { 0 };
        // Spec: "MAY reply with an `NBD_EOVERFLOW` or `NBD_EINVAL` error if the oversize request would require more server resources"
        let piece = self.piece(ZERO_PIECE);
        let mut offset = range.start();
        while offset < range.end() {
            let part = ByteRange::new(offset, offset.saturating_add(piece).min(range.end())).unwrap_or_default();
            self.pool.settle(part)?;
            self.pool.freest()?.write_behind(Command::WriteZeroes, flags, part, &[])?;
            offset = part.end();
        }
        Ok(())
    }

    /// Asks for the extents from `offset` on, up to the end of what one request is about.
    fn ask_extents(&self, offset: u64, context: u32) -> Result<Vec<Extent>, Fault> {
        let start = self.blocks(ByteRange::at(offset, 0).unwrap_or_default()).start();
        let range = ByteRange::new(start, self.size().min(start.saturating_add(STATUS_PIECE))).unwrap_or_default();
        // A server may tell its extents one by one, for longer than anybody waits.
        self.pool.go_on()?;
        self.pool.settle(range)?;
        let line = self.pool.idlest()?;
        let answers = line.call(0, vec![Answer::new(line.style(), Command::BlockStatus, range, context, &mut [])])?;
        let answer = answers.first().ok_or_else(|| Fault::lie("the status is missing"))?;
        done(answer)?;
        match &answer.status {
            Some(status) => self.extents_of(status, range),
            None => Err(Fault::lie("the status is missing")),
        }
    }

    fn extents_of(&self, status: &Status, asked: ByteRange) -> Result<Vec<Extent>, Fault> {
        let block = u64::from(self.pool.agreement.blocks.minimum);
        let mut found: Vec<Extent> = Vec::with_capacity(status.extents.len());
        let mut at = asked.start();
        for extent in &status.extents {
            // Spec: the last extent alone may go beyond what was asked for, and none beyond the export
            let range = ByteRange::at(at, extent.len).filter(|range| at < asked.end() && range.end() <= self.size());
            let range = range.ok_or_else(|| Fault::lie("the status goes beyond what it is about"))?;
            // Spec: "the extent *length* MUST be an integer multiple of the minimum block size"
            if !extent.len.is_multiple_of(block) {
                return Err(Fault::lie("an extent is not made of whole blocks"));
            }
            let is = |flag: u32| extent.flags & u64::from(flag) != 0;
            let kind = match (is(flag::allocation::ZERO), is(flag::allocation::HOLE)) {
                (true, true) => ExtentKind::Hole,
                (true, false) => ExtentKind::Zero,
                // Bytes without a place may read as anything.
                (false, _) => ExtentKind::Data,
            };
            match found.last_mut().filter(|last| last.kind == kind) {
                Some(last) => last.range = ByteRange::new(last.range.start(), range.end()).unwrap_or(range),
                None => found.push(Extent::new(range, kind)),
            }
            at = range.end();
        }
        Ok(found)
    }

    fn change(&self, range: ByteRange, work: impl FnOnce() -> Result<(), Fault>) -> Result<(), Error> {
        lock(&self.extents).clear();
        work().map_err(|fault| self.failed("write", range, fault))
    }
}

impl BlockRead for NbdDisk {
    fn size(&self) -> u64 {
        self.pool.agreement.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let range = self.inside(offset, len(buf))?;
        let whole = self.blocks(range);
        let read = if whole == range {
            self.read_blocks(buf, range)
        } else {
            let mut bytes = vec![0; usize::try_from(whole.len()).unwrap_or(usize::MAX)];
            let read = self.read_blocks(&mut bytes, whole);
            buf.copy_from_slice(bytes.get(within(range, whole.start())).unwrap_or_default());
            read
        };
        read.map_err(|fault| self.failed("read", range, fault))
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let rest = self.inside(offset, self.size().saturating_sub(offset).max(1))?;
        let Some(context) = self.pool.agreement.allocation else { return Ok(Extent::new(rest, ExtentKind::Data)) };
        let mut known = lock(&self.extents);
        let find = |known: &[Extent]| {
            let at = known.partition_point(|extent| extent.range.end() <= offset);
            let extent = known.get(at).filter(|extent| extent.range.contains(offset))?;
            Some(Extent::new(extent.range.intersection(rest)?, extent.kind))
        };
        if let Some(extent) = find(&known) {
            return Ok(extent);
        }
        *known = self.ask_extents(offset, context).map_err(|fault| self.failed("find holes in", rest, fault))?;
        find(&known).ok_or_else(|| self.failed("find holes in", rest, Fault::lie("the status is about something else")))
    }
}

impl BlockWrite for NbdDisk {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let range = self.writable(offset, len(buf))?;
        self.change(range, || {
            let middle = self.write_edges(range, Some(buf))?;
            self.write_blocks(buf.get(within(middle, offset)).unwrap_or_default(), middle.start())
        })
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        let range = self.writable(range.start(), range.len())?;
        self.change(range, || {
            let middle = self.write_edges(range, None)?;
            self.zero_blocks(middle, hole)
        })
    }

    fn flush(&mut self) -> Result<(), Error> {
        let all = ByteRange::new(0, self.size()).unwrap_or_default();
        let flush = || {
            self.pool.settle(all)?;
            let line = self.pool.idlest()?;
            let answer = Answer::new(line.style(), Command::Flush, ByteRange::default(), 0, &mut []);
            line.call(0, vec![answer])?.iter().try_for_each(done)
        };
        self.writable(0, 0)?;
        let flushed = self.lost.clone().map_or_else(flush, Err);
        flushed.map_err(|fault| {
            self.lost = Some(fault.clone());
            fault.into_error().context(format!("cannot make `{}` durable", self.uri))
        })
    }
}

impl Resize for NbdDisk {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        match size.cmp(&self.size()) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => {
                let message = format!("`{}` has {} bytes, and {size} are needed", self.uri, self.size());
                Err(Error::new(ErrorKind::NoSpace, message))
            }
            std::cmp::Ordering::Less => {
                Err(Error::new(ErrorKind::Unsupported, format!("`{}` is an export and keeps its size", self.uri)))
            }
        }
    }
}

/// Refuses an export that cannot be written as `access` wants.
fn judge(pool: Pool, access: Access) -> Result<Pool, Fault> {
    let has = |flag: u16| pool.agreement.flags & flag != 0;
    if access == Access::Read {
        return Ok(pool);
    }
    if has(flag::transmission::READ_ONLY) {
        return Err(Fault::new(ErrorKind::ReadOnly, "the server exports it for reading only"));
    }
    if !has(flag::transmission::SEND_FLUSH) {
        let text = "the server offers no FLUSH, so nothing that is written would be known to be durable";
        return Err(Fault::new(ErrorKind::Refused, text));
    }
    Ok(pool)
}

fn done(answer: &Answer<'_>) -> Result<(), Fault> {
    answer.failure.as_ref().map_or(Ok(()), |failure| Err(Fault::refusal(failure)))
}

/// Returns the indexes of `range` in bytes that begin at `start`.
fn within(range: ByteRange, start: u64) -> std::ops::Range<usize> {
    let index = |offset: u64| usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
    index(range.start())..index(range.end())
}

fn len(buf: &[u8]) -> u64 {
    u64::try_from(buf.len()).unwrap_or(u64::MAX)
}

/// Bytes that are read with one request, as copies read them: halves cost both sides more.
const READ_PIECE: u64 = 1 << 20;

/// Bytes that are written with one request: few enough for a socket to take them while the server is busy.
const WRITE_PIECE: u64 = 256 << 10;

/// Bytes that are zeroed with one request, as most servers take them.
const ZERO_PIECE: u64 = 32 << 20;

/// Bytes that one question for status is about, whole blocks of any size.
const STATUS_PIECE: u64 = 1 << 30;
