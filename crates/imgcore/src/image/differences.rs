//! Where two disks differ.

use crate::block::{BlockRead, ByteRange, Error, Extent, ExtentKind};

/// Returns the runs in which `disk` differs from `below`, which reads as zeros behind its end.
pub(super) fn differences(disk: &dyn BlockRead, below: &dyn BlockRead) -> Result<Vec<ByteRange>, Error> {
    let mut runs: Vec<ByteRange> = Vec::new();
    let mut offset = 0;
    while offset < disk.size() {
        let (ours, theirs) = (disk.extent_at(offset)?, extent_below(below, offset)?);
        let end = ours.range.end().min(theirs.range.end());
        let run = ByteRange::new(offset, end).unwrap_or_default();
        if !(ours.reads_as_zeros() && theirs.reads_as_zeros()) {
            compare(disk, below, run, &mut runs)?;
        }
        offset = end;
    }
    Ok(runs)
}

/// Returns the extent of `below` at `offset`, one of zeros behind its end.
fn extent_below(below: &dyn BlockRead, offset: u64) -> Result<Extent, Error> {
    if offset < below.size() {
        return below.extent_at(offset);
    }
    let behind = ByteRange::new(offset, u64::MAX).unwrap_or_default();
    Ok(Extent::new(behind, ExtentKind::Hole))
}

/// Adds to `runs` where the two differ inside `range`, which neither's end divides.
fn compare(disk: &dyn BlockRead, below: &dyn BlockRead, range: ByteRange, runs: &mut Vec<ByteRange>) -> Result<(), Error> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut offset = range.start();
    while offset < range.end() {
        let end = offset.saturating_add(BUFFER).min(range.end());
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        ours.resize(len, 0);
        disk.read_exact_at(&mut ours, offset)?;
        theirs.clear();
        theirs.resize(len, 0);
        if offset < below.size() {
            below.read_exact_at(&mut theirs, offset)?;
        }
        let mut at = offset;
        for (a, b) in ours.chunks(UNIT).zip(theirs.chunks(UNIT)) {
            let next = at.saturating_add(u64::try_from(a.len()).unwrap_or(u64::MAX));
            if a != b {
                push(runs, at, next);
            }
            at = next;
        }
        offset = end;
    }
    Ok(())
}

fn push(runs: &mut Vec<ByteRange>, start: u64, end: u64) {
    let joined = runs.last_mut().filter(|last| last.end() == start);
    let run = ByteRange::new(joined.as_ref().map_or(start, |last| last.start()), end).unwrap_or_default();
    match joined {
        Some(last) => *last = run,
        None => runs.push(run),
    }
}

/// Bytes read at a time.
const BUFFER: u64 = 1 << 20;
/// Bytes compared at a time: as small as clusters usually are at most.
const UNIT: usize = 4096;

#[cfg(test)]
mod tests {
    use crate::block::{ByteRange, MemoryDisk};

    use super::differences;

    #[test]
    fn only_what_differs_is_found_also_behind_the_end_of_the_shorter_disk() {
        let mut bytes = vec![7; 3 << 20];
        let below = MemoryDisk::new(bytes[..2 << 20].to_vec());
        bytes[5000] = 8;
        bytes[9000] = 8;
        bytes[2 << 20..].fill(0);
        bytes[(2 << 20) + 4096] = 1;
        let runs = differences(&MemoryDisk::new(bytes), &below).unwrap();
        let run = |start, end| ByteRange::new(start, end).unwrap();
        assert_eq!(runs, [run(4096, 12288), run((2 << 20) + 4096, (2 << 20) + 8192)]);
    }
}
