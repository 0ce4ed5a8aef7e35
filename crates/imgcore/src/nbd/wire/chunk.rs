//! The payloads of chunks that answer a read, and of errors.

use super::fields::{Fields, clipped, text};
use super::{ChunkKind, Malformed};

/// The bytes of a data chunk's payload before the data: the offset.
pub const DATA_PREFIX_LEN: usize = 8;

/// The bytes of a [`HoleChunk`].
pub const HOLE_LEN: usize = 12;

/// Returns the offset that begins the payload of `NBD_REPLY_TYPE_OFFSET_DATA`.
#[must_use]
pub fn decode_data_offset(bytes: [u8; DATA_PREFIX_LEN]) -> u64 {
    u64::from_be_bytes(bytes)
}

/// The payload of `NBD_REPLY_TYPE_OFFSET_HOLE`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HoleChunk {
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Bytes that read as zeros.
    pub len: u32,
}

impl HoleChunk {
    /// Returns the payload.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = self.offset.to_be_bytes().to_vec();
        out.extend(self.len.to_be_bytes());
        out
    }

    /// Returns the hole in `bytes`.
    ///
    /// # Errors
    ///
    /// When the length of the payload is wrong, or the hole is empty.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("hole chunk", bytes);
        let hole = Self { offset: fields.u64()?, len: fields.u32()? };
        fields.end()?;
        // Spec: "hole size (unsigned, MUST be nonzero)"
        if hole.len == 0 { Err(Malformed::new("hole chunk", "the hole must not be empty")) } else { Ok(hole) }
    }
}

/// The payload of an error chunk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The number of an [`super::ErrorCode`], or another one; never 0.
    pub error: u32,
    /// What is said about it to people.
    pub message: String,
    /// Where it happened, bytes from the start of the export, in `NBD_REPLY_TYPE_ERROR_OFFSET`.
    pub offset: Option<u64>,
}

impl Failure {
    /// Returns the kind of chunk that carries it.
    #[must_use]
    pub fn kind(&self) -> ChunkKind {
        if self.offset.is_some() { ChunkKind::ErrorOffset } else { ChunkKind::Error }
    }

    /// Returns the payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let message = clipped(&self.message);
        let mut out = self.error.to_be_bytes().to_vec();
        out.extend(u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
        out.extend(message.as_bytes());
        out.extend(self.offset.map(u64::to_be_bytes).into_iter().flatten());
        out
    }

    /// Returns the failure in `bytes`, the payload of a chunk of any error kind.
    ///
    /// # Errors
    ///
    /// When the error is 0, the message goes beyond the payload, or an offset is missing.
    pub fn decode(kind: u16, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("error chunk", bytes);
        let error = fields.u32()?;
        // Spec: "error (MUST be nonzero)"
        if error == 0 {
            return Err(Malformed::new("error chunk", "the error must not be 0"));
        }
        let len = fields.u16()?;
        let message = text("error chunk", fields.bytes(usize::from(len))?)?;
        let offset = match ChunkKind::from_number(kind) {
            Some(ChunkKind::ErrorOffset) => Some(fields.u64()?),
            _ => None,
        };
        // What is left belongs to kinds that may come one day.
        Ok(Self { error, message, offset })
    }
}
