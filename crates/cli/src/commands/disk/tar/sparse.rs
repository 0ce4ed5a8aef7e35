//! Files of an archive whose holes are left out.

use std::sync::Arc;

use imgcore::block::{self, BlockRead, ByteRange, Extent, ExtentKind};

/// A run of bytes of a file, and where it is in the archive.
#[derive(Clone, Copy, Debug)]
struct Run {
    file: ByteRange,
    archive: u64,
}

/// The contents of a file as runs of an archive; the rest are holes.
#[derive(Debug)]
pub(super) struct Sparse {
    archive: Arc<dyn BlockRead>,
    size: u64,
    runs: Vec<Run>,
}

impl Sparse {
    /// Returns the contents of a file of `size` bytes, whose `map` says offset and length of what is stored in `data`, one after
    /// the other; `None` when that contradicts itself.
    pub(super) fn new(archive: Arc<dyn BlockRead>, size: u64, map: &[(u64, u64)], data: ByteRange) -> Option<Self> {
        let mut runs: Vec<Run> = Vec::new();
        let (mut at, mut behind) = (data.start(), 0);
        for (offset, len) in map {
            let file = ByteRange::at(*offset, *len).filter(|file| file.start() >= behind && file.end() <= size)?;
            let end = at.checked_add(*len).filter(|end| *end <= data.end())?;
            behind = file.end();
            if !file.is_empty() {
                runs.push(Run { file, archive: at });
            }
            at = end;
        }
        Some(Self { archive, size, runs })
    }

    /// Returns the contents of a file that is stored whole in `data`.
    pub(super) fn whole(archive: Arc<dyn BlockRead>, data: ByteRange) -> Self {
        let file = ByteRange::new(0, data.len()).unwrap_or_default();
        let runs = if file.is_empty() { Vec::new() } else { vec![Run { file, archive: data.start() }] };
        Self { archive, size: data.len(), runs }
    }
}

impl BlockRead for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let outside = || block::Error::out_of_bounds(offset, len, self.size);
        let wanted = ByteRange::at(offset, len).filter(|wanted| wanted.end() <= self.size).ok_or_else(outside)?;
        buf.fill(0);
        let first = self.runs.partition_point(|run| run.file.end() <= offset);
        for run in self.runs.get(first..).unwrap_or_default() {
            let Some(part) = run.file.intersection(wanted).filter(|part| !part.is_empty()) else { break };
            let below = run.archive.saturating_add(part.start().saturating_sub(run.file.start()));
            let from = usize::try_from(part.start().saturating_sub(offset)).unwrap_or(usize::MAX);
            let to = usize::try_from(part.end().saturating_sub(offset)).unwrap_or(usize::MAX);
            self.archive.read_exact_at(buf.get_mut(from..to).ok_or_else(outside)?, below)?;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        let at = self.runs.partition_point(|run| run.file.end() <= offset);
        let (end, kind) = match self.runs.get(at) {
            Some(run) if run.file.contains(offset) => (run.file.end(), ExtentKind::Data),
            Some(run) => (run.file.start(), ExtentKind::Hole),
            None => (self.size, ExtentKind::Hole),
        };
        let range = ByteRange::new(offset, end).filter(|range| !range.is_empty());
        range.map(|range| Extent::new(range, kind)).ok_or_else(|| block::Error::out_of_bounds(offset, 1, self.size))
    }
}

/// Returns the pairs of numbers in a list with commas.
pub(super) fn pairs(text: &[u8]) -> Option<Vec<(u64, u64)>> {
    let text = std::str::from_utf8(text).ok()?;
    let numbers = text.split(',').map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[offset, len]| (*offset, *len)).collect())
}
