use std::collections::BTreeMap;

use super::{BlockRead, BlockWrite, ByteRange, Error, Extent, ExtentKind, Hole, Resize, extents};

/// A copy-on-write layer in memory: reads see the changes, the device below is never written.
///
/// This is what keeps a failed edit from leaving a trace: a file system is changed only here, the result is verified here, and
/// then one commit writes [`Staged::changes`] to where they belong. Memory grows with the bytes that change, not with the size
/// of the device. A size beyond that of the device below reads as zeros.
///
/// ```text
///            |<------------------ size ------------------->|
/// units      [ ]   [ ][ ]                [ ]                    changed, 4 KiB each
/// zeroed              |======================|                  reads as zeros unless a unit lies over it
/// base       |-----------------------------|                    everything else; behind its end, zeros
/// ```
#[derive(Debug)]
pub struct Staged<D> {
    base: D,
    size: u64,
    /// Changed units by their offset; each is `UNIT` bytes long, also the one over the end of the device.
    units: BTreeMap<u64, Box<[u8]>>,
    /// Zeroed runs, start to end, whole units, disjoint.
    zeroed: BTreeMap<u64, u64>,
}

/// A run of bytes that differs from the device below a [`Staged`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change<'a> {
    /// New bytes and their offset.
    Data(u64, &'a [u8]),
    /// A run that reads as zeros now.
    Zeroes(ByteRange),
}

/// What a [`Staged`] has changed, without the device below: for when that device is to be written.
pub type Changes = Staged<()>;

impl<'a> Change<'a> {
    /// Returns the part of it that lies in `range`, or `None` when none does.
    #[must_use]
    pub fn within(&self, range: ByteRange) -> Option<Change<'a>> {
        let common = self.range().intersection(range).filter(|common| !common.is_empty())?;
        Some(match self {
            Self::Zeroes(_) => Change::Zeroes(common),
            Self::Data(offset, bytes) => Change::Data(common.start(), part(bytes, *offset, common)?),
        })
    }

    /// Returns it as seen from `start`, which does not lie behind it.
    #[must_use]
    pub fn seen_from(&self, start: u64) -> Option<Change<'a>> {
        Some(match self {
            Self::Data(offset, bytes) => Change::Data(offset.checked_sub(start)?, bytes),
            Self::Zeroes(range) => Change::Zeroes(ByteRange::at(range.start().checked_sub(start)?, range.len())?),
        })
    }

    /// Returns the bytes that it covers.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        match self {
            Self::Data(offset, bytes) => ByteRange::at(*offset, len(bytes)).unwrap_or_default(),
            Self::Zeroes(range) => *range,
        }
    }
}

impl<D> Staged<D> {
    /// Drops the device below and returns what differs from it.
    #[must_use]
    pub fn into_changes(self) -> Changes {
        Staged { base: (), size: self.size, units: self.units, zeroed: self.zeroed }
    }

    /// Returns what differs from the device below, by ascending offset and without overlaps.
    ///
    /// Data comes in units of 4 KiB, the one over the end of the device cut to it.
    #[must_use]
    pub fn changes(&self) -> Vec<Change<'_>> {
        let mut changes = Vec::with_capacity(self.units.len().saturating_add(self.zeroed.len()));
        for (&start, &end) in &self.zeroed {
            let mut from = start;
            for (&unit, _) in self.units.range(start..end) {
                changes.extend(self.zero_change(from, unit));
                from = unit.saturating_add(UNIT);
            }
            changes.extend(self.zero_change(from, end));
        }
        for (&offset, bytes) in &self.units {
            let keep = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
            let bytes = bytes.get(..keep.min(bytes.len())).unwrap_or_default();
            changes.push(Change::Data(offset, bytes));
        }
        changes.sort_by_key(|change| change.range().start());
        changes
    }

    fn zero_change(&self, start: u64, end: u64) -> Option<Change<'static>> {
        let range = ByteRange::new(start, end.min(self.size)).filter(|range| !range.is_empty())?;
        Some(Change::Zeroes(range))
    }
}

impl<D: BlockRead> Staged<D> {
    /// Returns `base` with no changes yet.
    #[must_use]
    pub fn new(base: D) -> Self {
        Self { size: base.size(), base, units: BTreeMap::new(), zeroed: BTreeMap::new() }
    }

    /// Returns the device below.
    #[must_use]
    pub fn base(&self) -> &D {
        &self.base
    }

    /// Drops the changes and returns the device below.
    #[must_use]
    pub fn into_base(self) -> D {
        self.base
    }

    /// Returns the run of zeroed units around `offset`.
    fn zeroed_at(&self, offset: u64) -> Option<ByteRange> {
        let (&start, &end) = self.zeroed.range(..=offset).next_back()?;
        ByteRange::new(start, end).filter(|range| range.contains(offset))
    }

    /// Fills `buf` from the device below; what lies behind its end is zeros.
    fn read_base(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let stored = usize::try_from(self.base.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let (below, behind) = buf.split_at_mut(stored.min(buf.len()));
        behind.fill(0);
        if below.is_empty() { Ok(()) } else { self.base.read_exact_at(below, offset) }
    }

    fn inside(&self, offset: u64, len: u64) -> Result<ByteRange, Error> {
        ByteRange::at(offset, len)
            .filter(|range| range.end() <= self.size)
            .ok_or_else(|| Error::out_of_bounds(offset, len, self.size))
    }

    /// Calls `change` on the staged copy of each unit under `range`, with the range of bytes inside the unit.
    fn change_units(&mut self, range: ByteRange, mut change: impl FnMut(&mut [u8], u64)) -> Result<(), Error> {
        let mut offset = range.start();
        while offset < range.end() {
            let unit = align_down(offset);
            let end = unit.saturating_add(UNIT).min(range.end());
            if !self.units.contains_key(&unit) {
                let mut bytes = vec![0; UNIT_BYTES].into_boxed_slice();
                let whole = offset == unit && end == unit.saturating_add(UNIT);
                if !whole && self.zeroed_at(unit).is_none() {
                    self.read_base(&mut bytes, unit)?;
                }
                self.units.insert(unit, bytes);
            }
            let from = usize::try_from(offset.saturating_sub(unit)).unwrap_or(usize::MAX);
            let to = usize::try_from(end.saturating_sub(unit)).unwrap_or(usize::MAX);
            if let Some(bytes) = self.units.get_mut(&unit).and_then(|unit| unit.get_mut(from..to)) {
                change(bytes, offset.saturating_sub(range.start()));
            }
            offset = end;
        }
        Ok(())
    }

    /// Records the whole units of `range` as zeroed, where they are not known to read as zeros already.
    fn zero_units(&mut self, range: ByteRange) -> Result<(), Error> {
        let staged: Vec<u64> = self.units.range(range.start()..range.end()).map(|(&unit, _)| unit).collect();
        for unit in staged {
            self.units.remove(&unit);
        }
        let Some(below) = range.intersection(ByteRange::new(0, self.base.size()).unwrap_or_default()) else {
            return Ok(());
        };
        let mut data = Vec::new();
        for extent in extents(&self.base, below) {
            let extent = extent?;
            if !extent.reads_as_zeros() {
                data.push(extent.range);
            }
        }
        for run in data {
            self.insert_zeroed(align_down(run.start()), align_up(run.end()));
        }
        Ok(())
    }

    fn insert_zeroed(&mut self, mut start: u64, mut end: u64) {
        while let Some((&from, &to)) = self.zeroed.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            self.zeroed.remove(&from);
            start = start.min(from);
            end = end.max(to);
        }
        self.zeroed.insert(start, end);
    }
}

impl<D: BlockRead> BlockRead for Staged<D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let range = self.inside(offset, len(buf))?;
        let unit = align_down(offset);
        if let Some(bytes) = self.units.get(&unit)
            && let Some(part) = part(bytes, unit, range)
        {
            buf.copy_from_slice(part);
            return Ok(());
        }
        self.read_base(buf, offset)?;
        for (&start, &end) in self.zeroed.range(..range.end()).rev().take_while(|(_, end)| **end > offset) {
            if let Some(zeroed) = ByteRange::new(start, end).and_then(|run| run.intersection(range)) {
                window(buf, offset, zeroed).fill(0);
            }
        }
        for (&unit, bytes) in self.units.range(unit..range.end()) {
            if let Some(changed) = ByteRange::at(unit, UNIT).and_then(|run| run.intersection(range)) {
                window(buf, offset, changed).copy_from_slice(part(bytes, unit, changed).unwrap_or_default());
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        self.inside(offset, 1)?;
        let to = |end: u64, kind| {
            let range = ByteRange::new(offset, end.min(self.size)).unwrap_or_default();
            Ok(Extent::new(range, kind))
        };
        let unit = align_down(offset);
        if self.units.contains_key(&unit) {
            return to(unit.saturating_add(UNIT), ExtentKind::Data);
        }
        let next_unit = self.units.range(offset..).next().map_or(self.size, |(&unit, _)| unit);
        if let Some(zeroed) = self.zeroed_at(offset) {
            return to(zeroed.end().min(next_unit), ExtentKind::Hole);
        }
        let next_zeroed = self.zeroed.range(offset..).next().map_or(self.size, |(&start, _)| start);
        let next = next_unit.min(next_zeroed);
        if offset >= self.base.size() {
            return to(next, ExtentKind::Hole);
        }
        let extent = self.base.extent_at(offset)?;
        to(extent.range.end().min(next), extent.kind)
    }
}

impl<D: BlockRead> BlockWrite for Staged<D> {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let range = self.inside(offset, len(buf))?;
        self.change_units(range, |bytes, from| {
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let source = buf.get(from..).and_then(|rest| rest.get(..bytes.len()));
            bytes.copy_from_slice(source.unwrap_or_default());
        })
    }

    fn write_zeroes_at(&mut self, range: ByteRange, _: Hole) -> Result<(), Error> {
        self.inside(range.start(), range.len())?;
        let whole = ByteRange::new(align_up(range.start()), align_down(range.end()));
        let Some(whole) = whole.filter(|whole| !whole.is_empty()) else {
            return self.change_units(range, |bytes, _| bytes.fill(0));
        };
        let head = ByteRange::new(range.start(), whole.start()).unwrap_or_default();
        let tail = ByteRange::new(whole.end(), range.end()).unwrap_or_default();
        self.change_units(head, |bytes, _| bytes.fill(0))?;
        self.zero_units(whole)?;
        self.change_units(tail, |bytes, _| bytes.fill(0))
    }

    /// Does nothing: what is staged is in memory until its owner commits it.
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl<D: BlockRead> Resize for Staged<D> {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        let old = self.size;
        if size < old {
            let tail = ByteRange::new(size, align_up(size).min(old)).unwrap_or_default();
            self.change_units(tail, |bytes, _| bytes.fill(0))?;
            self.units.split_off(&align_up(size));
            let end = align_up(old.max(self.base.size()));
            if align_up(size) < end {
                self.insert_zeroed(align_up(size), end);
            }
        }
        self.size = size;
        Ok(())
    }
}

/// Returns the part of `buf`, whose first byte is at `offset`, that lies over `range`.
fn window(buf: &mut [u8], offset: u64, range: ByteRange) -> &mut [u8] {
    let from = usize::try_from(range.start().saturating_sub(offset)).unwrap_or(usize::MAX);
    let to = usize::try_from(range.end().saturating_sub(offset)).unwrap_or(usize::MAX);
    buf.get_mut(from..to).unwrap_or_default()
}

/// Returns the bytes of `range` out of the unit at `offset`, or `None` when the unit does not hold them all.
fn part(unit: &[u8], offset: u64, range: ByteRange) -> Option<&[u8]> {
    let from = usize::try_from(range.start().checked_sub(offset)?).ok()?;
    let to = usize::try_from(range.end().checked_sub(offset)?).ok()?;
    unit.get(from..to)
}

fn len(buf: &[u8]) -> u64 {
    u64::try_from(buf.len()).unwrap_or(u64::MAX)
}

fn align_down(offset: u64) -> u64 {
    offset & !UNIT_MASK
}

fn align_up(offset: u64) -> u64 {
    offset.saturating_add(UNIT_MASK) & !UNIT_MASK
}

/// Bytes of a unit: the block size of nearly every file system that is edited.
const UNIT: u64 = 4096;
const UNIT_BYTES: usize = 4096;
const UNIT_MASK: u64 = 4095;

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

    use super::{ByteRange, Change, Hole, Resize, Staged};
    use crate::block::{BlockRead, BlockWrite, ExtentKind, MemoryDisk, extents};

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, usize, u8),
        Zero(u64, u64),
        Resize(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u64..40_000, 1_usize..9000, any::<u8>()).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
            3 => (0_u64..40_000, 0_u64..20_000).prop_map(|(at, len)| Step::Zero(at, len)),
            1 => prop_oneof![Just(40_000_u64), 1_u64..60_000].prop_map(Step::Resize),
        ];
        proptest::collection::vec(step, 1..24)
    }

    proptest! {
        #[test]
        fn reads_back_what_a_plain_vector_would_hold(steps in steps()) {
            let pattern: Vec<u8> = (0..30_001_u32).map(|at| (at % 251) as u8 | 1).collect();
            let mut model = pattern.clone();
            let mut staged = Staged::new(MemoryDisk::new(pattern.clone()));
            for step in steps {
                let size = model.len() as u64;
                match step {
                    Step::Write(at, len, byte) => {
                        let result = staged.write_all_at(&vec![byte; len], at);
                        if at + len as u64 <= size {
                            result.unwrap();
                            model[at as usize..at as usize + len].fill(byte);
                        } else {
                            result.unwrap_err();
                        }
                    }
                    Step::Zero(at, len) => {
                        let result = staged.write_zeroes_at(ByteRange::at(at, len).unwrap(), Hole::Allow);
                        if at + len <= size {
                            result.unwrap();
                            model[at as usize..(at + len) as usize].fill(0);
                        } else {
                            result.unwrap_err();
                        }
                    }
                    Step::Resize(size) => {
                        staged.resize(size).unwrap();
                        model.resize(size as usize, 0);
                    }
                }
                let mut all = vec![0xEE; model.len()];
                staged.read_exact_at(&mut all, 0).unwrap();
                assert_eq!(all, model);
                let range = ByteRange::new(0, staged.size()).unwrap();
                let mut end = 0;
                for extent in extents(&staged, range) {
                    let extent = extent.unwrap();
                    assert_eq!(extent.range.start(), end);
                    end = extent.range.end();
                    if extent.kind != ExtentKind::Data {
                        assert!(model[extent.range.start() as usize..end as usize].iter().all(|byte| *byte == 0));
                    }
                }
                assert_eq!(end, staged.size());
                // The changes over the base give the same bytes.
                let mut rebuilt = pattern.clone();
                rebuilt.resize(model.len(), 0);
                let mut last = 0;
                for change in staged.changes() {
                    assert!(change.range().start() >= last && change.range().end() <= staged.size());
                    last = change.range().end();
                    let span = change.range().start() as usize..change.range().end() as usize;
                    match change {
                        Change::Data(_, bytes) => rebuilt[span].copy_from_slice(bytes),
                        Change::Zeroes(_) => rebuilt[span].fill(0),
                    }
                }
                assert_eq!(rebuilt, model);
            }
            assert_eq!(staged.into_base().into_bytes(), pattern);
        }
    }
}
