//! Several disks, one behind the other.

use crate::block::{BlockRead, ByteRange, Error, Extent, ExtentKind};

/// Disks as one: the first, behind it the second, and so on, each filled up with zeros to whole sectors of 512 bytes.
#[derive(Debug)]
pub struct Joined<'a> {
    /// With where each one begins.
    parts: Vec<(u64, &'a dyn BlockRead)>,
    size: u64,
}

impl<'a> Joined<'a> {
    /// Returns `disks` as one.
    #[must_use]
    pub fn new(disks: impl IntoIterator<Item = &'a dyn BlockRead>) -> Self {
        let mut joined = Self { parts: Vec::new(), size: 0 };
        for disk in disks {
            joined.parts.push((joined.size, disk));
            joined.size = joined.size.saturating_add(disk.size()).checked_next_multiple_of(512).unwrap_or(u64::MAX);
        }
        joined
    }

    /// Returns the disk that has the byte at `offset`, or zeros for it: where it begins and where the next one does.
    fn part(&self, offset: u64) -> Option<(u64, &'a dyn BlockRead, u64)> {
        let next = self.parts.partition_point(|(start, _)| *start <= offset);
        let (start, disk) = self.parts.get(next.checked_sub(1)?)?;
        Some((*start, *disk, self.parts.get(next).map_or(self.size, |(start, _)| *start)))
    }
}

impl BlockRead for Joined<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(Error::out_of_bounds(offset, len, self.size));
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let Some((start, disk, end)) = self.part(at) else { return Err(Error::out_of_bounds(at, len, self.size)) };
            let here = |until: u64| usize::try_from(until.saturating_sub(at)).unwrap_or(usize::MAX);
            let (part, further) = rest.split_at_mut(here(end).min(rest.len()));
            let (inside, behind) = part.split_at_mut(here(start.saturating_add(disk.size())).min(part.len()));
            if !inside.is_empty() {
                disk.read_exact_at(inside, at.saturating_sub(start))?;
            }
            behind.fill(0);
            at = end;
            rest = further;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        let part = self.part(offset).filter(|_| offset < self.size);
        let (start, disk, end) = part.ok_or_else(|| Error::out_of_bounds(offset, 1, self.size))?;
        let within = offset.saturating_sub(start);
        if within >= disk.size() {
            return Ok(Extent::new(ByteRange::new(offset, end).unwrap_or_default(), ExtentKind::Hole));
        }
        let extent = disk.extent_at(within)?;
        let until = start.saturating_add(extent.range.end()).min(end);
        Ok(Extent::new(ByteRange::new(offset, until).unwrap_or_default(), extent.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::Joined;
    use crate::block::{BlockRead, ByteRange, MemoryDisk, extents};

    #[test]
    fn the_disks_follow_each_other_in_whole_sectors() {
        let (a, b) = (MemoryDisk::new(vec![1; 700]), MemoryDisk::new(vec![2; 1024]));
        let empty = MemoryDisk::default();
        let joined = Joined::new([&a as &dyn BlockRead, &empty, &b]);
        assert_eq!(joined.size(), 2048);
        let mut bytes = vec![9; 2048];
        joined.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [vec![1; 700], vec![0; 324], vec![2; 1024]].concat());
        joined.read_exact_at(&mut bytes[..10], 1020).unwrap();
        assert_eq!(bytes[..10], [0, 0, 0, 0, 2, 2, 2, 2, 2, 2]);
        joined.read_exact_at(&mut bytes[..10], 2040).unwrap_err();
        joined.extent_at(2048).unwrap_err();
        let all = ByteRange::new(0, 2048).unwrap();
        let ends: Vec<_> =
            extents(&joined, all).map(|extent| extent.unwrap()).map(|e| (e.range.end(), e.reads_as_zeros())).collect();
        assert_eq!(ends, [(700, false), (1024, true), (2048, false)]);
    }
}
