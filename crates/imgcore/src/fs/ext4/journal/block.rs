//! The blocks of a log: headers, descriptors, revocations and commit records.

use super::super::checksum::{crc32_be, crc32c};
use super::super::error::corrupt;
use super::super::superblock::{halves, join};
use crate::fs::Error;

/// How the blocks of a log are stored: what the features of the journal say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) block_size: usize,
    /// Block numbers have 64 bits.
    pub(super) wide: bool,
    /// A commit record may be stored before what it commits.
    pub(super) is_async: bool,
    pub(super) sums: Sums,
    /// What every crc32c starts from.
    pub(super) seed: u32,
    /// What the first tag of a descriptor carries.
    pub(super) uuid: [u8; 16],
}

/// How a log is protected.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Sums {
    /// Not at all.
    None,
    /// A crc32 of the descriptors and the data, in the commit record.
    V1,
    /// A crc32c of every block, of which tags have 16 bits.
    V2,
    /// A crc32c of every block.
    V3,
}

/// Where a block of the log belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Tag {
    /// Number of the block in the file system.
    pub(super) home: u64,
    /// Its first four bytes are the magic, which the log has as zeros.
    pub(super) is_escaped: bool,
    /// The checksum that the tag has, in as many bits as it has.
    pub(super) sum: u32,
}

/// Returns kind and sequence of a block that begins as those of jbd2 do.
pub(super) fn header(block: &[u8]) -> Option<(u32, u32)> {
    (be32(block, 0)? == MAGIC).then_some((be32(block, 4)?, be32(block, 8)?))
}

impl Format {
    /// Returns the tags of a descriptor.
    pub(super) fn tags(&self, block: &[u8]) -> Result<Vec<Tag>, Error> {
        let bad = || corrupt("journal descriptor", "the last of its tags has the flag that says so");
        let mut tags = Vec::new();
        let end = self.end(block.len());
        let mut at = HEADER;
        loop {
            let next = at.saturating_add(self.tag_bytes());
            if next > end {
                return Err(bad());
            }
            let low = be32(block, at).ok_or_else(bad)?;
            let second = be32(block, at.saturating_add(4)).ok_or_else(bad)?;
            let third = be32(block, at.saturating_add(8)).filter(|_| self.wide).unwrap_or_default();
            let (flags, sum) = match self.sums {
                Sums::V3 => (second, be32(block, at.saturating_add(12)).ok_or_else(bad)?),
                _ => (second & 0xFFFF, second >> 16),
            };
            tags.push(Tag { home: join(low, third), is_escaped: flags & ESCAPED != 0, sum });
            if flags & LAST != 0 {
                return Ok(tags);
            }
            at = if flags & SAME_UUID != 0 { next } else { next.saturating_add(UUID) };
        }
    }

    /// Returns the numbers that a block of revocations has.
    pub(super) fn revoked(&self, block: &[u8]) -> Result<Vec<u64>, Error> {
        let bad = || corrupt("journal revocation", "its entries lie inside its block");
        // Spec: "r_count: Number of bytes used in this block."
        let used = usize::try_from(be32(block, HEADER).ok_or_else(bad)?).map_err(|_| bad())?;
        if used > self.end(block.len()) {
            return Err(bad());
        }
        // Spec: "The size of each block number is 8 bytes if the superblock advertises 64-bit block number support, or 4 bytes
        // otherwise."
        let entries = block.get(REVOCATIONS..used.max(REVOCATIONS)).ok_or_else(bad)?;
        Ok(if self.wide {
            let wide =
                entries.chunks_exact(8).map(|entry| entry.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes)));
            wide.collect()
        } else {
            entries.chunks_exact(4).map(|entry| u64::from(be32(entry, 0).unwrap_or_default())).collect()
        })
    }

    /// Returns whether the checksum at the end of a descriptor or of revocations is right, where there is one.
    pub(super) fn is_sealed(&self, block: &[u8]) -> bool {
        self.sums < Sums::V2 || be32(block, block.len().saturating_sub(TAIL)) == Some(self.tail_sum(block))
    }

    fn tail_sum(&self, block: &[u8]) -> u32 {
        // Spec: "Checksum of the journal UUID + the descriptor block, with this field set to zero."
        let covered = block.get(..block.len().saturating_sub(TAIL)).unwrap_or_default();
        crc32c(crc32c(self.seed, covered), &[0; TAIL])
    }

    /// Returns whether the tag of a block of the log has the right checksum, where it has one.
    pub(super) fn is_intact(&self, tag: &Tag, sequence: u32, data: &[u8]) -> bool {
        self.sums < Sums::V2 || tag.sum == self.data_sum(sequence, data)
    }

    /// Returns the checksum of a block of the log as its tag has it.
    pub(super) fn data_sum(&self, sequence: u32, data: &[u8]) -> u32 {
        // Spec: "Checksum of the journal UUID, the sequence number, and the data block. Note that only the lower 16 bits are stored."
        let sum = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), data);
        if self.sums == Sums::V3 { sum } else { sum & 0xFFFF }
    }

    /// Returns whether a commit record is right, given the crc32 of what was found before it.
    pub(super) fn commits(&self, block: &[u8], written: u32) -> bool {
        let stored = be32(block, COMMIT_SUM);
        match self.sums {
            Sums::None => true,
            // Spec: "the first __be32 is the crc32 of all the blocks already written to the transaction."
            Sums::V1 => match block.get(COMMIT_TYPE..COMMIT_SUM) {
                Some([CRC32, 4, ..]) => stored == Some(written),
                // Without a checksum, as where the feature was set later.
                Some([0, 0, ..]) => stored == Some(0),
                _ => false,
            },
            Sums::V2 | Sums::V3 => stored == Some(self.commit_sum(block)),
        }
    }

    fn commit_sum(&self, block: &[u8]) -> u32 {
        // Spec: "the checksum of the journal UUID and the entire commit block, with this field zeroed"
        let before = block.get(..COMMIT_SUM).unwrap_or_default();
        let behind = block.get(COMMIT_SUM.saturating_add(4)..).unwrap_or_default();
        crc32c(crc32c(crc32c(self.seed, before), &[0; 4]), behind)
    }

    /// Returns whether some checksum covers the data.
    pub(super) fn has_data_sums(&self) -> bool {
        self.sums != Sums::None
    }

    /// Returns the crc32 of a transaction continued by a block of it.
    pub(super) fn continue_sum(&self, sum: u32, block: &[u8]) -> u32 {
        if self.sums == Sums::V1 { crc32_be(sum, block) } else { sum }
    }

    /// Returns how many tags a descriptor takes.
    pub(super) fn tags_per_descriptor(&self) -> usize {
        // The kernel leaves the room of one more UUID free.
        let room = self.end(self.block_size).saturating_sub(HEADER).saturating_sub(UUID).saturating_sub(UUID);
        room.checked_div(self.tag_bytes()).unwrap_or(1).max(1)
    }

    /// Returns a block as the log has it, and whether that differs.
    pub(super) fn escape(&self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut copy = bytes.to_vec();
        let is_escaped = be32(bytes, 0) == Some(MAGIC);
        if let Some(start) = copy.get_mut(..4).filter(|_| is_escaped) {
            start.fill(0);
        }
        (copy, is_escaped)
    }

    /// Returns the descriptor of a transaction's blocks, or `None` when one has a number that is too large for this journal.
    pub(super) fn descriptor(&self, sequence: u32, tags: &[Tag]) -> Option<Vec<u8>> {
        let mut block = encode_header(DESCRIPTOR, sequence);
        for (index, tag) in tags.iter().enumerate() {
            let (low, high) = halves(tag.home);
            if high != 0 && !self.wide {
                return None;
            }
            let escaped = if tag.is_escaped { ESCAPED } else { 0 };
            let same = if index > 0 { SAME_UUID } else { 0 };
            let last = if index.saturating_add(1) == tags.len() { LAST } else { 0 };
            let flags = escaped | same | last;
            let start = block.len();
            block.extend_from_slice(&low.to_be_bytes());
            if self.sums == Sums::V3 {
                block.extend([flags, high, tag.sum].iter().flat_map(|field| field.to_be_bytes()));
            } else {
                let sum = if self.sums == Sums::V2 { tag.sum } else { 0 };
                block.extend_from_slice(&(sum << 16 | flags).to_be_bytes());
                if self.wide {
                    block.extend_from_slice(&high.to_be_bytes());
                }
            }
            block.resize(start.saturating_add(self.tag_bytes()), 0);
            if index == 0 {
                block.extend_from_slice(&self.uuid);
            }
        }
        block.resize(self.block_size, 0);
        self.seal(&mut block);
        Some(block)
    }

    fn seal(&self, block: &mut [u8]) {
        if self.sums < Sums::V2 {
            return;
        }
        let sum = self.tail_sum(block).to_be_bytes();
        let at = block.len().saturating_sub(TAIL);
        if let Some(tail) = block.get_mut(at..) {
            tail.copy_from_slice(&sum);
        }
    }

    /// Returns the commit record behind blocks whose crc32 is `written`.
    pub(super) fn commit(&self, sequence: u32, written: u32, seconds: u32) -> Vec<u8> {
        let mut block = encode_header(COMMIT, sequence);
        let is_v1 = self.sums == Sums::V1;
        block.extend_from_slice(if is_v1 { &[CRC32, 4, 0, 0] } else { &[0; 4] });
        block.extend_from_slice(&if is_v1 { written } else { 0 }.to_be_bytes());
        block.resize(COMMIT_TIME, 0);
        block.extend_from_slice(&u64::from(seconds).to_be_bytes());
        block.resize(self.block_size, 0);
        if self.sums >= Sums::V2 {
            let sum = self.commit_sum(&block).to_be_bytes();
            if let Some(place) = block.get_mut(COMMIT_SUM..).and_then(|rest| rest.get_mut(..4)) {
                place.copy_from_slice(&sum);
            }
        }
        block
    }

    /// Returns the bytes of a tag, without a UUID behind it.
    ///
    /// Spec: "If JBD2_FEATURE_INCOMPAT_CSUM_V3 is NOT set, … The size is 8, 12, 24, or 28 bytes". With checksums of version 2 it is
    /// two more: the kernel has always counted the checksum twice.
    fn tag_bytes(&self) -> usize {
        match (self.sums, self.wide) {
            (Sums::V3, _) => 16,
            (Sums::V2, true) => 14,
            (Sums::V2, false) => 10,
            (_, true) => 12,
            (_, false) => 8,
        }
    }

    /// Returns where the tags or revocations of a block of `len` bytes end.
    fn end(&self, len: usize) -> usize {
        if self.sums < Sums::V2 { len } else { len.saturating_sub(TAIL) }
    }
}

fn encode_header(kind: u32, sequence: u32) -> Vec<u8> {
    [MAGIC, kind, sequence].iter().flat_map(|field| field.to_be_bytes()).collect()
}

/// Returns the big-endian number at `at`.
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*number))
}

/// Spec: "jbd2 magic number, 0xC03B3998."
pub(super) const MAGIC: u32 = 0xC03B_3998;

/// Spec: "Block Header", `h_blocktype`.
pub(super) const DESCRIPTOR: u32 = 1;
pub(super) const COMMIT: u32 = 2;
pub(super) const REVOCATION: u32 = 5;

/// Spec: "The journal tag flags are any combination of the following".
const ESCAPED: u32 = 0x1;
const SAME_UUID: u32 = 0x2;
const LAST: u32 = 0x8;

const HEADER: usize = 12;
const UUID: usize = 16;
const TAIL: usize = 4;
/// Where the numbers of a block of revocations begin.
const REVOCATIONS: usize = 16;
/// Where a commit record has the type, the size and the checksum.
const COMMIT_TYPE: usize = 12;
const COMMIT_SUM: usize = 16;
/// Where a commit record has the time, in seconds since 1970.
const COMMIT_TIME: usize = 0x30;
/// Spec: "Journal checksum type codes": 1 is CRC32.
const CRC32: u8 = 1;
