use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::part;
use super::copy::copy_range;
use super::{BlockRead, BlockWrite, ByteRange, Change, Error, Extent, ExtentKind, Hole, Resize, extents};

/// A copy-on-write layer in memory: reads see the changes, the device below is never written.
///
/// This is what keeps a failed edit from leaving a trace: a file system is changed only here, the result is verified here, and
/// then one commit writes [`Staged::changes`] to where they belong. Memory grows with the bytes that change, but for those
/// that stay where they are until then, and not with the size of the device. A size beyond that of the device below reads as zeros.
///
/// ```text
///            |<------------------ size ------------------->|
/// units      [ ]   [ ][ ]                [ ]                    changed, 4 KiB each
/// zeroed              |============|                            reads as zeros unless a unit lies over it
/// sources                           |---------|                 reads as a part of another device unless a unit lies over it
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
    /// Runs of bytes that are elsewhere, by their start: whole units, disjoint, nowhere zeroed.
    sources: BTreeMap<u64, Source>,
}

/// A run of bytes of another device.
#[derive(Clone, Debug)]
struct Source {
    /// Where the run ends in the staged device.
    end: u64,
    disk: Arc<dyn BlockRead>,
    /// Where the run begins in `disk`.
    from: u64,
}

/// What a [`Staged`] has changed, without the device below: for when that device is to be written.
pub type Changes = Staged<()>;

impl<D> Staged<D> {
    /// Drops the device below and returns what differs from it.
    #[must_use]
    pub fn into_changes(self) -> Changes {
        Staged { base: (), size: self.size, units: self.units, zeroed: self.zeroed, sources: self.sources }
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
        for (&start, source) in &self.sources {
            let mut from = start;
            let all = ByteRange::new(start, source.end).unwrap_or_default();
            let whole = Change::Source(all, &source.disk, source.from);
            for (&unit, _) in self.units.range(start..source.end) {
                changes.extend(ByteRange::new(from, unit).and_then(|free| whole.within(free)));
                from = unit.saturating_add(UNIT);
            }
            changes.extend(ByteRange::new(from, source.end).and_then(|free| whole.within(free)));
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
        Self { size: base.size(), base, units: BTreeMap::new(), zeroed: BTreeMap::new(), sources: BTreeMap::new() }
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

    /// Returns the run of bytes that are elsewhere around `offset`.
    fn source_at(&self, offset: u64) -> Option<(ByteRange, &Source)> {
        let (&start, source) = self.sources.range(..=offset).next_back()?;
        ByteRange::new(start, source.end).filter(|range| range.contains(offset)).map(|range| (range, source))
    }

    /// Fills `buf` with what is at `offset` but for changed units.
    fn read_under_units(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let range = self.inside(offset, len(buf))?;
        if let Some((whole, source)) = self.source_at(offset)
            && range.end() <= whole.end()
        {
            return source.read(whole, buf, offset);
        }
        self.read_base(buf, offset)?;
        for (&start, &end) in self.zeroed.range(..range.end()).rev().take_while(|(_, end)| **end > offset) {
            if let Some(zeroed) = ByteRange::new(start, end).and_then(|run| run.intersection(range)) {
                window(buf, offset, zeroed).fill(0);
            }
        }
        for (&start, source) in self.sources.range(..range.end()).rev().take_while(|(_, source)| source.end > offset) {
            let whole = ByteRange::new(start, source.end).unwrap_or_default();
            if let Some(part) = whole.intersection(range) {
                source.read(whole, window(buf, offset, part), part.start())?;
            }
        }
        Ok(())
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
                    match self.source_at(unit) {
                        Some((run, source)) => source.read(run, &mut bytes, unit)?,
                        None => self.read_base(&mut bytes, unit)?,
                    }
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
        self.drop_units(range);
        self.cut_sources(range);
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

    /// Forgets the changed units in `range`.
    fn drop_units(&mut self, range: ByteRange) {
        let staged: Vec<u64> = self.units.range(range.start()..range.end()).map(|(&unit, _)| unit).collect();
        for unit in staged {
            self.units.remove(&unit);
        }
    }

    /// Takes what lies in `range` out of the runs that are elsewhere.
    fn cut_sources(&mut self, range: ByteRange) {
        while let Some((start, source)) = self.last_source_before(range.end()).filter(|(_, source)| source.end > range.start())
        {
            self.sources.remove(&start);
            if range.end() < source.end {
                let from = source.from.saturating_add(range.end().saturating_sub(start));
                self.sources.insert(range.end(), Source { from, ..source.clone() });
            }
            if start < range.start() {
                self.sources.insert(start, Source { end: range.start(), ..source });
            }
        }
    }

    fn last_source_before(&self, end: u64) -> Option<(u64, Source)> {
        self.sources.range(..end).next_back().map(|(start, source)| (*start, source.clone()))
    }

    /// Takes what lies in `range` out of the zeroed runs.
    fn cut_zeroed(&mut self, range: ByteRange) {
        let overlapping = |zeroed: &BTreeMap<u64, u64>| {
            let (&start, &end) = zeroed.range(..range.end()).next_back().filter(|(_, end)| **end > range.start())?;
            Some((start, end))
        };
        while let Some((start, end)) = overlapping(&self.zeroed) {
            self.zeroed.remove(&start);
            if range.end() < end {
                self.zeroed.insert(range.end(), end);
            }
            if start < range.start() {
                self.zeroed.insert(start, range.start());
            }
        }
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
        self.read_under_units(buf, offset)?;
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
        if let Some((run, _)) = self.source_at(offset) {
            return to(run.end().min(next_unit), ExtentKind::Data);
        }
        let next_zeroed = self.zeroed.range(offset..).next().map_or(self.size, |(&start, _)| start);
        let next_source = self.sources.range(offset..).next().map_or(self.size, |(&start, _)| start);
        let next = next_unit.min(next_zeroed).min(next_source);
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

    /// Remembers where the bytes are, when they are many.
    fn write_from_at(&mut self, source: &Arc<dyn BlockRead>, from: u64, range: ByteRange) -> Result<(), Error> {
        self.inside(range.start(), range.len())?;
        let outside = || Error::out_of_bounds(from, range.len(), source.size());
        ByteRange::at(from, range.len()).filter(|wanted| wanted.end() <= source.size()).ok_or_else(outside)?;
        let whole = ByteRange::new(align_up(range.start()), align_down(range.end()));
        let Some(whole) = whole.filter(|whole| whole.len() >= SMALLEST_SOURCE) else {
            return copy_range(source, from, self, range);
        };
        let begin = from.saturating_add(whole.start().saturating_sub(range.start()));
        let behind = begin.saturating_add(whole.len());
        copy_range(source, from, self, ByteRange::new(range.start(), whole.start()).unwrap_or_default())?;
        copy_range(source, behind, self, ByteRange::new(whole.end(), range.end()).unwrap_or_default())?;
        self.drop_units(whole);
        self.cut_zeroed(whole);
        self.cut_sources(whole);
        self.sources.insert(whole.start(), Source { end: whole.end(), disk: Arc::clone(source), from: begin });
        Ok(())
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
            self.cut_sources(ByteRange::new(align_up(size), u64::MAX).unwrap_or_default());
            let end = align_up(old.max(self.base.size()));
            if align_up(size) < end {
                self.insert_zeroed(align_up(size), end);
            }
        }
        self.size = size;
        Ok(())
    }
}

impl Source {
    /// Fills `buf` with what is at `offset` of the staged device, inside the run `whole` that this is.
    fn read(&self, whole: ByteRange, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.disk.read_exact_at(buf, self.from.saturating_add(offset.saturating_sub(whole.start())))
    }
}

/// Returns the part of `buf`, whose first byte is at `offset`, that lies over `range`.
fn window(buf: &mut [u8], offset: u64, range: ByteRange) -> &mut [u8] {
    let from = usize::try_from(range.start().saturating_sub(offset)).unwrap_or(usize::MAX);
    let to = usize::try_from(range.end().saturating_sub(offset)).unwrap_or(usize::MAX);
    buf.get_mut(from..to).unwrap_or_default()
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
/// Bytes of the smallest run that is left where it is.
const SMALLEST_SOURCE: u64 = if cfg!(test) { UNIT } else { 1 << 20 };
