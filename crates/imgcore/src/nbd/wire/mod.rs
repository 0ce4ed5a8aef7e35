//! The messages of the protocol, between bytes and checked values, without input or output.
//!
//! ```text
//! handshake     S: Greeting   C: client flags
//! options       C: OptionHeader data          S: OptionReplyHeader data     ExportRequest, MetaRequest, Info, ...
//! transmission  C: Request payload            S: SimpleReply, or ChunkHeader payload: Data, Hole, Status, Failure
//! ```
//!
//! All numbers are big-endian. Whoever reads a header checks its length field against a limit of his own before he makes room.

mod chunk;
mod code;
mod error;
mod fields;
pub mod flag;
mod handshake;
mod info;
mod option;
mod reply;
mod request;
mod status;

pub use chunk::{DATA_PREFIX_LEN, Failure, HOLE_LEN, HoleChunk, decode_data_offset};
pub use code::{ChunkKind, Command, ErrorCode, OptionCode, OptionReplyCode};
pub use error::Malformed;
pub use handshake::{ExportSummary, GREETING_LEN, Greeting, decode_client_flags};
pub use info::{BlockSizes, Info, InfoKind};
pub use option::{
    ExportEntry, ExportRequest, MetaContext, MetaRequest, OPTION_HEADER_LEN, OPTION_REPLY_HEADER_LEN, OptionHeader,
    OptionReplyHeader,
};
pub use reply::{ChunkHeader, HeaderStyle, ReplyHeader, SimpleReply};
pub use request::Request;
pub use status::{Status, StatusExtent};

/// The port that IANA has reserved.
pub const PORT: u16 = 10809;

/// The longest string, in bytes.
///
/// Spec: "Conventions", "MUST be no longer than 4096 bytes".
pub const MAX_STRING: usize = 4096;

/// The payload that every peer takes, also one that says nothing about block sizes: 32 MiB.
///
/// Spec: "Block size constraints", "limit `NBD_CMD_READ` and `NBD_CMD_WRITE` commands to a maximum block size of 2^25".
pub const DEFAULT_MAX_PAYLOAD: u32 = 32 << 20;

#[cfg(test)]
mod tests;
