use super::fields::Fields;
use super::reply::HeaderStyle;
use super::{Command, Malformed, flag};

/// A command of a client, without the payload behind it.
///
/// Spec: "Request message".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request {
    /// Of [`flag::command`].
    pub flags: u16,
    /// The number of a [`Command`], or another one.
    pub command: u16,
    /// What the client knows the reply by.
    pub cookie: u64,
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Bytes of payload, or of the export; see [`Request::payload_len`].
    pub len: u64,
}

impl Request {
    /// Returns the bytes of a request's header.
    #[must_use]
    pub fn header_len(style: HeaderStyle) -> usize {
        if style == HeaderStyle::Extended { 32 } else { 28 }
    }

    /// Returns the message. A length beyond 32 bits needs extended headers; the largest one is sent without them.
    #[must_use]
    pub fn encode(&self, style: HeaderStyle) -> Vec<u8> {
        let extended = style == HeaderStyle::Extended;
        let mut out = Vec::with_capacity(Self::header_len(style));
        out.extend(if extended { EXTENDED_MAGIC } else { MAGIC }.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.command.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        if extended {
            out.extend(self.len.to_be_bytes());
        } else {
            out.extend(u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes());
        }
        out
    }

    /// Returns the request in `bytes`, [`Request::header_len`] of them.
    ///
    /// # Errors
    ///
    /// When the magic number is wrong, or the length.
    pub fn decode(bytes: &[u8], style: HeaderStyle) -> Result<Self, Malformed> {
        let extended = style == HeaderStyle::Extended;
        let mut fields = Fields::new("request", bytes);
        fields.magic32(if extended { EXTENDED_MAGIC } else { MAGIC })?;
        let (flags, command, cookie, offset) = (fields.u16()?, fields.u16()?, fields.u64()?, fields.u64()?);
        let len = if extended { fields.u64()? } else { u64::from(fields.u32()?) };
        fields.end()?;
        Ok(Self { flags, command, cookie, offset, len })
    }

    /// Returns the bytes of payload that follow.
    #[must_use]
    pub fn payload_len(&self, style: HeaderStyle) -> u64 {
        // Spec: "the only command where *length* represents payload length instead of effect length is `NBD_CMD_WRITE`". With
        // extended headers it "MUST use the flag `NBD_CMD_FLAG_PAYLOAD_LEN`", but QEMU 10 sends its payload without it.
        let flagged = style == HeaderStyle::Extended && self.flags & flag::command::PAYLOAD_LEN != 0;
        if flagged || self.command == Command::Write.number() { self.len } else { 0 }
    }
}

/// `NBD_REQUEST_MAGIC`.
const MAGIC: u32 = 0x2560_9513;

/// `NBD_EXTENDED_REQUEST_MAGIC`.
const EXTENDED_MAGIC: u32 = 0x21e4_1c71;
