use super::fields::Fields;
use super::{ChunkKind, Malformed};

/// What both sides agreed on for the headers of transmission.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HeaderStyle {
    /// Compact requests and simple replies.
    #[default]
    Simple,
    /// Compact requests, replies in chunks; simple ones where there is no payload.
    Structured,
    /// Extended requests and replies, always in chunks.
    Extended,
}

/// A reply without chunks. Behind it, a read's bytes when there is no error.
///
/// Spec: "Simple reply message".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SimpleReply {
    /// 0, or the number of an [`super::ErrorCode`], or another one.
    pub error: u32,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// The bytes of the header.
    pub const LEN: usize = 16;

    /// Returns the message.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.extend(SIMPLE_MAGIC.to_be_bytes());
        out.extend(self.error.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out
    }
}

/// What comes before the payload of a chunk.
///
/// Spec: "Structured reply chunk message", "Extended reply chunk message".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkHeader {
    /// Of [`super::flag::reply`].
    pub flags: u16,
    /// The number of a [`ChunkKind`], or another one.
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// The request's; only extended headers carry it, and it is 0 after decoding other ones.
    pub offset: u64,
    /// Bytes of payload that follow.
    pub len: u64,
}

impl ChunkHeader {
    /// Returns the bytes of the header.
    #[must_use]
    pub fn header_len(style: HeaderStyle) -> usize {
        if style == HeaderStyle::Extended { 32 } else { 20 }
    }

    /// Returns the message, extended or structured. A structured one's length has 32 bits; the largest is sent for more.
    #[must_use]
    pub fn encode(self, style: HeaderStyle) -> Vec<u8> {
        let extended = style == HeaderStyle::Extended;
        let mut out = Vec::with_capacity(Self::header_len(style));
        out.extend(if extended { EXTENDED_MAGIC } else { STRUCTURED_MAGIC }.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        if extended {
            out.extend(self.offset.to_be_bytes());
            out.extend(self.len.to_be_bytes());
        } else {
            out.extend(u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes());
        }
        out
    }

    /// Returns whether it is the last of its reply.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.flags & super::flag::reply::DONE != 0
    }
}

/// The header of any reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyHeader {
    /// A simple one.
    Simple(SimpleReply),
    /// A chunk.
    Chunk(ChunkHeader),
}

impl ReplyHeader {
    /// The bytes that must be there before [`ReplyHeader::len`] can tell the length of the header.
    pub const MAGIC_LEN: usize = 4;

    /// Returns the bytes of the header that begins with `magic`.
    ///
    /// # Errors
    ///
    /// When the magic number is wrong, or not of a kind that was agreed on.
    pub fn len(magic: [u8; Self::MAGIC_LEN], style: HeaderStyle) -> Result<usize, Malformed> {
        // Spec: "If extended headers are negotiated, all server replies MUST use an extended reply"
        match (u32::from_be_bytes(magic), style) {
            (SIMPLE_MAGIC, HeaderStyle::Simple | HeaderStyle::Structured) => Ok(SimpleReply::LEN),
            (STRUCTURED_MAGIC, HeaderStyle::Structured) | (EXTENDED_MAGIC, HeaderStyle::Extended) => {
                Ok(ChunkHeader::header_len(style))
            }
            (SIMPLE_MAGIC | STRUCTURED_MAGIC | EXTENDED_MAGIC, _) => {
                Err(Malformed::new("reply", "its kind must be the one that was agreed on"))
            }
            _ => Err(Malformed::new("reply", "its magic number is wrong")),
        }
    }

    /// Returns the header in `bytes`, [`ReplyHeader::len`] of them.
    ///
    /// # Errors
    ///
    /// As [`ReplyHeader::len`], and when a chunk without contents has some or is not the last.
    pub fn decode(bytes: &[u8], style: HeaderStyle) -> Result<Self, Malformed> {
        let magic = bytes.first_chunk().ok_or(Malformed::new("reply", "it ends before its last field"))?;
        Self::len(*magic, style)?;
        let mut fields = Fields::new("reply", bytes);
        if fields.u32()? == SIMPLE_MAGIC {
            let reply = SimpleReply { error: fields.u32()?, cookie: fields.u64()? };
            fields.end()?;
            return Ok(Self::Simple(reply));
        }
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        let (offset, len) = match style {
            HeaderStyle::Extended => (fields.u64()?, fields.u64()?),
            HeaderStyle::Simple | HeaderStyle::Structured => (0, u64::from(fields.u32()?)),
        };
        fields.end()?;
        let chunk = ChunkHeader { flags, kind, cookie, offset, len };
        // Spec: "`NBD_REPLY_TYPE_NONE` ... *length* MUST be 0"; "MUST always be used with the `NBD_REPLY_FLAG_DONE` bit set"
        if kind == ChunkKind::None.number() && (len != 0 || !chunk.is_done()) {
            return Err(Malformed::new("reply", "a chunk without contents must be empty and the last"));
        }
        Ok(Self::Chunk(chunk))
    }
}

/// `NBD_SIMPLE_REPLY_MAGIC`.
const SIMPLE_MAGIC: u32 = 0x6744_6698;

/// `NBD_STRUCTURED_REPLY_MAGIC`.
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// `NBD_EXTENDED_REPLY_MAGIC`.
const EXTENDED_MAGIC: u32 = 0x6e8a_278c;
