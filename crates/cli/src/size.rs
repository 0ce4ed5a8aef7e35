//! Sizes as people write them: `20G`, `512M`, `1.5T`, plain bytes.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written with the binary suffixes of qemu-img: `b`, `k`, `M`, `G`, `T`, `P`, `E`; or hexadecimal, after 0x.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(pub u64);

/// Why a text is not a size.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// The text is no number with an optional suffix.
    #[error("`{0}` is not a size: write bytes, or a number with k, M, G, T, P or E, as in 20G")]
    Syntax(String),
    /// The number of bytes does not fit 63 bits.
    #[error("`{0}` is more than 8 EiB")]
    TooLarge(String),
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let syntax = || SizeError::Syntax(text.to_owned());
        let large = || SizeError::TooLarge(text.to_owned());
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
            let bytes = if plain { u64::from_str_radix(digits, 16).map_err(|_| large()) } else { Err(syntax()) }?;
            return if i64::try_from(bytes).is_ok() { Ok(Self(bytes)) } else { Err(large()) };
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let suffix = text.strip_prefix(digits).unwrap_or_default();
        let shift = match suffix.strip_suffix("iB").or_else(|| suffix.strip_suffix('B')).unwrap_or(suffix) {
            "" | "b" => 0,
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            "t" | "T" => 40,
            "p" | "P" => 50,
            "e" | "E" => 60,
            _ => return Err(syntax()),
        };
        let unit = 1_u128.checked_shl(shift).ok_or_else(large)?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let number = |part: &str| -> Result<u128, SizeError> {
            let plain = part.chars().all(|c| c.is_ascii_digit()) && part.len() <= 18;
            if part.is_empty() || !plain { Err(syntax()) } else { part.parse().map_err(|_| syntax()) }
        };
        let mut bytes = number(whole)?.checked_mul(unit).ok_or_else(large)?;
        if digits.contains('.') {
            let scale = u32::try_from(fraction.len()).ok().and_then(|len| 10_u128.checked_pow(len)).ok_or_else(large)?;
            let part = number(fraction)?.checked_mul(unit).ok_or_else(large)?;
            bytes = bytes.saturating_add(part.checked_div(scale).unwrap_or_default());
        }
        u64::try_from(bytes).ok().filter(|bytes| i64::try_from(*bytes).is_ok()).map(Self).ok_or_else(large)
    }
}

/// Writes the size exactly, with the largest suffix that leaves a whole number.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shift = self.0.trailing_zeros().min(60).checked_div(10).unwrap_or_default();
        let suffix =
            if self.0 == 0 { "" } else { ["", "k", "M", "G", "T", "P", "E"].get(index(shift)).copied().unwrap_or_default() };
        let shift = if suffix.is_empty() { 0 } else { shift.saturating_mul(10) };
        write!(f, "{}{suffix}", self.0.checked_shr(shift).unwrap_or_default())
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as 20G, or a number of bytes")
    }

    fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }

    fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes).map(Size).map_err(|_| E::custom("a size is not negative"))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Size, SizeError};

    #[test]
    fn sizes_read_as_qemu_img_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("1k", 1024),
            ("20G", 20 << 30),
            ("20GiB", 20 << 30),
            ("1.5M", 3 << 19),
            ("7E", 7 << 60),
            ("0x1F000", 0x1f000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "1.", ".5G", "-1", "+1", "1Z", "1 G", "0x", "0x1k", "1e3", "1.5.5G"] {
            assert!(matches!(text.parse::<Size>(), Err(SizeError::Syntax(_))), "{text}");
        }
        for text in ["8E", "0x8000000000000000", "0x11111111111111111", "9999999P", "99999999999999999E"] {
            assert!(matches!(text.parse::<Size>(), Err(SizeError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn a_size_is_written_so_that_it_reads_back() {
        for bytes in [0, 1, 512, 1023, 1024, 1536, 3 << 20, 20 << 30, (20 << 30) + 512, 1 << 62] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(20 << 30).to_string(), "20G");
    }
}
