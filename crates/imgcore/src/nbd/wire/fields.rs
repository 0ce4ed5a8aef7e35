use super::{MAX_STRING, Malformed};

/// Takes fields off the front of a message.
pub(super) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(Malformed::new(self.what, "it ends before its last field"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed::new(self.what, "it ends before its last field"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn magic32(&mut self, magic: u32) -> Result<(), Malformed> {
        if self.u32()? == magic { Ok(()) } else { Err(Malformed::new(self.what, "its magic number is wrong")) }
    }

    pub(super) fn magic64(&mut self, magic: u64) -> Result<(), Malformed> {
        if self.u64()? == magic { Ok(()) } else { Err(Malformed::new(self.what, "its magic number is wrong")) }
    }

    /// A string with its length in 32 bits before it.
    pub(super) fn string(&mut self) -> Result<String, Malformed> {
        let len = self.u32()?;
        let bytes = self.bytes(usize::try_from(len).unwrap_or(usize::MAX))?;
        text(self.what, bytes)
    }

    /// Whatever is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::new(self.what, "there are bytes behind its last field")) }
    }
}

/// Returns `bytes` as a string of the protocol.
pub(super) fn text(what: &'static str, bytes: &[u8]) -> Result<String, Malformed> {
    // Spec: "MUST be no longer than 4096 bytes"
    if bytes.len() > MAX_STRING {
        return Err(Malformed::new(what, "a string is longer than 4096 bytes"));
    }
    // Spec: "a sequence of UTF-8 code points", "MUST NOT contain `NUL` characters"
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::new(what, "a string is not UTF-8"))?;
    if text.contains('\0') {
        return Err(Malformed::new(what, "a string contains a NUL"));
    }
    Ok(text.to_owned())
}

/// Appends `text` with its length in 32 bits before it.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    let text = clipped(text);
    out.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Returns as much of `text` as a string of the protocol can hold.
pub(super) fn clipped(text: &str) -> &str {
    let end = text.floor_char_boundary(MAX_STRING);
    text.get(..end).unwrap_or_default()
}
