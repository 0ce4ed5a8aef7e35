/// Why a bitmap cannot be used or changed as is asked for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BitmapError {
    /// There is none of this name.
    #[error("bitmap `{0}` not found")]
    NotFound(String),
    /// There is one of this name.
    #[error("bitmap `{0}` already exists")]
    Exists(String),
    /// It was not saved by who wrote to the disk.
    #[error("bitmap `{0}` is inconsistent and can only be removed")]
    Inconsistent(String),
    /// It has extra data that says how it is to be used.
    #[error("bitmap `{0}` has extra data of an unknown kind")]
    ExtraData(String),
    /// The marks belong to a disk of another size.
    #[error("the bitmap is for a disk of {theirs} bytes, and this one has {ours}")]
    Size {
        /// Bytes of this disk.
        ours: u64,
        /// Bytes of the other disk.
        theirs: u64,
    },
    /// Bytes for each bit that are not supported.
    #[error("the granularity must be a power of two from 512 bytes to 2 GiB")]
    Granularity(u64),
    /// A name that cannot be stored.
    #[error("the name of a bitmap has 1 to 1023 bytes")]
    Name,
    /// More bits than one bitmap may have.
    #[error("bitmap `{0}` would be larger than 512 MiB at this granularity")]
    TooLarge(String),
    /// More bitmaps than an image may have.
    #[error("an image has at most 65535 bitmaps")]
    TooMany,
    /// The image cannot have bitmaps.
    #[error("{0} has no bitmaps")]
    NotHere(&'static str),
}
