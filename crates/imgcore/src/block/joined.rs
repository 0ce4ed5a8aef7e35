use std::sync::Arc;

use super::{BlockRead, BlockWrite, ByteRange, Error, Extent, Hole};

/// Parts of another device joined end to end, as a logical volume is on its disk.
///
/// ```text
/// joined     |  first part  |  second  |
/// below      .......|  second  |.....|  first part  |....
/// ```
#[derive(Debug)]
pub struct Joined<D> {
    disk: D,
    parts: Vec<Part>,
    size: u64,
}

/// A part: where it begins in the joined device, and where it is below.
#[derive(Clone, Copy, Debug)]
struct Part {
    from: u64,
    below: ByteRange,
}

impl<D: BlockRead> Joined<D> {
    /// Returns `parts` of `disk`, one behind the other. They may be few or many: a place is found by halving.
    ///
    /// # Errors
    ///
    /// [`super::ErrorKind::OutOfBounds`] when one does not lie inside `disk`.
    pub fn open(disk: D, parts: &[ByteRange]) -> Result<Self, Error> {
        let mut size = 0_u64;
        let mut joined: Vec<Part> = Vec::with_capacity(parts.len());
        for range in parts.iter().copied().filter(|range| !range.is_empty()) {
            let outside = || Error::out_of_bounds(range.start(), range.len(), disk.size());
            let end = size.checked_add(range.len()).filter(|_| range.end() <= disk.size()).ok_or_else(outside)?;
            match joined.last_mut().filter(|last| last.below.end() == range.start()) {
                Some(last) => last.below = ByteRange::new(last.below.start(), range.end()).ok_or_else(outside)?,
                None => joined.push(Part { from: size, below: range }),
            }
            size = end;
        }
        Ok(Self { disk, parts: joined, size })
    }

    /// Returns the device below.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Returns where the `len` bytes at `offset` lie below, in order; no run is empty.
    fn below(&self, offset: u64, len: u64) -> Result<impl Iterator<Item = ByteRange> + use<'_, D>, Error> {
        let outside = || Error::out_of_bounds(offset, len, self.size);
        let wanted = ByteRange::at(offset, len).filter(|range| range.end() <= self.size).ok_or_else(outside)?;
        let first = self.parts.partition_point(|part| part.from <= offset).saturating_sub(1);
        let rest = self.parts.get(first..).unwrap_or_default();
        Ok(rest.iter().map_while(move |part| {
            let common = wanted.intersection(ByteRange::at(part.from, part.below.len())?)?;
            let start = part.below.start().checked_add(common.start().checked_sub(part.from)?)?;
            ByteRange::at(start, common.len())
        }))
    }
}

impl<D: BlockRead> BlockRead for Joined<D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let mut rest = buf;
        for range in self.below(offset, len(rest))? {
            let (piece, behind) = rest.split_at_mut(bytes(range).min(rest.len()));
            self.disk.read_exact_at(piece, range.start())?;
            rest = behind;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let outside = || Error::out_of_bounds(offset, 1, self.size);
        let first = self.parts.partition_point(|part| part.from <= offset).checked_sub(1);
        let part = first.filter(|_| offset < self.size).and_then(|first| self.parts.get(first)).ok_or_else(outside)?;
        let start = part.below.start().saturating_add(offset.saturating_sub(part.from));
        let extent = self.disk.extent_at(start)?;
        let end = extent.range.end().min(part.below.end());
        let range = ByteRange::at(offset, end.saturating_sub(start)).ok_or_else(outside)?;
        Ok(Extent::new(range, extent.kind))
    }
}

impl<D: BlockWrite> BlockWrite for Joined<D> {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let runs: Vec<_> = self.below(offset, len(buf))?.collect();
        let mut rest = buf;
        for range in runs {
            let (piece, behind) = rest.split_at(bytes(range).min(rest.len()));
            self.disk.write_all_at(piece, range.start())?;
            rest = behind;
        }
        Ok(())
    }

    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        let runs: Vec<_> = self.below(range.start(), range.len())?.collect();
        runs.into_iter().try_for_each(|range| self.disk.write_zeroes_at(range, hole))
    }

    fn write_from_at(&mut self, source: &Arc<dyn BlockRead>, from: u64, range: ByteRange) -> Result<(), Error> {
        let runs: Vec<_> = self.below(range.start(), range.len())?.collect();
        let mut from = from;
        for range in runs {
            self.disk.write_from_at(source, from, range)?;
            from = from.saturating_add(range.len());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.disk.flush()
    }
}

fn len(buf: &[u8]) -> u64 {
    u64::try_from(buf.len()).unwrap_or(u64::MAX)
}

fn bytes(range: ByteRange) -> usize {
    usize::try_from(range.len()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::Joined;
    use crate::block::{BlockRead, BlockWrite, ByteRange, ExtentKind, Hole, MemoryDisk, extents};

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    #[test]
    fn parts_that_lie_outside_are_refused_and_neighbors_are_one() {
        assert!(Joined::open(MemoryDisk::new(vec![0; 10]), &[range(0, 4), range(8, 11)]).is_err());
        let joined = Joined::open(MemoryDisk::new(vec![0; 10]), &[range(4, 6), range(6, 6), range(6, 8), range(0, 4)]).unwrap();
        assert_eq!((joined.parts.len(), joined.size()), (2, 8));
        assert!(joined.read_exact_at(&mut [0; 2], 7).is_err());
        assert!(joined.extent_at(8).is_err());
        let nothing = Joined::open(MemoryDisk::new(vec![0; 10]), &[]).unwrap();
        assert!(nothing.read_exact_at(&mut [], 0).is_ok() && nothing.extent_at(0).is_err());
    }

    proptest! {
        #[test]
        fn it_reads_and_writes_as_one_vector(
            cuts in proptest::collection::vec(1_u64..40, 1..6), turn in any::<prop::sample::Index>(), offset in 0_u64..200, len in 0_usize..200
        ) {
            let size: u64 = cuts.iter().sum();
            let mut parts = Vec::new();
            let mut start = 0;
            for cut in &cuts {
                parts.push(range(start, start + cut));
                start += cut;
            }
            parts.rotate_left(turn.index(cuts.len()));
            let below: Vec<u8> = (0..size).map(|n| u8::try_from(n).unwrap()).collect();
            let mut model: Vec<u8> = parts.iter().flat_map(|part| part.start()..part.end()).map(|n| u8::try_from(n).unwrap()).collect();
            let mut joined = Joined::open(MemoryDisk::new(below), &parts).unwrap();
            let new = vec![0xEE; len];
            let fits = offset + u64::try_from(len).unwrap() <= size;
            assert_eq!(joined.write_all_at(&new, offset).is_ok(), fits);
            if fits {
                let at = usize::try_from(offset).unwrap();
                model[at..at + len].copy_from_slice(&new);
                let zeroed = ByteRange::at(offset, u64::try_from(len / 2).unwrap()).unwrap();
                joined.write_zeroes_at(zeroed, Hole::Allow).unwrap();
                model[at..at + len / 2].fill(0);
            }
            let mut found = vec![0; model.len()];
            joined.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(found, model);
            let all: Vec<_> = extents(&joined, range(0, size)).map(Result::unwrap).collect();
            assert_eq!(all.iter().map(|extent| extent.range.len()).sum::<u64>(), size);
            assert!(all.iter().all(|extent| extent.kind == ExtentKind::Data || extent.reads_as_zeros()));
        }
    }
}
