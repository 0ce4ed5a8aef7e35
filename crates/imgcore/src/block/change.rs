use std::sync::Arc;

use super::{BlockRead, BlockWrite, ByteRange, Error, Hole};

/// A run of bytes that differs from the device below a [`super::Staged`].
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// New bytes and their offset.
    Data(u64, &'a [u8]),
    /// A run that reads as zeros now.
    Zeroes(ByteRange),
    /// A run that reads as the bytes of another device, from the given offset on.
    Source(ByteRange, &'a Arc<dyn BlockRead>, u64),
}

impl<'a> Change<'a> {
    /// Returns the part of it that lies in `range`, or `None` when none does.
    #[must_use]
    pub fn within(&self, range: ByteRange) -> Option<Change<'a>> {
        let common = self.range().intersection(range).filter(|common| !common.is_empty())?;
        Some(match self {
            Self::Zeroes(_) => Change::Zeroes(common),
            Self::Data(offset, bytes) => Change::Data(common.start(), part(bytes, *offset, common)?),
            Self::Source(range, disk, from) => {
                Change::Source(common, disk, from.checked_add(common.start().checked_sub(range.start())?)?)
            }
        })
    }

    /// Returns it as far from `to` as it is from `start`, which does not lie behind it.
    #[must_use]
    pub fn moved(&self, start: u64, to: u64) -> Option<Change<'a>> {
        let moved = |offset: u64| offset.checked_sub(start)?.checked_add(to);
        Some(match self {
            Self::Data(offset, bytes) => Change::Data(moved(*offset)?, bytes),
            Self::Zeroes(range) => Change::Zeroes(ByteRange::at(moved(range.start())?, range.len())?),
            Self::Source(range, disk, from) => Change::Source(ByteRange::at(moved(range.start())?, range.len())?, disk, *from),
        })
    }

    /// Returns the bytes that it covers.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        match self {
            Self::Data(offset, bytes) => {
                ByteRange::at(*offset, u64::try_from(bytes.len()).unwrap_or(u64::MAX)).unwrap_or_default()
            }
            Self::Zeroes(range) | Self::Source(range, ..) => *range,
        }
    }

    /// Writes it to `disk`.
    ///
    /// # Errors
    ///
    /// The failure of `disk` or of the device that the bytes come from.
    pub fn write_to<D: BlockWrite + ?Sized>(&self, disk: &mut D) -> Result<(), Error> {
        match self {
            Self::Data(offset, bytes) => disk.write_all_at(bytes, *offset),
            Self::Zeroes(range) => disk.write_zeroes_at(*range, Hole::Allow),
            Self::Source(range, source, from) => disk.write_from_at(source, *from, *range),
        }
    }

    /// Returns whether `disk` has the bytes that it is about; zeros are not looked at.
    ///
    /// # Errors
    ///
    /// As [`Change::write_to`].
    pub fn is_on<D: BlockRead + ?Sized>(&self, disk: &D) -> Result<bool, Error> {
        match self {
            Self::Zeroes(_) => Ok(true),
            Self::Data(offset, bytes) => {
                let mut found = vec![0; bytes.len()];
                disk.read_exact_at(&mut found, *offset)?;
                Ok(found == *bytes)
            }
            Self::Source(range, source, from) => {
                let (mut found, mut wanted) = (Vec::new(), Vec::new());
                let mut done = 0;
                while done < range.len() {
                    let len = usize::try_from(range.len().saturating_sub(done).min(PIECE)).unwrap_or(usize::MAX);
                    found.resize(len, 0);
                    wanted.resize(len, 0);
                    disk.read_exact_at(&mut found, range.start().saturating_add(done))?;
                    source.read_exact_at(&mut wanted, from.saturating_add(done))?;
                    if found != wanted {
                        return Ok(false);
                    }
                    done = done.saturating_add(PIECE);
                }
                Ok(true)
            }
        }
    }
}

/// Returns the bytes of `range` out of the unit at `offset`, or `None` when the unit does not hold them all.
pub(super) fn part(unit: &[u8], offset: u64, range: ByteRange) -> Option<&[u8]> {
    let from = usize::try_from(range.start().checked_sub(offset)?).ok()?;
    let to = usize::try_from(range.end().checked_sub(offset)?).ok()?;
    unit.get(from..to)
}

/// Bytes that are compared at a time.
const PIECE: u64 = 1 << 20;
