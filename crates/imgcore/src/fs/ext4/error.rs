use crate::fs::{Error, Refusal};

/// Returns the error for bytes that break `rule`.
pub(super) fn corrupt(place: impl Into<String>, rule: impl Into<String>) -> Error {
    Error::Corrupt { format: FORMAT, place: place.into(), rule: rule.into() }
}

/// Returns the error for a sound file system that is left alone; `reason` continues "the ext4 file system …".
pub(super) fn refused(reason: impl Into<String>) -> Error {
    Error::Refused(Refusal { format: FORMAT, reason: reason.into() })
}

const FORMAT: &str = "ext4";
