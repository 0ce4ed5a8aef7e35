//! The program's exit status.

use crate::error::ErrorKind;

/// What the program tells its caller with its exit status.
///
/// `vmimg image` is the exception: it uses qemu-img's codes, 0 and 1 for most verbs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitStatus {
    /// 0: everything that was asked for is done.
    Done,
    /// 1: a failure of no other class.
    Unexpected,
    /// 2: the command line, or a file that stands for it, is wrong.
    Usage,
    /// 3: a file, machine, image or guest path that was named does not exist.
    NotFound,
    /// 4: an image, table or file system breaks the rules of its format.
    Corrupt,
    /// 5: something sound that is not supported.
    Unsupported,
    /// 6: refused: in use, would overwrite, or against the policy.
    Refused,
    /// 7: the host's storage failed or is full.
    Storage,
    /// 8: the hypervisor failed.
    Hypervisor,
    /// 9: the time limit ran out.
    TimedOut,
    /// What a verb of `vmimg image` says with its exit status, as `check` and `compare` do.
    Verb(u8),
}

impl ExitStatus {
    /// Returns the number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Corrupt => 4,
            Self::Unsupported => 5,
            Self::Refused => 6,
            Self::Storage => 7,
            Self::Hypervisor => 8,
            Self::TimedOut => 9,
            Self::Verb(code) => code,
        }
    }
}

impl From<ErrorKind> for ExitStatus {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::OutputClosed => Self::Done,
            ErrorKind::Unexpected | ErrorKind::Interrupted | ErrorKind::Answer => Self::Unexpected,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Corrupt => Self::Corrupt,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Refused => Self::Refused,
            ErrorKind::Storage => Self::Storage,
            ErrorKind::Hypervisor => Self::Hypervisor,
            ErrorKind::TimedOut => Self::TimedOut,
        }
    }
}
