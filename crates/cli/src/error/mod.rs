//! What a command can fail with.

mod from_imgcore;
mod from_seed;

use std::error::Error as StdError;
use std::fmt;
use std::io;

use imgcore::block;

use crate::context::Context;

/// The failure of a command: its class, what was being done, why it failed, and what the reader can do about it.
#[derive(Debug)]
pub struct CommandError {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hints: Vec<String>,
    status: Option<u8>,
}

/// The class of a command's failure; it decides the exit status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// None of the others.
    Unexpected,
    /// The command line, or a file that stands for it, is wrong.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// An image, table or file system breaks the rules of its format.
    Corrupt,
    /// Something sound that is not supported.
    Unsupported,
    /// In use, would overwrite, or against the policy.
    Refused,
    /// The host's storage failed or is full.
    Storage,
    /// The hypervisor failed.
    Hypervisor,
    /// The time limit ran out.
    TimedOut,
    /// A signal asked the program to stop; the program dies of it after everything is undone.
    Interrupted,
    /// Whoever reads the output has seen enough: a success.
    OutputClosed,
    /// Nothing failed: the exit status is the answer.
    Answer,
}

impl CommandError {
    /// Returns the error of `kind` that says `message`: a fragment without a full stop.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, hints: Vec::new(), status: None }
    }

    /// Returns the error for the operating system's `source`, while doing what `message` says.
    #[must_use]
    pub fn io(message: impl Into<String>, source: io::Error) -> Self {
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<block::Error>());
        let kind = inner.map_or_else(|| io_kind(source.kind()), |inner| block_kind(inner.kind()));
        Self::new(kind, message).with_source(source)
    }

    /// Returns the error with `source` as its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the error with one more hint: a sentence that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Returns what ends a command with `status`, and says nothing.
    #[must_use]
    pub fn answer(status: u8) -> Self {
        Self::new(ErrorKind::Answer, format!("the answer is the exit status {status}")).with_status(status)
    }

    /// Returns the error with an exit status of the command's own, in place of that of its class.
    #[must_use]
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = Some(status);
        self
    }

    /// Returns the exit status of the command's own, if there is one.
    #[must_use]
    pub fn status(&self) -> Option<u8> {
        self.status
    }

    /// Returns the error that says what `source` says, and no more.
    fn from_source(kind: ErrorKind, hint: Option<&str>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        let hints = hint.into_iter().map(str::to_owned).collect();
        Self { kind, message: source.to_string(), source: Some(source), hints, status: None }
    }

    /// Returns the error with `message` in front, the present one as its cause, the same kind and the same hints.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let (hints, status) = (std::mem::take(&mut self.hints), self.status);
        Self { kind: self.kind, message: message.into(), source: Some(self.into()), hints, status }
    }

    /// Returns the class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the hints, first to last.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Writes the error, its causes and its hints to standard error; what only says that the program was stopped is not written.
    pub fn report(&self, context: &Context) {
        if matches!(self.kind, ErrorKind::OutputClosed | ErrorKind::Interrupted | ErrorKind::Answer) {
            return;
        }
        let (error, cause, hint) = if context.colors() {
            ("\x1b[1;31merror:\x1b[0m", "\x1b[1mcaused by:\x1b[0m", "\x1b[1;36mhint:\x1b[0m")
        } else {
            ("error:", "caused by:", "hint:")
        };
        let mut text = format!("{error} {self}\n");
        for message in self.causes() {
            text.push_str(&format!("{cause} {message}\n"));
        }
        if !self.hints.is_empty() {
            text.push('\n');
        }
        for line in &self.hints {
            text.push_str(&format!("{hint} {line}\n"));
        }
        context.write_error(&text);
    }

    /// Returns the messages below the error's own, each only once.
    #[must_use]
    pub fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let mut next = self.source();
        while let Some(error) = next {
            let message = error.to_string();
            if message != self.message && !causes.contains(&message) {
                causes.push(message);
            }
            next = error.source();
        }
        causes
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for CommandError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| -> &(dyn StdError + 'static) { source })
    }
}

fn io_kind(kind: io::ErrorKind) -> ErrorKind {
    match kind {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::Refused,
        io::ErrorKind::InvalidInput => ErrorKind::Usage,
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        _ => ErrorKind::Storage,
    }
}

fn block_kind(kind: block::ErrorKind) -> ErrorKind {
    match kind {
        block::ErrorKind::Corrupt => ErrorKind::Corrupt,
        block::ErrorKind::Unsupported => ErrorKind::Unsupported,
        block::ErrorKind::NotFound => ErrorKind::NotFound,
        block::ErrorKind::ReadOnly | block::ErrorKind::AlreadyExists | block::ErrorKind::InUse | block::ErrorKind::Refused => {
            ErrorKind::Refused
        }
        block::ErrorKind::OutOfBounds => ErrorKind::Unexpected,
        _ => ErrorKind::Storage,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use imgcore::block;

    use super::{CommandError, ErrorKind};

    #[test]
    fn a_corrupt_image_below_other_layers_is_still_corrupt() {
        let corrupt = block::Error::new(block::ErrorKind::Corrupt, "the L1 table lies beyond the end");
        let error = CommandError::io("cannot read `a.qcow2`", io::Error::from(corrupt));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn causes_are_listed_once_and_hints_move_up_with_context() {
        let below = block::Error::new(block::ErrorKind::InUse, "`a.qcow2` is locked by another program");
        let error = CommandError::from(below).context("cannot open `a.qcow2`");
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(error.causes(), ["`a.qcow2` is locked by another program"]);
        assert_eq!(error.hints().len(), 1);
    }
}
