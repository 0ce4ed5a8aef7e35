use std::io;

use super::super::wire::{ErrorCode, Failure, Malformed};
use crate::block::{Error, ErrorKind};

/// Why something cannot be had from a server; many requests may fail for one reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    pub(super) text: String,
}

impl Fault {
    pub(super) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// The server breaks a rule of the protocol, so that nothing which it says can be relied on.
    pub(super) fn lie(rule: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Corrupt, format!("the server breaks the NBD protocol: {rule}"))
    }

    /// The server said in time that it cannot do what was asked for.
    pub(super) fn refusal(failure: &Failure) -> Self {
        let (kind, what) = match ErrorCode::from_number(failure.error) {
            Some(ErrorCode::NotPermitted) => (ErrorKind::PermissionDenied, "it is not permitted"),
            Some(ErrorCode::NoSpace) => (ErrorKind::NoSpace, "no space is left there"),
            Some(ErrorCode::Io) => (ErrorKind::Io, "its storage failed"),
            Some(ErrorCode::NoMemory) => (ErrorKind::Io, "it has no memory"),
            Some(ErrorCode::Shutdown) => (ErrorKind::Io, "it is about to end"),
            Some(ErrorCode::Invalid | ErrorCode::Overflow | ErrorCode::NotSupported) => {
                (ErrorKind::Io, "it refuses the request")
            }
            _ => (ErrorKind::Io, "it does not say why"),
        };
        let mut text = format!("the server reports error {}: {what}", failure.error);
        if !failure.message.is_empty() {
            text.push_str(&format!(" ({})", failure.message.escape_debug()));
        }
        Self::new(kind, text)
    }

    pub(super) fn into_error(self) -> Error {
        Error::new(self.kind, self.text)
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::lie(malformed)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let text = match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero => "the server closed the connection".to_owned(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => "the server broke the connection".to_owned(),
            io::ErrorKind::Interrupted => "interrupted while the server was waited for".to_owned(),
            io::ErrorKind::TimedOut => "the server does not answer".to_owned(),
            _ => format!("the connection failed: {error}"),
        };
        Self::new(Error::from_io("", error).kind(), text)
    }
}
