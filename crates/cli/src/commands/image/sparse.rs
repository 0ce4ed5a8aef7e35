//! Copying to a new raw image, with holes where there are zeros.

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Error, extents};

/// Copies all of `source` to `target`, which reads as zeros and is as large; runs of at least `hole` zero bytes, in whole
/// multiples of it, are not written. With a `hole` of 0 everything is written.
pub(super) fn write_sparse(source: &dyn BlockRead, target: &mut dyn BlockWrite, hole: u64) -> Result<(), Error> {
    let all = ByteRange::new(0, source.size()).unwrap_or_default();
    let hole = usize::try_from(hole).unwrap_or(usize::MAX).min(BUFFER);
    let mut buf = vec![0; BUFFER];
    for extent in extents(source, all) {
        let extent = extent?;
        if extent.reads_as_zeros() && hole > 0 {
            continue;
        }
        let mut offset = extent.range.start();
        while offset < extent.range.end() {
            // Pieces end at multiples of the buffer, so that a run of zeros is seen whole.
            let border = offset.saturating_add(1).next_multiple_of(BUFFER_U64);
            let end = border.min(extent.range.end());
            let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(BUFFER);
            let Some(piece) = buf.get_mut(..len) else { break };
            source.read_exact_at(piece, offset)?;
            write_data(piece, offset, target, hole)?;
            offset = end;
        }
    }
    Ok(())
}

/// Writes what of `piece`, whose place is `offset`, is not zero.
fn write_data(piece: &[u8], offset: u64, target: &mut dyn BlockWrite, hole: usize) -> Result<(), Error> {
    if hole == 0 {
        return target.write_all_at(piece, offset);
    }
    let mut begin: Option<usize> = None;
    let mut at = 0_usize;
    for part in piece.chunks(hole) {
        match (is_zero(part), begin) {
            (false, None) => begin = Some(at),
            (true, Some(from)) => {
                write_part(piece, from, at, offset, target)?;
                begin = None;
            }
            _ => {}
        }
        at = at.saturating_add(part.len());
    }
    begin.map_or(Ok(()), |from| write_part(piece, from, at, offset, target))
}

fn write_part(piece: &[u8], from: usize, to: usize, offset: u64, target: &mut dyn BlockWrite) -> Result<(), Error> {
    let start = offset.saturating_add(u64::try_from(from).unwrap_or(u64::MAX));
    target.write_all_at(piece.get(from..to).unwrap_or_default(), start)
}

/// Returns whether all of `bytes` are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;
const BUFFER_U64: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use imgcore::block::{BlockRead, BlockWrite, ByteRange, Error, Hole, MemoryDisk};

    use super::write_sparse;

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
    fn zeros_are_not_written_and_the_rest_arrives() {
        let mut bytes = vec![0; (3 << 20) + 700];
        bytes[5000] = 1;
        bytes[1 << 20] = 2;
        bytes[(3 << 20) + 699] = 3;
        let mut copy = Recorded(MemoryDisk::new(vec![0; bytes.len()]), Vec::new());
        write_sparse(&MemoryDisk::new(bytes.clone()), &mut copy, 4096).unwrap();
        assert_eq!(copy.1, [(4096, 4096), (1 << 20, 4096), (3 << 20, 700)]);
        assert_eq!(copy.0.into_bytes(), bytes);
    }
}
