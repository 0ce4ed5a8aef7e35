use super::fields::{Fields, clipped, push_string, text};
use super::{Malformed, OptionCode, OptionReplyCode};

/// The bytes of an [`OptionHeader`].
pub const OPTION_HEADER_LEN: usize = 16;

/// The bytes of an [`OptionReplyHeader`].
pub const OPTION_REPLY_HEADER_LEN: usize = 20;

/// `IHAVEOPT`.
pub(super) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;

/// The magic number of replies to options.
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// What comes before the data of an option.
///
/// Spec: "Newstyle negotiation".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OptionHeader {
    /// The number of an [`OptionCode`], or another one.
    pub option: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Returns the message for `option`, header and `data`.
    #[must_use]
    pub fn message(option: OptionCode, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut out = Self { option: option.number(), len }.encode();
        out.extend(data);
        out
    }

    /// Returns the header.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(OPTION_HEADER_LEN);
        out.extend(IHAVEOPT.to_be_bytes());
        out.extend(self.option.to_be_bytes());
        out.extend(self.len.to_be_bytes());
        out
    }

    /// Returns the header in `bytes`.
    ///
    /// # Errors
    ///
    /// When the magic number is wrong.
    pub fn decode(bytes: &[u8; OPTION_HEADER_LEN]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("option", bytes);
        fields.magic64(IHAVEOPT)?;
        Ok(Self { option: fields.u32()?, len: fields.u32()? })
    }
}

/// What comes before the data of a reply to an option.
///
/// Spec: "Fixed newstyle negotiation".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OptionReplyHeader {
    /// The option that it answers.
    pub option: u32,
    /// The number of an [`OptionReplyCode`], or another one.
    pub reply: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionReplyHeader {
    /// Returns the message that answers `option`, header and `data`.
    #[must_use]
    pub fn message(option: u32, reply: OptionReplyCode, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut out = Self { option, reply: reply.number(), len }.encode();
        out.extend(data);
        out
    }

    /// Returns the header.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(OPTION_REPLY_HEADER_LEN);
        out.extend(REPLY_MAGIC.to_be_bytes());
        out.extend(self.option.to_be_bytes());
        out.extend(self.reply.to_be_bytes());
        out.extend(self.len.to_be_bytes());
        out
    }

    /// Returns the header in `bytes`.
    ///
    /// # Errors
    ///
    /// When the magic number is wrong.
    pub fn decode(bytes: &[u8; OPTION_REPLY_HEADER_LEN]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("option reply", bytes);
        fields.magic64(REPLY_MAGIC)?;
        Ok(Self { option: fields.u32()?, reply: fields.u32()?, len: fields.u32()? })
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExportRequest {
    /// The export; empty for the default one.
    pub name: String,
    /// What the client wants to know: numbers of [`super::InfoKind`], or others.
    pub infos: Vec<u16>,
}

impl ExportRequest {
    /// Returns the data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_string(&mut out, &self.name);
        out.extend(u16::try_from(self.infos.len()).unwrap_or(u16::MAX).to_be_bytes());
        for info in self.infos.iter().take(usize::from(u16::MAX)) {
            out.extend(info.to_be_bytes());
        }
        out
    }

    /// Returns the request in `bytes`.
    ///
    /// # Errors
    ///
    /// When the lengths in it do not add up to its own, or the name is no string of the protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("export request", bytes);
        let name = fields.string()?;
        let count = fields.u16()?;
        let infos = (0..count).map(|_| fields.u16()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { name, infos })
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetaRequest {
    /// The export.
    pub name: String,
    /// Names of contexts, or a namespace with its colon for all of it.
    pub queries: Vec<String>,
}

impl MetaRequest {
    /// Returns the data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_string(&mut out, &self.name);
        out.extend(u32::try_from(self.queries.len()).unwrap_or(0).to_be_bytes());
        for query in &self.queries {
            push_string(&mut out, query);
        }
        out
    }

    /// Returns the request in `bytes`.
    ///
    /// # Errors
    ///
    /// When the lengths in it do not add up to its own, or something is no string of the protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("meta context request", bytes);
        let name = fields.string()?;
        let count = fields.u32()?;
        // Each takes four bytes at least, so that the count cannot make this long.
        let queries = (0..count).map(|_| fields.string()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { name, queries })
    }
}

/// The data of `NBD_REP_META_CONTEXT`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetaContext {
    /// The number by which block status names it; 0 in a list.
    pub id: u32,
    /// Namespace, colon, name.
    pub name: String,
}

impl MetaContext {
    /// Returns the data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.id.to_be_bytes().to_vec();
        out.extend(clipped(&self.name).as_bytes());
        out
    }

    /// Returns the context in `bytes`.
    ///
    /// # Errors
    ///
    /// When it is too short, or its name is no string of the protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("meta context", bytes);
        Ok(Self { id: fields.u32()?, name: text("meta context", fields.rest())? })
    }
}

/// The data of `NBD_REP_SERVER`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExportEntry {
    /// The export's name.
    pub name: String,
    /// What is said about it to people.
    pub description: String,
}

impl ExportEntry {
    /// Returns the data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_string(&mut out, &self.name);
        out.extend(clipped(&self.description).as_bytes());
        out
    }

    /// Returns the entry in `bytes`.
    ///
    /// # Errors
    ///
    /// When the name goes beyond the message, or something is no string of the protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("export entry", bytes);
        Ok(Self { name: fields.string()?, description: text("export entry", fields.rest())? })
    }
}
