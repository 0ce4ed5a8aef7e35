//! What is about to be overwritten, kept beside the disk: for a change that nothing else makes all at once or not at all.
//!
//! ```text
//! header   "vmimg undo log 1" | bytes of the disk, 8 | bytes of the text, 4 | checksum, 4 | text: which disk it is
//! record   "UNDO" | length, 4 | offset, 8 | checksum, 4 | a checksum of each new sector | old bytes
//! end      "DONE" | records, 8 | checksum of everything before, 4
//! ```
//!
//! Numbers are little-endian, checksums CRC-32C; a sector has 512 bytes. The log is durable before the first write to the disk. As
//! each sector of the disk must be the old or the new one, a log is never applied to what has been written since.

use super::{BlockRead, BlockWrite, ByteRange, Change, Error, ErrorKind, ExtentKind, Resize, extents};

/// A whole log.
#[derive(Debug)]
pub struct UndoLog<L> {
    log: L,
    size: u64,
    about: String,
    /// Where the first record is, and the checksum of what is before.
    begin: (u64, u32),
}

/// Old bytes, and what the new ones are known by.
struct Record {
    offset: u64,
    old: Vec<u8>,
    new_sums: Vec<u32>,
}

impl<L: Resize> UndoLog<L> {
    /// Writes into `log`, which is empty, what `disk` holds where `changes` would change it, durably; `about` says which disk it is.
    ///
    /// # Errors
    ///
    /// The failure of a device.
    pub fn record<D: BlockRead>(disk: &D, about: &str, changes: &[Change<'_>], log: L) -> Result<Self, Error> {
        let mut head = MAGIC.to_vec();
        head.extend(disk.size().to_le_bytes());
        head.extend(u32::try_from(about.len()).unwrap_or(u32::MAX).to_le_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head), about.as_bytes());
        head.extend(sum.to_le_bytes());
        head.extend(about.as_bytes());
        let begin = (len(&head), crc32c::crc32c(&head));
        let mut writer = Writer { log, buf: head, at: 0, sum: 0, records: 0 };
        for change in changes {
            match change {
                Change::Data(offset, bytes) => {
                    for (at, new) in (0_u64..).zip(bytes.chunks(PIECE)) {
                        let offset = offset.saturating_add(at.saturating_mul(PIECE_BYTES));
                        writer.keep(disk, offset, new)?;
                    }
                }
                Change::Zeroes(range) => writer.keep_before_zeroes(disk, *range)?,
                Change::Source(range, source, from) => {
                    let mut offset = range.start();
                    while offset < range.end() {
                        let piece = range.end().saturating_sub(offset).min(PIECE_BYTES);
                        let mut new = vec![0; usize::try_from(piece).unwrap_or(PIECE)];
                        source.read_exact_at(&mut new, from.saturating_add(offset.saturating_sub(range.start())))?;
                        writer.keep(disk, offset, &new)?;
                        offset = offset.saturating_add(piece);
                    }
                }
            }
        }
        let log = writer.finish()?;
        Ok(Self { log, size: disk.size(), about: about.to_owned(), begin })
    }

    /// Returns what holds the log.
    #[must_use]
    pub fn into_inner(self) -> L {
        self.log
    }
}

impl<L: BlockRead> UndoLog<L> {
    /// Reads the log through, up to its end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is torn, damaged or no log.
    pub fn open(log: L) -> Result<Self, Error> {
        let head: [u8; HEAD] = read(&log, 0)?;
        let (size, text, sum) = (u64_at(&head, 16), u32_at(&head, 24), u32_at(&head, 28));
        if head.get(..16) != Some(MAGIC) {
            return Err(bad("is none: its first bytes are others"));
        }
        if u64::from(text) > TEXT_MAX || log.size() < HEAD_BYTES.saturating_add(u64::from(text)) {
            return Err(bad("is damaged in its header"));
        }
        let mut about = vec![0; usize::try_from(text).unwrap_or_default()];
        log.read_exact_at(&mut about, HEAD_BYTES)?;
        if crc32c::crc32c_append(crc32c::crc32c(head.get(..28).unwrap_or_default()), &about) != sum {
            return Err(bad("is damaged in its header"));
        }
        let begin = (HEAD_BYTES.saturating_add(u64::from(text)), crc32c::crc32c_append(crc32c::crc32c(&head), &about));
        let about = String::from_utf8(about).map_err(|_| bad("is damaged in its header"))?;
        let log = Self { log, size, about, begin };
        log.each(|_| Ok(()))?;
        Ok(log)
    }

    /// Returns which disk it is about, as it was told.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Returns how many bytes of `disk` are not the old ones.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the disk has another size, or bytes that are neither the old nor the new ones.
    pub fn count_changed<D: BlockRead>(&self, disk: &D) -> Result<u64, Error> {
        if disk.size() != self.size {
            let message = format!("the undo log is about a disk of {} bytes, and this one has {}", self.size, disk.size());
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let mut changed = 0_u64;
        self.each(|record| {
            let mut found = vec![0; record.old.len()];
            disk.read_exact_at(&mut found, record.offset)?;
            let sectors = found.chunks(SECTOR).zip(record.old.chunks(SECTOR)).zip(&record.new_sums);
            for (at, ((found, old), new_sum)) in (0_u64..).zip(sectors) {
                if found == old {
                    continue;
                }
                if crc32c::crc32c(found) != *new_sum {
                    let at = record.offset.saturating_add(at.saturating_mul(SECTOR_BYTES));
                    let why = "it was written since, or the undo log is another disk's";
                    let message = format!("offset {at} of the disk is neither as before the change nor as after it: {why}");
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                changed = changed.saturating_add(len(found));
            }
            Ok(())
        })?;
        Ok(changed)
    }

    /// Puts the old bytes back, durably, and returns how many were not there. To be done again after a failure or a power cut.
    ///
    /// # Errors
    ///
    /// As [`UndoLog::count_changed`], before the first write; otherwise the failure of the device.
    pub fn apply<D: BlockWrite>(&self, disk: &mut D) -> Result<u64, Error> {
        let changed = self.count_changed(disk)?;
        if changed > 0 {
            self.each(|record| disk.write_all_at(&record.old, record.offset))?;
            disk.flush()?;
        }
        Ok(changed)
    }

    /// Calls `look` with each record, in order of their offsets, and checks them all.
    fn each(&self, mut look: impl FnMut(Record) -> Result<(), Error>) -> Result<(), Error> {
        let (mut at, mut sum) = self.begin;
        let (mut records, mut end) = (0_u64, 0_u64);
        loop {
            let head: [u8; RECORD] = read_end(&self.log, at)?;
            if head.get(..4) == Some(DONE) {
                let whole = u64_at(&head, 4) == records
                    && u32_at(&head, 12) == crc32c::crc32c_append(sum, head.get(..12).unwrap_or_default());
                return if whole && self.log.size() == at.saturating_add(END_BYTES) { Ok(()) } else { Err(torn()) };
            }
            let (length, offset, stored) = (u32_at(&head, 4), u64_at(&head, 8), u32_at(&head, 16));
            let range =
                ByteRange::at(offset, u64::from(length)).filter(|range| range.end() <= self.size && range.start() >= end);
            let range = range.filter(|range| head.get(..4) == Some(UNDO) && !range.is_empty() && range.len() <= PIECE_BYTES);
            let range = range.ok_or_else(torn)?;
            let sectors = usize::try_from(range.len().div_ceil(SECTOR_BYTES)).unwrap_or_default();
            let mut sums = vec![0; sectors.saturating_mul(4)];
            let mut old = vec![0; usize::try_from(length).unwrap_or_default()];
            let (sums_at, old_at) =
                (at.saturating_add(RECORD_BYTES), at.saturating_add(RECORD_BYTES).saturating_add(len(&sums)));
            let next = old_at.saturating_add(len(&old));
            if next > self.log.size() {
                return Err(torn());
            }
            self.log.read_exact_at(&mut sums, sums_at)?;
            self.log.read_exact_at(&mut old, old_at)?;
            if sum_of(head.get(..16).unwrap_or_default(), &sums, &old) != stored {
                return Err(torn());
            }
            sum = [head.as_slice(), &sums, &old].iter().fold(sum, |sum, part| crc32c::crc32c_append(sum, part));
            let new_sums = sums.chunks_exact(4).map(|sum| u32_at(sum, 0)).collect();
            look(Record { offset, old, new_sums })?;
            (at, records, end) = (next, records.saturating_add(1), range.end());
        }
    }
}

/// A log that is being written.
struct Writer<L> {
    log: L,
    buf: Vec<u8>,
    /// Bytes written, and their checksum.
    at: u64,
    sum: u32,
    records: u64,
}

impl<L: Resize> Writer<L> {
    /// Adds what `disk` has in the place of `new`, unless it is the same.
    fn keep<D: BlockRead>(&mut self, disk: &D, offset: u64, new: &[u8]) -> Result<(), Error> {
        let mut old = vec![0; new.len()];
        disk.read_exact_at(&mut old, offset)?;
        if old == new {
            return Ok(());
        }
        let mut head = UNDO.to_vec();
        head.extend(u32::try_from(old.len()).unwrap_or(u32::MAX).to_le_bytes());
        head.extend(offset.to_le_bytes());
        let sums: Vec<u8> = new.chunks(SECTOR).flat_map(|sector| crc32c::crc32c(sector).to_le_bytes()).collect();
        let sum = sum_of(&head, &sums, &old);
        head.extend(sum.to_le_bytes());
        [head, sums, old].iter().for_each(|part| self.buf.extend(part));
        self.records = self.records.saturating_add(1);
        if self.buf.len() > PIECE { self.write() } else { Ok(()) }
    }

    fn keep_before_zeroes<D: BlockRead>(&mut self, disk: &D, range: ByteRange) -> Result<(), Error> {
        for extent in extents(disk, range) {
            let extent = extent?;
            let mut offset = extent.range.start();
            while extent.kind == ExtentKind::Data && offset < extent.range.end() {
                let piece = extent.range.end().saturating_sub(offset).min(PIECE_BYTES);
                let zeroes = vec![0; usize::try_from(piece).unwrap_or_default()];
                self.keep(disk, offset, &zeroes)?;
                offset = offset.saturating_add(piece);
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        let buf = std::mem::take(&mut self.buf);
        self.sum = crc32c::crc32c_append(self.sum, &buf);
        let end = self.at.saturating_add(len(&buf));
        self.log.resize(end)?;
        self.log.write_all_at(&buf, self.at)?;
        self.at = end;
        Ok(())
    }

    fn finish(mut self) -> Result<L, Error> {
        self.buf.extend(DONE);
        self.buf.extend(self.records.to_le_bytes());
        let sum = crc32c::crc32c_append(self.sum, &self.buf);
        self.buf.extend(sum.to_le_bytes());
        self.write()?;
        self.log.flush()?;
        Ok(self.log)
    }
}

fn sum_of(head: &[u8], sums: &[u8], old: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(head), sums), old)
}

/// Reads `N` bytes that are all there.
fn read<const N: usize>(log: &dyn BlockRead, at: u64) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    if log.size() < at.saturating_add(len(&bytes)) {
        return Err(bad("is none: it is too short"));
    }
    log.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// Reads the head of a record, or the end, which is shorter.
fn read_end(log: &dyn BlockRead, at: u64) -> Result<[u8; RECORD], Error> {
    let mut bytes = [0; RECORD];
    let left = usize::try_from(log.size().saturating_sub(at)).unwrap_or(usize::MAX);
    log.read_exact_at(bytes.get_mut(..left.min(RECORD)).unwrap_or_default(), at).map_err(|_| torn())?;
    Ok(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |value| u32::from_le_bytes(*value))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |value| u64::from_le_bytes(*value))
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the undo log {what}"))
}

fn torn() -> Error {
    bad("is torn or damaged: a change begins only when its log is whole")
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

const MAGIC: &[u8; 16] = b"vmimg undo log 1";
const UNDO: &[u8; 4] = b"UNDO";
const DONE: &[u8; 4] = b"DONE";
/// Bytes of the header before its text, of a record before its checksums, and of the end.
const HEAD: usize = 32;
const HEAD_BYTES: u64 = 32;
const RECORD: usize = 20;
const RECORD_BYTES: u64 = 20;
const END_BYTES: u64 = 16;
/// The most bytes of the text.
const TEXT_MAX: u64 = 1 << 16;
/// Bytes that are stored whole or not at all.
const SECTOR: usize = 512;
const SECTOR_BYTES: u64 = 512;
/// The most bytes of a record.
const PIECE: usize = 1 << 20;
const PIECE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::{BlockRead, BlockWrite, ByteRange, ErrorKind, Hole, MemoryDisk, Staged};
    use super::UndoLog;

    /// A disk, a change to it, and the log of that.
    fn logged() -> (MemoryDisk, Staged<MemoryDisk>, Vec<u8>) {
        let old: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let mut staged = Staged::new(MemoryDisk::new(old.clone()));
        staged.write_all_at(&[7; 5000], 100).unwrap();
        staged.write_zeroes_at(ByteRange::at(40_960, 2_000_000).unwrap(), Hole::Allow).unwrap();
        staged.write_all_at(&[9; 100], 2_999_900).unwrap();
        let disk = MemoryDisk::new(old);
        let log = UndoLog::record(&disk, "raw disk", &staged.changes(), MemoryDisk::new(Vec::new())).unwrap();
        (disk, staged, log.into_inner().into_bytes())
    }

    fn all(disk: &impl BlockRead) -> Vec<u8> {
        let mut bytes = vec![0; disk.size() as usize];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn open(log: &[u8]) -> UndoLog<MemoryDisk> {
        UndoLog::open(MemoryDisk::new(log.to_vec())).unwrap()
    }

    #[test]
    fn the_old_bytes_come_back_from_any_part_of_the_change() {
        let (disk, staged, log) = logged();
        let (old, new) = (all(&disk), all(&staged));
        for stride in [1, 2, 3, 1000] {
            let mut torn = old.clone();
            for at in (0..old.len()).step_by(512).step_by(stride) {
                let end = old.len().min(at + 512);
                torn[at..end].copy_from_slice(&new[at..end]);
            }
            let mut disk = MemoryDisk::new(torn);
            assert!(open(&log).apply(&mut disk).unwrap() > 0);
            assert!(all(&disk) == old);
            assert_eq!(open(&log).apply(&mut disk).unwrap(), 0);
        }
        assert_eq!(open(&log).about(), "raw disk");
    }

    #[test]
    fn a_disk_that_was_written_since_is_left_alone() {
        let (_, staged, log) = logged();
        let mut bytes = all(&staged);
        bytes[50_000] = 1;
        let mut disk = MemoryDisk::new(bytes.clone());
        assert_eq!(open(&log).apply(&mut disk).unwrap_err().kind(), ErrorKind::Refused);
        assert!(disk.into_bytes() == bytes);
        let mut other = MemoryDisk::new(vec![0; 1000]);
        assert_eq!(open(&log).apply(&mut other).unwrap_err().kind(), ErrorKind::Refused);
    }

    #[test]
    fn a_torn_or_damaged_log_is_none() {
        let (_, _, log) = logged();
        let refused = |bytes: Vec<u8>| {
            assert_eq!(UndoLog::open(MemoryDisk::new(bytes)).unwrap_err().kind(), ErrorKind::Corrupt);
        };
        for end in (0..log.len()).step_by(37_001).chain([1, 31, 40, 41, log.len() - 1]) {
            refused(log[..end].to_vec());
        }
        for at in (0..log.len()).step_by(9_973).chain(0..60).chain(log.len() - 16..log.len()) {
            let mut damaged = log.clone();
            damaged[at] ^= 0x10;
            refused(damaged);
        }
        refused([log, vec![0]].concat());
    }
}
