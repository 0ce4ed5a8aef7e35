use super::fields::Fields;
use super::{Malformed, flag};

/// The bytes of a [`Greeting`].
pub const GREETING_LEN: usize = 18;

/// What a server of the newstyle protocol sends first.
///
/// Spec: "Newstyle negotiation".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Greeting {
    /// Of [`flag::handshake`].
    pub flags: u16,
}

impl Greeting {
    /// Returns the message.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(GREETING_LEN);
        out.extend(INIT_PASSWD.to_be_bytes());
        out.extend(super::option::IHAVEOPT.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out
    }

    /// Returns the greeting in `bytes`.
    ///
    /// # Errors
    ///
    /// When a magic number is wrong: not an NBD server, or one of the oldstyle protocol.
    pub fn decode(bytes: &[u8; GREETING_LEN]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("greeting", bytes);
        fields.magic64(INIT_PASSWD)?;
        match fields.u64()? {
            super::option::IHAVEOPT => Ok(Self { flags: fields.u16()? }),
            OLDSTYLE => Err(Malformed::new("greeting", "the server must speak newstyle, not oldstyle")),
            _ => Err(Malformed::new("greeting", "its second magic number is wrong")),
        }
    }
}

/// Returns the client flags in `bytes`.
///
/// # Errors
///
/// For a flag that is not known, which ends the connection.
pub fn decode_client_flags(bytes: [u8; 4]) -> Result<u32, Malformed> {
    let flags = u32::from_be_bytes(bytes);
    // Spec: "the server MUST drop the TCP connection if the client sets an unknown flag"
    if flags & !(flag::client::FIXED_NEWSTYLE | flag::client::NO_ZEROES) != 0 {
        return Err(Malformed::new("client flags", "there is an unknown one"));
    }
    Ok(flags)
}

/// What `NBD_OPT_EXPORT_NAME` is answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExportSummary {
    /// Bytes of the export.
    pub size: u64,
    /// Of [`flag::transmission`].
    pub flags: u16,
}

impl ExportSummary {
    /// The bytes of the message without the zeros behind it.
    pub const LEN: usize = 10;

    /// The zeros behind it, unless both sides agreed on `NO_ZEROES`.
    pub const ZEROES: usize = 124;

    /// Returns the message, without the zeros behind it.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = self.size.to_be_bytes().to_vec();
        out.extend(self.flags.to_be_bytes());
        out
    }

    /// Returns the summary in `bytes`.
    ///
    /// # Errors
    ///
    /// When the flag that is always set is not.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("export", bytes);
        let summary = Self { size: fields.u64()?, flags: fields.u16()? };
        summary.checked()
    }

    pub(super) fn checked(self) -> Result<Self, Malformed> {
        // Spec: "`NBD_FLAG_HAS_FLAGS`: MUST always be 1."
        if self.flags & flag::transmission::HAS_FLAGS == 0 {
            return Err(Malformed::new("export", "the transmission flag HAS_FLAGS must be set"));
        }
        Ok(self)
    }
}

/// `NBDMAGIC`.
const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;

/// The second magic number of the oldstyle protocol.
const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
