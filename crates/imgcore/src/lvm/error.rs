use crate::block;

/// The failure to understand a physical volume or its volume group.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It breaks a rule of the format.
    #[error("corrupt LVM metadata")]
    Corrupt(#[from] Corrupt),
    /// It is sound but not handled.
    #[error("unsupported LVM metadata: {0}")]
    Unsupported(String),
    /// The device below failed.
    #[error(transparent)]
    Storage(#[from] block::Error),
}

/// Which structure breaks which rule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}: {rule}")]
pub(super) struct Corrupt {
    /// The structure, as in `LVM label in sector 1`.
    pub(super) place: String,
    /// The rule.
    pub(super) rule: String,
}

impl Error {
    pub(super) fn corrupt(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Corrupt(Corrupt { place: place.into(), rule: rule.into() })
    }

    /// Returns the message with its cause, for where one line says why a volume is not used.
    pub(super) fn full(&self) -> String {
        match self {
            Self::Corrupt(corrupt) => format!("{self}: {corrupt}"),
            other => other.to_string(),
        }
    }
}
