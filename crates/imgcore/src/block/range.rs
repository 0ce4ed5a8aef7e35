use std::fmt;

/// A run of bytes: `start` is inside, `end` is not. Never runs backwards.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// Returns the bytes from `start` to before `end`, or `None` when `end` comes first.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// Returns the `len` bytes at `offset`, or `None` when their end does not fit 64 bits.
    #[must_use]
    pub fn at(offset: u64, len: u64) -> Option<Self> {
        Some(Self { start: offset, end: offset.checked_add(len)? })
    }

    /// Returns the offset of the first byte.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// Returns the offset behind the last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.end
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Returns whether there are no bytes in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Returns whether the byte at `offset` is inside.
    #[must_use]
    pub fn contains(self, offset: u64) -> bool {
        (self.start..self.end).contains(&offset)
    }

    /// Returns the bytes that are in both, or `None` when there are none.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end)).filter(|range| !range.is_empty())
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}
