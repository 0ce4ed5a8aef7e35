use std::error::Error as StdError;
use std::fmt;
use std::io;

/// The failure of an operation on a block device.
///
/// It has a kind, so that a corrupt image below a file system arrives as *corrupt* and not as a failing disk, a context that
/// says what was being done, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The class of a block device's failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A range that does not lie inside the device.
    OutOfBounds,
    /// The bytes break a rule of their format.
    Corrupt,
    /// The format or feature is not implemented.
    Unsupported,
    /// The device is open for reading only, or of a type that cannot be written.
    ReadOnly,
    /// The file does not exist.
    NotFound,
    /// The file exists already.
    AlreadyExists,
    /// The operating system denies access.
    PermissionDenied,
    /// Another program holds the device.
    InUse,
    /// No space is left below the device.
    NoSpace,
    /// The policy of the caller forbids the access.
    Refused,
    /// Any other failure of input or output.
    Io,
}

impl Error {
    /// Returns an error of `kind` whose message is `context`.
    #[must_use]
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// Returns the error of `kind` with `source` as its cause.
    #[must_use]
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    /// Returns the error for an operating system's failure, its kind taken from `source`.
    #[must_use]
    pub fn from_io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            io::ErrorKind::ResourceBusy => ErrorKind::InUse,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    /// Returns the error for `len` bytes at `offset` of a device of `size` bytes.
    #[must_use]
    pub fn out_of_bounds(offset: u64, len: u64, size: u64) -> Self {
        let context = format!("{len} bytes at offset {offset} are outside a device of {size} bytes");
        Self::new(ErrorKind::OutOfBounds, context)
    }

    /// Returns the class of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the error with `context` in front, the present one as its cause and the same kind.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, context: context.into(), source: Some(self.into()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| -> &(dyn StdError + 'static) { source })
    }
}

/// For crates that speak `std::io`, by way of [`super::Cursor`]: the kind survives the round trip as the inner error.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::OutOfBounds => io::ErrorKind::UnexpectedEof,
            ErrorKind::Corrupt => io::ErrorKind::InvalidData,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied | ErrorKind::Refused => io::ErrorKind::PermissionDenied,
            ErrorKind::InUse => io::ErrorKind::ResourceBusy,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Io => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
