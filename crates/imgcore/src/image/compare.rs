//! Do two disks read the same.
//!
//! What both maps know as zeros, and what both disks read from the same image at the same offset, is not read at all. The rest
//! is read in pieces by several threads; pieces are handed out from the first to the last, so that the first difference that is
//! left when all have ended is the first of all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::Disk;
use super::map::{MapEntry, MapKind, MappedChain, SECTOR};
use crate::block::{self, BlockRead};

/// How disks are compared.
#[derive(Clone, Copy, Debug)]
pub struct CompareOptions {
    /// Whether they must be stored alike as well: as data, as zeros, compressed, or not at all.
    pub strict: bool,
    /// How many threads read.
    pub threads: usize,
}

/// What came of comparing two disks. Where one ends, it counts as zeros.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Comparison {
    /// They read the same.
    Identical,
    /// They differ, at first in the sector at this byte.
    Content(u64),
    /// They read the same up to this byte, from where on they are stored in different ways.
    Storage(u64),
}

/// Why two disks could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// How they are stored cannot be found out.
    #[error(transparent)]
    Map(block::Error),
    /// Their bytes cannot be read.
    #[error(transparent)]
    Read(block::Error),
}

/// Compares two disks. `watch` is told the offset of each piece beforehand, and ends everything with the error that it returns.
///
/// # Errors
///
/// [`CompareError`], when it comes before the first difference.
pub fn compare(
    first: &Disk,
    second: &Disk,
    how: &CompareOptions,
    watch: &(dyn Fn(u64) -> Result<(), block::Error> + Sync),
) -> Result<Comparison, CompareError> {
    let pieces = Mutex::new(Pieces::new(first, second, how.strict));
    let found = Found { difference: AtomicU64::new(u64::MAX), error: Mutex::new(None) };
    let each = || {
        let mut buffers = (vec![0; PIECE_LEN], vec![0; PIECE_LEN]);
        loop {
            let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let (at, result) = match next {
                Ok(None) => return,
                Ok(Some(piece)) if piece.offset >= found.end() => return,
                Ok(Some(piece)) => {
                    let result = watch(piece.offset).and_then(|()| piece.difference(first, second, &mut buffers));
                    (piece.offset, result.map_err(CompareError::Read))
                }
                Err((at, error)) => (at, Err(CompareError::Map(error))),
            };
            match result {
                Ok(None) => {}
                Ok(Some(offset)) => found.differ(offset),
                Err(error) => return found.fail(at, error),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..how.threads {
            scope.spawn(each);
        }
        each();
    });
    let pieces = pieces.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.outcome(pieces.unlike)
}

/// What the threads have found so far.
struct Found {
    /// The first difference, or the largest offset.
    difference: AtomicU64,
    error: Mutex<Option<(u64, CompareError)>>,
}

impl Found {
    /// Returns the offset from which on nothing needs to be looked at.
    fn end(&self) -> u64 {
        self.difference.load(Ordering::Acquire)
    }

    fn differ(&self, offset: u64) {
        self.difference.fetch_min(offset, Ordering::AcqRel);
    }

    fn fail(&self, at: u64, error: CompareError) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(offset, _)| at < *offset) {
            *first = Some((at, error));
        }
        drop(first);
        // Pieces behind it need not be read; those before have been handed out.
        self.difference.fetch_min(at.saturating_add(1), Ordering::AcqRel);
    }

    fn outcome(self, unlike: Option<u64>) -> Result<Comparison, CompareError> {
        let error = self.error.into_inner().unwrap_or_else(PoisonError::into_inner);
        let difference = self.difference.into_inner();
        match (error, unlike) {
            (Some((at, error)), _) if at < difference => Err(error),
            (_, Some(offset)) if offset <= difference => Ok(Comparison::Storage(offset)),
            _ if difference == u64::MAX => Ok(Comparison::Identical),
            _ => Ok(Comparison::Content(difference)),
        }
    }
}

/// A part of both disks that has to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Piece {
    offset: u64,
    len: u64,
    /// Which of the two are known to be zeros.
    zeros: (bool, bool),
}

impl Piece {
    /// Returns the sector in which the disks differ for the first time.
    fn difference(
        &self,
        first: &Disk,
        second: &Disk,
        (one, other): &mut (Vec<u8>, Vec<u8>),
    ) -> Result<Option<u64>, block::Error> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        let one = one.get_mut(..len).unwrap_or_default();
        let other = other.get_mut(..len).unwrap_or_default();
        let at = match self.zeros {
            (true, _) => {
                read(second, other, self.offset)?;
                first_not_zero(other)
            }
            (_, true) => {
                read(first, one, self.offset)?;
                first_not_zero(one)
            }
            _ => {
                read(first, one, self.offset)?;
                read(second, other, self.offset)?;
                first_unlike(one, other)
            }
        };
        Ok(at.map(|at| sector(self.offset.saturating_add(u64::try_from(at).unwrap_or(u64::MAX)))))
    }
}

/// Fills `buf` from `disk`, with zeros behind its end.
fn read(disk: &Disk, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
    let inside = usize::try_from(disk.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
    let (inside, behind) = buf.split_at_mut(inside);
    behind.fill(0);
    if inside.is_empty() { Ok(()) } else { disk.read_exact_at(inside, offset) }
}

/// Returns where the first byte is that is not zero.
fn first_not_zero(bytes: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    for block in bytes.chunks(BLOCK) {
        if block.iter().fold(0, |seen, byte| seen | *byte) != 0 {
            return block.iter().position(|byte| *byte != 0).map(|within| at.saturating_add(within));
        }
        at = at.saturating_add(block.len());
    }
    None
}

/// Returns where the first byte is that is not the same in both.
fn first_unlike(one: &[u8], other: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    for (one, other) in one.chunks(BLOCK).zip(other.chunks(BLOCK)) {
        if one != other {
            return one.iter().zip(other).position(|(a, b)| a != b).map(|within| at.saturating_add(within));
        }
        at = at.saturating_add(one.len());
    }
    None
}

fn sector(offset: u64) -> u64 {
    offset.saturating_sub(offset.checked_rem(SECTOR).unwrap_or(0))
}

/// The parts of two disks that have to be read, first to last.
struct Pieces<'a> {
    first: Side<'a>,
    second: Side<'a>,
    strict: bool,
    offset: u64,
    /// What is known and not given out yet.
    run: Option<Piece>,
    /// Where the disks are stored in different ways for the first time, if that matters. Nothing is given out from there on.
    unlike: Option<u64>,
}

impl<'a> Pieces<'a> {
    fn new(first: &'a Disk, second: &'a Disk, strict: bool) -> Self {
        Self { first: Side::new(first, strict), second: Side::new(second, strict), strict, offset: 0, run: None, unlike: None }
    }

    /// Returns the next part, or the offset at which the maps cannot be read.
    fn next(&mut self) -> Result<Option<Piece>, (u64, block::Error)> {
        loop {
            if let Some(run) = &mut self.run {
                let len = run.len.min(PIECE);
                let piece = Piece { len, ..*run };
                run.offset = run.offset.saturating_add(len);
                run.len = run.len.saturating_sub(len);
                if run.len == 0 {
                    self.run = None;
                }
                return Ok(Some(piece));
            }
            let offset = self.offset;
            if self.unlike.is_some() || offset >= self.first.size.max(self.second.size) {
                return Ok(None);
            }
            self.advance().map_err(|error| (offset, error))?;
        }
    }

    /// Looks at the maps until there is something to read.
    fn advance(&mut self) -> Result<(), block::Error> {
        let offset = self.offset;
        let (one, other) = (self.first.at(offset)?, self.second.at(offset)?);
        let end = one.end.min(other.end);
        if self.strict && one.status != other.status {
            self.unlike = Some(offset);
            return Ok(());
        }
        self.offset = end;
        let zeros = (one.kind.is_zero(), other.kind.is_zero());
        let same = one.depth.is_some_and(|depth| other.depth.is_some_and(|other| self.is_same_image(depth, other)));
        if zeros != (true, true) && !same {
            self.run = Some(Piece { offset, len: end.saturating_sub(offset), zeros });
        }
        Ok(())
    }

    fn is_same_image(&self, depth: usize, other: usize) -> bool {
        match (self.first.identities.get(depth), self.second.identities.get(other)) {
            (Some(Some(one)), Some(Some(other))) => one == other,
            _ => false,
        }
    }
}

/// One of the two disks.
struct Side<'a> {
    chain: MappedChain<'a>,
    /// What tells the images of the chain from others.
    identities: Vec<Option<((u64, u64), super::Format)>>,
    size: u64,
    entry: Option<MapEntry>,
}

/// What is known about a disk from some offset on.
struct Known {
    end: u64,
    kind: MapKind,
    /// The image that is read; none behind the end of the disk.
    depth: Option<usize>,
    /// What strict comparing compares: the kind, whether it has a place, whether it goes on to the end.
    status: (MapKind, bool, bool),
}

impl<'a> Side<'a> {
    fn new(disk: &'a Disk, strict: bool) -> Self {
        let chain = MappedChain::new(disk);
        let chain = if strict { chain.in_slices() } else { chain };
        let identities = (0..disk.chain().count()).map(|depth| chain.identity(depth)).collect();
        Self { size: chain.size(), chain, identities, entry: None }
    }

    fn at(&mut self, offset: u64) -> Result<Known, block::Error> {
        if offset >= self.size {
            let status = (MapKind::Unallocated, false, true);
            return Ok(Known { end: u64::MAX, kind: MapKind::Unallocated, depth: None, status });
        }
        let entry = match self.entry.filter(|entry| entry.range.contains(offset)) {
            Some(entry) => entry,
            None => self.chain.entry_at(offset, self.size.saturating_sub(offset))?,
        };
        self.entry = Some(entry);
        let end = entry.range.end();
        let status = (entry.kind, entry.offset.is_some(), end >= self.size);
        Ok(Known { end, kind: entry.kind, depth: Some(entry.depth), status })
    }
}

/// Bytes that are read at a time: two of them fit a second-level cache.
const PIECE: u64 = 256 << 10;
const PIECE_LEN: usize = 256 << 10;
/// Bytes that are looked at at a time, before the place of a difference is looked for.
const BLOCK: usize = 4096;

#[cfg(test)]
mod tests {
    use super::{first_not_zero, first_unlike};

    #[test]
    fn the_first_byte_is_found_wherever_it_is() {
        for at in [0, 1, 511, 4095, 4096, 9000, 12_287] {
            let mut bytes = vec![0; 12_288];
            assert_eq!((first_not_zero(&bytes), first_unlike(&bytes, &vec![0; 12_288])), (None, None));
            bytes[at] = 1;
            bytes[12_287] = 1;
            assert_eq!((first_not_zero(&bytes), first_unlike(&bytes, &vec![0; 12_288])), (Some(at), Some(at)));
        }
    }
}
