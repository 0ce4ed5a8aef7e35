use super::fields::{Fields, clipped, text};
use super::{ExportSummary, Malformed};

/// The kinds of [`Info`], as a client asks for them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InfoKind {
    /// `NBD_INFO_EXPORT`, which is always sent.
    Export,
    /// `NBD_INFO_NAME`.
    Name,
    /// `NBD_INFO_DESCRIPTION`.
    Description,
    /// `NBD_INFO_BLOCK_SIZE`.
    BlockSize,
}

impl InfoKind {
    /// Returns its number in messages.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Export => 0,
            Self::Name => 1,
            Self::Description => 2,
            Self::BlockSize => 3,
        }
    }
}

/// The data of `NBD_REP_INFO`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Info {
    /// Size and flags.
    Export(ExportSummary),
    /// The server's own name for the export.
    Name(String),
    /// What is said about it to people.
    Description(String),
    /// How requests are to be cut.
    BlockSize(BlockSizes),
    /// Anything else; it is passed over.
    Other(u16),
}

/// How requests are to be cut, in bytes.
///
/// Spec: "Block size constraints".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it; a power of two.
    pub minimum: u32,
    /// Below it, reading and writing is slow; a power of two.
    pub preferred: u32,
    /// The longest payload.
    pub maximum: u32,
}

impl BlockSizes {
    /// What holds when a server says nothing: a client that asked may use any size up to 32 MiB.
    pub const DEFAULT: Self = Self { minimum: 1, preferred: 4096, maximum: super::DEFAULT_MAX_PAYLOAD };

    fn checked(self) -> Result<Self, Malformed> {
        let fail = |rule| Err(Malformed::new("block sizes", rule));
        // Spec: "this value MUST be a power of 2, MUST NOT be larger than 2^16 (65,536)"
        if !self.minimum.is_power_of_two() || self.minimum > 1 << 16 {
            return fail("the minimum must be a power of two of 65536 at most");
        }
        // Spec: "this MUST be a power of 2 at least as large as the maximum of the minimum block size and 2^9 (512)"
        if !self.preferred.is_power_of_two() || self.preferred < self.minimum.max(512) {
            return fail("the preferred size must be a power of two, and not below the minimum and 512");
        }
        // Spec: "MUST be either an integer multiple of the minimum block size or the value 0xffffffff for no inherent limit"
        if self.maximum != u32::MAX && !self.maximum.is_multiple_of(self.minimum) {
            return fail("the maximum must be a multiple of the minimum");
        }
        if self.maximum < self.minimum {
            return fail("the maximum must not be below the minimum");
        }
        Ok(self)
    }
}

impl Info {
    /// Returns the data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let with = |kind: InfoKind| kind.number().to_be_bytes().to_vec();
        match self {
            Self::Export(summary) => [with(InfoKind::Export), summary.encode()].concat(),
            Self::Name(name) => [&*with(InfoKind::Name), clipped(name).as_bytes()].concat(),
            Self::Description(text) => [&*with(InfoKind::Description), clipped(text).as_bytes()].concat(),
            Self::BlockSize(sizes) => {
                let mut out = with(InfoKind::BlockSize);
                for size in [sizes.minimum, sizes.preferred, sizes.maximum] {
                    out.extend(size.to_be_bytes());
                }
                out
            }
            Self::Other(kind) => kind.to_be_bytes().to_vec(),
        }
    }

    /// Returns the information in `bytes`.
    ///
    /// # Errors
    ///
    /// When its length is not that of its kind, or its contents break a rule.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("export information", bytes);
        let info = match fields.u16()? {
            0 => {
                // Spec: "*length* MUST be 12"
                let summary = ExportSummary { size: fields.u64()?, flags: fields.u16()? };
                fields.end()?;
                Self::Export(summary.checked()?)
            }
            1 => Self::Name(text("export name", fields.rest())?),
            2 => Self::Description(text("export description", fields.rest())?),
            3 => {
                // Spec: "The *length* MUST be 14"
                let sizes = BlockSizes { minimum: fields.u32()?, preferred: fields.u32()?, maximum: fields.u32()? };
                fields.end()?;
                Self::BlockSize(sizes.checked()?)
            }
            // Spec: "MUST ignore information types that it does not recognize"
            other => Self::Other(other),
        };
        Ok(info)
    }
}
