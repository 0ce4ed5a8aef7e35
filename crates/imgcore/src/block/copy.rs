use super::{BlockRead, BlockWrite, ByteRange, Error, Hole, extents};

/// Copies all of `source` to the start of `target`, which must be at least as large.
///
/// Runs that are known to be zeros are zeroed and not read, so that the cost follows the data and not the size. The part of
/// `target` behind the source keeps its contents. `copied` is told the number of bytes done after every step. Nothing is
/// flushed.
///
/// # Errors
///
/// [`super::ErrorKind::OutOfBounds`] when `target` is too small: nothing is written then. Otherwise the failure of either side,
/// after which any part of the target may have been written.
pub fn copy<S, T>(source: &S, target: &mut T, copied: &mut dyn FnMut(u64)) -> Result<(), Error>
where
    S: BlockRead + ?Sized,
    T: BlockWrite + ?Sized,
{
    let size = source.size();
    let all = ByteRange::new(0, size).filter(|all| all.end() <= target.size());
    let all = all.ok_or_else(|| Error::out_of_bounds(0, size, target.size()))?;
    let mut buf = vec![0; BUFFER];
    for extent in extents(source, all) {
        let extent = extent?;
        if extent.reads_as_zeros() {
            target.write_zeroes_at(extent.range, Hole::Allow)?;
        } else {
            copy_data(source, target, extent.range, &mut buf, copied)?;
        }
        copied(extent.range.end());
    }
    Ok(())
}

fn copy_data<S, T>(
    source: &S,
    target: &mut T,
    range: ByteRange,
    buf: &mut [u8],
    copied: &mut dyn FnMut(u64),
) -> Result<(), Error>
where
    S: BlockRead + ?Sized,
    T: BlockWrite + ?Sized,
{
    let mut offset = range.start();
    while offset < range.end() {
        let len = usize::try_from(range.end().saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let Some(part) = buf.get_mut(..len) else { break };
        source.read_exact_at(part, offset)?;
        target.write_all_at(part, offset)?;
        offset = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        copied(offset);
    }
    Ok(())
}

/// Copies the bytes of `source` from `from` on to `range` of `target`.
pub(super) fn copy_range<S, T>(source: &S, from: u64, target: &mut T, range: ByteRange) -> Result<(), Error>
where
    S: BlockRead + ?Sized,
    T: BlockWrite + ?Sized,
{
    let len = usize::try_from(range.len()).unwrap_or(usize::MAX).min(BUFFER);
    let mut buf = vec![0; len];
    let mut offset = range.start();
    while offset < range.end() {
        let len = usize::try_from(range.end().saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let Some(part) = buf.get_mut(..len) else { break };
        source.read_exact_at(part, from.saturating_add(offset.saturating_sub(range.start())))?;
        target.write_all_at(part, offset)?;
        offset = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Bytes moved at a time: large enough that system calls cost nothing, small enough for a second-level cache.
const BUFFER: usize = 1 << 20;
