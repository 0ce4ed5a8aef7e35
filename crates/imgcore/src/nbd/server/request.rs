//! What a request asks for, once everything about it is checked.

use super::MAX_PAYLOAD;
use crate::block::{ByteRange, ErrorKind, Hole};
use crate::nbd::wire::flag::command;
use crate::nbd::wire::{Command, ErrorCode, HeaderStyle, Request};

/// A request that can be carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Task {
    Read { range: ByteRange, whole: bool },
    Write { range: ByteRange, durable: bool },
    Zero { range: ByteRange, hole: Hole, fast: bool, durable: bool },
    Trim { range: ByteRange, durable: bool },
    Cache(ByteRange),
    Status { range: ByteRange, one: bool },
    Flush,
}

/// Why a request is refused, in the protocol's terms and in words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: &'static str,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: &'static str) -> Self {
        Self { code, message }
    }

    /// What a client is told of a failure on this side; what it says about the host is for others.
    pub(super) fn of(kind: ErrorKind) -> Self {
        match kind {
            // Spec: "SHOULD map the `EDQUOT` and `EFBIG` errors to `NBD_ENOSPC`"
            ErrorKind::NoSpace => Self::new(ErrorCode::NoSpace, "the server has no space left"),
            ErrorKind::ReadOnly => Self::new(ErrorCode::NotPermitted, "the export is read-only"),
            _ => Self::new(ErrorCode::Io, "the server cannot access its storage"),
        }
    }
}

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) size: u64,
    pub(super) read_only: bool,
    pub(super) style: HeaderStyle,
    pub(super) has_contexts: bool,
}

impl Rules {
    /// Returns what `request` asks for.
    pub(super) fn check(&self, request: &Request) -> Result<Task, Refusal> {
        let invalid = |message| Err(Refusal::new(ErrorCode::Invalid, message));
        // Spec: "The server SHOULD return `NBD_EINVAL` if it receives an unknown command."
        let Some(command) = Command::from_number(request.command) else { return invalid("the command is not known") };
        // Spec: "SHOULD return `NBD_EINVAL` if it receives a request with a flag not explicitly documented as applicable"
        if request.flags & !self.flags(command) != 0 {
            return invalid("a flag does not go with this command");
        }
        let durable = request.flags & command::FUA != 0;
        let writes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes);
        // Spec: "SHOULD return `NBD_EPERM` if it receives a write or trim request on a read-only export"
        if writes && self.read_only {
            return Err(Refusal::new(ErrorCode::NotPermitted, "the export is read-only"));
        }
        match command {
            Command::Flush => return Ok(Task::Flush),
            Command::Disconnect => return invalid("the end is no request"),
            _ => {}
        }
        let range = self.range(request, command)?;
        if matches!(command, Command::Read | Command::Write | Command::Cache) && range.len() > u64::from(MAX_PAYLOAD) {
            return invalid("the request is longer than the maximum block size");
        }
        Ok(match command {
            Command::Read => Task::Read { range, whole: request.flags & command::DF != 0 },
            Command::Write => Task::Write { range, durable },
            Command::Trim => Task::Trim { range, durable },
            Command::Cache => Task::Cache(range),
            Command::WriteZeroes => {
                let hole = if request.flags & command::NO_HOLE != 0 { Hole::Keep } else { Hole::Allow };
                Task::Zero { range, hole, fast: request.flags & command::FAST_ZERO != 0, durable }
            }
            // Spec: "Servers SHOULD reply with `NBD_EINVAL` to clients sending `NBD_CMD_BLOCK_STATUS` without selecting"
            Command::BlockStatus if !self.has_contexts => return invalid("no metadata context was chosen"),
            Command::BlockStatus if range.is_empty() => return invalid("the status of nothing is not known"),
            Command::BlockStatus => Task::Status { range, one: request.flags & command::REQ_ONE != 0 },
            Command::Flush | Command::Disconnect => Task::Flush,
        })
    }

    /// The flags that go with a command. Spec: "The server MUST accept all commands with this bit set", of FUA.
    fn flags(&self, command: Command) -> u16 {
        let own = match command {
            Command::Read if self.style != HeaderStyle::Simple => command::DF,
            Command::WriteZeroes => command::NO_HOLE | command::FAST_ZERO,
            Command::BlockStatus => command::REQ_ONE,
            Command::Write if self.style == HeaderStyle::Extended => command::PAYLOAD_LEN,
            _ => 0,
        };
        own | command::FUA
    }

    fn range(&self, request: &Request, command: Command) -> Result<ByteRange, Refusal> {
        let range = ByteRange::at(request.offset, request.len).filter(|range| range.end() <= self.size);
        range.ok_or_else(|| {
            // Spec: "The server SHOULD return `NBD_ENOSPC` if it receives a write request including one or more sectors beyond
            // the size of the device", and so for zeros; "`NBD_EINVAL` if it receives a read or trim request" of the kind.
            let code = match command {
                Command::Write | Command::WriteZeroes => ErrorCode::NoSpace,
                _ => ErrorCode::Invalid,
            };
            Refusal::new(code, "the request reaches beyond the end of the export")
        })
    }
}
