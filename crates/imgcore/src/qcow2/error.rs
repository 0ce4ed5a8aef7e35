use super::bitmap::BitmapError;
use super::snapshots::SnapshotError;
use crate::block;

/// The failure of an operation on a qcow2 image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first bytes are not the qcow2 magic.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// The options for a new image do not fit together.
    #[error("{0}")]
    InvalidOptions(String),
    /// The image breaks a rule of the format.
    #[error("corrupt qcow2 image")]
    Corrupt(#[from] Corrupt),
    /// The image is sound but uses a feature that is not implemented.
    #[error("unsupported qcow2 image")]
    Unsupported(#[from] Unsupported),
    /// A persistent bitmap cannot be used or changed as is asked for.
    #[error(transparent)]
    Bitmap(#[from] BitmapError),
    /// A snapshot cannot be taken, applied or deleted as is asked for.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The storage below the image failed.
    #[error(transparent)]
    Storage(#[from] block::Error),
}

/// A rule of the format that an image breaks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{structure} at byte {offset}: {rule}")]
pub struct Corrupt {
    structure: &'static str,
    offset: u64,
    rule: &'static str,
}

impl Corrupt {
    /// Returns that `structure`, stored at byte `offset` of the image, breaks `rule`.
    pub(super) fn new(structure: &'static str, offset: u64, rule: &'static str) -> Self {
        Self { structure, offset, rule }
    }
}

/// A feature of a sound image that is not implemented.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A version of the format that is neither 2 nor 3.
    #[error("version {0}")]
    Version(u32),
    /// Clusters of more than 2 MiB.
    #[error("clusters of 2^{0} bytes")]
    ClusterBits(u32),
    /// Encrypted contents.
    #[error("encryption by {0}")]
    Encryption(&'static str),
    /// Incompatible features by name, as far as the image names them.
    #[error("feature: {0}")]
    Features(String),
    /// A compression type that is neither zlib nor zstd.
    #[error("compression type {0}")]
    Compression(u8),
    /// A table beyond the size that is read.
    #[error("{0} larger than {1} bytes")]
    TooLarge(&'static str, u64),
    /// The contents are in a data file of their own, which the caller did not give.
    #[error("the contents are in an external data file")]
    DataFile,
    /// Writing to an image in this state.
    #[error("writing to an image {0}")]
    Writing(&'static str),
    /// More references to a cluster than a refcount of so many bits can count.
    #[error("more references to a cluster than refcounts of {0} bits can count")]
    References(u32),
    /// Compressed clusters that version 2 cannot have.
    #[error("clusters compressed with zstd in version 2")]
    Compressed,
    /// Changing the size in this way.
    #[error("{0}")]
    Resize(&'static str),
}

impl From<Error> for block::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Storage(below) => below,
            Error::NotQcow2 => Self::new(block::ErrorKind::Corrupt, "not a qcow2 image"),
            Error::InvalidOptions(why) => Self::new(block::ErrorKind::Unsupported, why),
            Error::Corrupt(source) => Self::with_source(block::ErrorKind::Corrupt, "corrupt qcow2 image", source),
            Error::Bitmap(why) => Self::new(block::ErrorKind::Unsupported, why.to_string()),
            Error::Snapshot(why) => Self::new(block::ErrorKind::Unsupported, why.to_string()),
            Error::Unsupported(source) => Self::with_source(block::ErrorKind::Unsupported, "unsupported qcow2 image", source),
        }
    }
}
