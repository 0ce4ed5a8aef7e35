use super::fields::Fields;
use super::{ChunkKind, Malformed};

/// The payload of a block status chunk: the extents of one context, from the request's offset on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// The number of the context, as the server gave it in the handshake.
    pub context: u32,
    /// Never empty.
    pub extents: Vec<StatusExtent>,
}

/// A run of one status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StatusExtent {
    /// Bytes, never 0.
    pub len: u64,
    /// What the context says.
    pub flags: u64,
}

impl Status {
    /// Returns the payload of a chunk of `kind`.
    ///
    /// `NBD_REPLY_TYPE_BLOCK_STATUS` holds 32 bits: the reply ends before the first extent that does not fit, or within it.
    #[must_use]
    pub fn encode(&self, kind: ChunkKind) -> Vec<u8> {
        let mut out = self.context.to_be_bytes().to_vec();
        if kind == ChunkKind::BlockStatusExt {
            out.extend(u32::try_from(self.extents.len()).unwrap_or(0).to_be_bytes());
            for extent in &self.extents {
                out.extend(extent.len.to_be_bytes());
                out.extend(extent.flags.to_be_bytes());
            }
            return out;
        }
        for extent in &self.extents {
            let len = u32::try_from(extent.len).unwrap_or(LONGEST_COMPACT);
            out.extend(len.to_be_bytes());
            out.extend(u32::try_from(extent.flags).unwrap_or(u32::MAX).to_be_bytes());
            if u64::from(len) != extent.len {
                break;
            }
        }
        out
    }

    /// Returns the status in `bytes`, the payload of a chunk of `kind`.
    ///
    /// # Errors
    ///
    /// When there is no extent, an empty one, half a one, or another number of them than it says; and for other kinds.
    pub fn decode(kind: ChunkKind, bytes: &[u8]) -> Result<Self, Malformed> {
        let what = "block status chunk";
        let mut fields = Fields::new(what, bytes);
        let context = fields.u32()?;
        let (count, size) = match kind {
            // Spec: "*length* MUST be 4 + (a positive integer multiple of 8)"
            ChunkKind::BlockStatus => (0, 8),
            // Spec: "*length* MUST be 8 + (a positive multiple of 16)"
            ChunkKind::BlockStatusExt => (fields.u32()?, 16),
            _ => return Err(Malformed::new(what, "the chunk is of another kind")),
        };
        let rest = fields.rest();
        if rest.is_empty() || !rest.len().is_multiple_of(size) {
            return Err(Malformed::new(what, "it must hold whole extents, and one at least"));
        }
        let mut extents = Vec::with_capacity(rest.len().checked_div(size).unwrap_or(0));
        for descriptor in rest.chunks_exact(size) {
            let mut fields = Fields::new(what, descriptor);
            let extent = match kind {
                ChunkKind::BlockStatusExt => StatusExtent { len: fields.u64()?, flags: fields.u64()? },
                _ => StatusExtent { len: u64::from(fields.u32()?), flags: u64::from(fields.u32()?) },
            };
            // Spec: "length of the extent to which the status below applies (unsigned, MUST be nonzero)"
            if extent.len == 0 {
                return Err(Malformed::new(what, "an extent must not be empty"));
            }
            extents.push(extent);
        }
        // Spec: "the server MUST ensure that the header *length* is equal to *descriptor count* * 16 + 8"
        if count != 0 && usize::try_from(count) != Ok(extents.len()) {
            return Err(Malformed::new(what, "it must hold as many extents as it says"));
        }
        Ok(Self { context, extents })
    }
}

/// The longest run that a compact extent can hold, on a boundary of 4 KiB.
const LONGEST_COMPACT: u32 = 0xffff_f000;
