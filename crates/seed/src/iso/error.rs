use imgcore::block;

/// The failure to make, read or verify an ISO image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The time is outside of the years 1900 to 2155, which a directory record can state.
    #[error("the time {0} is outside of the years 1900 to 2155")]
    Time(i64),
    /// The files need more than 4 GiB.
    #[error("the files do not fit into an image")]
    TooLarge,
    /// There is no primary volume descriptor.
    #[error("not an ISO 9660 image")]
    NotIso,
    /// The image lacks the names that were asked for.
    #[error("the image has no {0}")]
    NoNames(&'static str),
    /// The image breaks a rule of the format.
    #[error("corrupt ISO 9660 image: {structure} at sector {sector}: {rule}")]
    Corrupt {
        /// The structure.
        structure: &'static str,
        /// The sector in which it begins.
        sector: u64,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The image is sound but uses a feature that is not implemented.
    #[error("unsupported ISO 9660 image: {0}")]
    Unsupported(&'static str),
    /// The image does not hold what it should.
    #[error("the image is not what was written: {what}")]
    Different {
        /// What is different.
        what: String,
    },
    /// The storage below the image failed.
    #[error(transparent)]
    Storage(#[from] block::Error),
}

/// Returns the error for a broken rule.
pub(super) fn corrupt(structure: &'static str, sector: u32, rule: &'static str) -> Error {
    Error::Corrupt { structure, sector: sector.into(), rule }
}
