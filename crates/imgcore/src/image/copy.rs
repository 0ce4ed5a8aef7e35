//! The bytes of one disk into another.

use crate::block::{self, BlockRead, BlockWrite, ByteRange, Extent, Hole, in_order, is_zero};

/// Copies `source` to the start of `target`, whose bytes are zeros already unless `clear` is set.
///
/// Runs of `hole` zeros are left out, with 0 none.
pub(super) fn copy(
    source: &dyn BlockRead,
    target: &mut dyn BlockWrite,
    threads: usize,
    hole: u64,
    clear: bool,
) -> Result<(), block::Error> {
    let rest = ByteRange::new(0, source.size()).unwrap_or_default();
    let pieces = Pieces { disk: source, rest, holes: hole > 0, size: hole.max(PIECE), extent: None };
    let hole = usize::try_from(hole).unwrap_or(usize::MAX);
    in_order(
        pieces,
        threads.max(1),
        || Ok::<_, block::Error>(Vec::new()),
        |bytes: &mut Vec<u8>, piece| match piece {
            Piece::Zero(_) => Ok(()),
            Piece::Data(range) => {
                bytes.resize(usize::try_from(range.len()).unwrap_or(usize::MAX), 0);
                source.read_exact_at(bytes, range.start())
            }
        },
        |bytes, piece| match piece {
            Piece::Zero(range) if clear => target.write_zeroes_at(range, Hole::Allow),
            Piece::Zero(_) => Ok(()),
            Piece::Data(range) if hole == 0 => target.write_all_at(bytes, range.start()),
            Piece::Data(range) => write_sparse(target, range.start(), bytes, hole, clear),
        },
    )
}

/// A part of a disk that is copied by itself.
enum Piece {
    /// Known to be zeros.
    Zero(ByteRange),
    /// To be read.
    Data(ByteRange),
}

/// The pieces of a disk, from the first to the last.
struct Pieces<'a> {
    disk: &'a dyn BlockRead,
    rest: ByteRange,
    /// Whether zeros are told apart.
    holes: bool,
    /// Bytes of a piece that is read.
    size: u64,
    /// The last extent that was looked up.
    extent: Option<Extent>,
}

impl Pieces<'_> {
    fn piece(&mut self) -> Result<Piece, block::Error> {
        let (start, end) = (self.rest.start(), self.rest.end());
        // Pieces end where blocks do, for the search for zeros.
        let border = start.saturating_add(1).next_multiple_of(self.size).min(end);
        let mut at = start;
        while at < border && self.holes {
            let extent = self.extent_at(at)?;
            let until = extent.range.end();
            if extent.reads_as_zeros() && at == start && until >= border {
                return Ok(self.take(until.min(end), Piece::Zero));
            }
            // Few zeros are found again when they are read; a piece of their own costs more.
            if extent.reads_as_zeros() && until >= border {
                return Ok(self.take(at, Piece::Data));
            }
            at = until;
        }
        Ok(self.take(border, Piece::Data))
    }

    fn take(&mut self, end: u64, kind: impl Fn(ByteRange) -> Piece) -> Piece {
        let piece = ByteRange::new(self.rest.start(), end).unwrap_or_default();
        self.rest = ByteRange::new(end, self.rest.end()).unwrap_or_default();
        kind(piece)
    }

    fn extent_at(&mut self, offset: u64) -> Result<Extent, block::Error> {
        match self.extent.filter(|extent| extent.range.contains(offset)) {
            Some(extent) => Ok(extent),
            None => Ok(*self.extent.insert(self.disk.extent_at(offset)?)),
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, block::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() { None } else { Some(self.piece()) }
    }
}

/// Writes `bytes` but for blocks of `hole` zeros, which are only written when `clear` is set.
fn write_sparse(target: &mut dyn BlockWrite, offset: u64, bytes: &[u8], hole: usize, clear: bool) -> Result<(), block::Error> {
    let mut at = offset;
    let mut rest = bytes;
    while let Some(first) = rest.chunks(hole).next() {
        let zeros = is_zero(first);
        let len = rest.chunks(hole).take_while(|block| is_zero(block) == zeros).map(<[u8]>::len).sum::<usize>();
        let (run, behind) = rest.split_at(len.min(rest.len()));
        let range = ByteRange::at(at, u64::try_from(len).unwrap_or(u64::MAX)).unwrap_or_default();
        if !zeros {
            target.write_all_at(run, at)?;
        } else if clear {
            target.write_zeroes_at(range, Hole::Allow)?;
        }
        at = range.end();
        rest = behind;
    }
    Ok(())
}

/// Bytes that are copied at a time, at least.
const PIECE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::copy;
    use crate::block::{BlockRead, BlockWrite, ByteRange, Error, Hole, MemoryDisk};

    #[derive(Debug)]
    struct Recorded(MemoryDisk, Vec<(u64, usize)>);

    impl BlockRead for Recorded {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
            self.0.read_exact_at(buf, offset)
        }
    }

    impl BlockWrite for Recorded {
        fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
            self.1.push((offset, buf.len()));
            self.0.write_all_at(buf, offset)
        }
        fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
            self.0.write_zeroes_at(range, hole)
        }
        fn flush(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn zeros_are_not_written_unless_no_holes_are_wanted_and_the_rest_arrives() {
        let mut bytes = vec![0; (3 << 20) + 700];
        bytes[5000] = 1;
        bytes[1 << 20] = 2;
        bytes[(3 << 20) + 699] = 3;
        let piece = 1 << 20;
        for (hole, writes) in [
            (4096, vec![(4096, 4096), (1 << 20, 4096), (3 << 20, 700)]),
            (1 << 20, vec![(0, piece), (1 << 20, piece), (3 << 20, 700)]),
            (1 << 24, vec![(0, bytes.len())]),
            (0, vec![(0, piece), (1 << 20, piece), (2 << 20, piece), (3 << 20, 700)]),
        ] {
            let mut target = Recorded(MemoryDisk::new(vec![0; bytes.len()]), Vec::new());
            copy(&MemoryDisk::new(bytes.clone()), &mut target, 2, hole, false).unwrap();
            assert_eq!(target.1, writes, "{hole}");
            assert_eq!(target.0.into_bytes(), bytes);
        }
    }
}
