use std::fmt;

use serde::{Serialize, Serializer};

/// A GUID as a GPT stores it: the first three groups little-endian.
///
/// # Spec
///
/// UEFI 2.10, appendix A.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Guid(pub [u8; 16]);

/// The usual text, upper case: `C12A7328-F81F-11D2-BA4B-00A0C93EC93B`.
impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, e @ ..] = self.0;
        let a = u32::from_le_bytes([a0, a1, a2, a3]);
        let (b, c) = (u16::from_le_bytes([b0, b1]), u16::from_le_bytes([c0, c1]));
        write!(f, "{a:08X}-{b:04X}-{c:04X}-{d0:02X}{d1:02X}-")?;
        e.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl Serialize for Guid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Guid;

    #[test]
    fn the_first_three_groups_are_little_endian() {
        let esp = [0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B];
        assert_eq!(Guid(esp).to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    }
}
