use std::fmt;

/// A byte of the disk that the guest sees.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GuestOffset(pub u64);

/// A byte of the image's storage, or of its external data file.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostOffset(pub u64);

impl HostOffset {
    /// Returns the offset `len` bytes further on.
    pub(super) fn plus(self, len: u64) -> Self {
        Self(self.0.saturating_add(len))
    }
}

impl GuestOffset {
    /// Returns the offset `len` bytes further on.
    pub(super) fn plus(self, len: u64) -> Self {
        Self(self.0.saturating_add(len))
    }
}

impl fmt::Display for GuestOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for HostOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns `value` as an index or length in memory; one that does not fit becomes the largest, which no slice has.
pub(super) fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Returns a length in memory as bytes of a disk.
pub(super) fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
