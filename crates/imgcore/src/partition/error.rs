use crate::block;

/// The failure of an operation on a partition table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk has no partition table.
    #[error("the disk has no partition table")]
    NoTable,
    /// The table has no partition of that number.
    #[error("there is no partition {0}")]
    NoPartition(u32),
    /// The table breaks a rule of its format.
    #[error("corrupt partition table")]
    Corrupt(#[from] Corrupt),
    /// The table is sound but not handled.
    #[error("unsupported partition table: {0}")]
    Unsupported(String),
    /// The device below failed.
    #[error(transparent)]
    Storage(#[from] block::Error),
}

/// Which structure of a partition table breaks which rule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}: {rule}")]
pub struct Corrupt {
    /// The structure, as in `GPT header at sector 1`.
    pub place: String,
    /// The rule.
    pub rule: String,
}

impl Error {
    pub(super) fn corrupt(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Corrupt(Corrupt { place: place.into(), rule: rule.into() })
    }
}
