use std::path::PathBuf;

use crate::block::{self, ErrorKind};
use crate::qcow2;

/// The failure of an operation on an image as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such format.
    #[error("unknown image format `{0}`")]
    UnknownFormat(String),
    /// A format that is known, and not supported.
    #[error("the image format `{0}` is not supported")]
    UnsupportedFormat(&'static str),
    /// A file that nobody declared to be raw begins as an image in another format.
    #[error("`{path}` is {format}, which is not supported")]
    ForeignFormat {
        /// The file.
        path: PathBuf,
        /// What it is, for people.
        format: &'static str,
    },
    /// A file that is not trusted breaks one of the rules for such files.
    #[error("`{path}` cannot be trusted: {why}")]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// The rule.
        why: String,
    },
    /// The options of an operation do not fit together.
    #[error("{0}")]
    InvalidOptions(String),
    /// What is asked for is sound, and not supported.
    #[error("{0}")]
    Unsupported(String),
    /// The new size of a disk is smaller, and nobody said that this is meant.
    #[error("{new} bytes are less than the {old} that the disk has")]
    WouldShrink {
        /// Bytes that the disk has.
        old: u64,
        /// Bytes that it was to have.
        new: u64,
    },
    /// The image names another file, and the policy does not allow to follow it.
    #[error("`{image}` refers to {what} `{name}`, which may not be opened: {why}")]
    NotFollowed {
        /// The image that names it.
        image: PathBuf,
        /// What it is to the image.
        what: &'static str,
        /// The name as stored, made printable.
        name: String,
        /// The rule.
        why: &'static str,
    },
    /// The backing chain comes back to an image that is in it already.
    #[error("the backing chain comes back to `{0}`")]
    Loop(PathBuf),
    /// The backing chain has too many images.
    #[error("the backing chain has more than {0} images")]
    TooDeep(usize),
    /// A file below the image cannot be opened.
    #[error("cannot open {what} of `{image}`")]
    Below {
        /// What it is to the image.
        what: &'static str,
        /// The image that names it.
        image: PathBuf,
        /// Why not.
        source: Box<Error>,
    },
    /// The format of an image says that it cannot be used.
    #[error("cannot use `{path}`")]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// Why not.
        source: qcow2::Error,
    },
    /// A file or device failed.
    #[error(transparent)]
    Storage(#[from] block::Error),
}

impl Error {
    /// Returns the class of the failure, for an exit status.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnsupportedFormat(_) | Self::ForeignFormat { .. } => ErrorKind::Unsupported,
            Self::Untrusted { .. } => ErrorKind::Refused,
            Self::UnknownFormat(_) | Self::InvalidOptions(_) | Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::NotFollowed { .. } | Self::WouldShrink { .. } => ErrorKind::Refused,
            Self::Loop(_) | Self::TooDeep(_) => ErrorKind::Corrupt,
            Self::Below { source, .. } => source.kind(),
            Self::Qcow2 { source, .. } => match source {
                qcow2::Error::Storage(error) => error.kind(),
                qcow2::Error::NotQcow2 | qcow2::Error::Corrupt(_) => ErrorKind::Corrupt,
                _ => ErrorKind::Unsupported,
            },
            Self::Storage(error) => error.kind(),
        }
    }
}

impl From<Error> for block::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Storage(error) => error,
            other => Self::with_source(other.kind(), "cannot use the image", other),
        }
    }
}
