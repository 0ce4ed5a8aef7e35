//! The records of a PAX header: names with values.
//!
//! Spec: POSIX.1-2024 pax, "Extended Header": `"%d %s=%s\n", <length>, <keyword>, <value>`

use std::collections::BTreeMap;

/// Records by keyword.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    /// Adds the records of `bytes`; later ones win. Returns `None` when they are malformed.
    ///
    /// The crate `tar` splits records at line ends, which values of extended attributes may have inside.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        // Some writers pad with zeros.
        while rest.iter().any(|byte| *byte != 0) {
            let digits = rest.iter().position(|byte| *byte == b' ')?;
            let len: usize = std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()?;
            let record = rest.get(..len)?.strip_suffix(b"\n")?.get(digits.checked_add(1)?..)?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (record.get(..equals)?, record.get(equals.checked_add(1)?..)?);
            self.add(key, value);
            rest = rest.get(len..)?;
        }
        Some(())
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
            // The oldest form of a sparse map repeats its keywords; this is the next one's.
            let map = self.0.entry(SPARSE_MAP.to_vec()).or_default();
            if !map.is_empty() {
                map.push(b',');
            }
            map.extend_from_slice(value);
            return;
        }
        // Spec: "If the <value> field is zero length, it shall delete any header block field [...] or global extended header"
        if value.is_empty() && !key.starts_with(XATTR) {
            self.0.remove(key);
        } else {
            self.0.insert(key.to_vec(), value.to_vec());
        }
    }

    /// Returns the value of a keyword.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// Returns the number that a keyword has, `Err` when it is none.
    pub(super) fn number(&self, key: &[u8]) -> Result<Option<u64>, ()> {
        let Some(value) = self.get(key) else { return Ok(None) };
        std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).map(Some).ok_or(())
    }

    /// Returns seconds and nanoseconds of a time, `Err` when it is none.
    pub(super) fn time(&self, key: &[u8]) -> Result<Option<(i64, u32)>, ()> {
        let Some(value) = self.get(key) else { return Ok(None) };
        std::str::from_utf8(value).ok().and_then(parse_time).map(Some).ok_or(())
    }

    /// Returns the extended attributes, by their full names.
    pub(super) fn xattrs(&self) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
        self.0.iter().filter_map(|(key, value)| Some((unescape(key.strip_prefix(XATTR)?), value.as_slice())))
    }
}

/// Returns seconds and nanoseconds of a decimal number.
fn parse_time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if !fraction.chars().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    if whole.starts_with('-') && nanos > 0 {
        return Some((secs.checked_sub(1)?, 1_000_000_000_u32.checked_sub(nanos)?));
    }
    Some((secs, nanos))
}

/// Returns a name without GNU tar's escapes of `%` and `=`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, behind)) = rest.split_first() {
        (rest, _) = match behind {
            [b'3', b'D', behind @ ..] if *byte == b'%' => (behind, plain.push(b'=')),
            [b'2', b'5', behind @ ..] if *byte == b'%' => (behind, plain.push(b'%')),
            _ => (behind, plain.push(*byte)),
        };
    }
    plain
}

/// Returns the keyword of an extended attribute.
pub(super) fn xattr_keyword(name: &[u8]) -> Vec<u8> {
    let mut keyword = XATTR.to_vec();
    for byte in name {
        match byte {
            b'%' => keyword.extend_from_slice(b"%25"),
            b'=' => keyword.extend_from_slice(b"%3D"),
            byte => keyword.push(*byte),
        }
    }
    keyword
}

/// Returns a record, whose length counts its own digits.
pub(super) fn encode(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len().saturating_add(value.len()).saturating_add(3);
    let mut len = rest;
    while rest.saturating_add(len.to_string().len()) != len {
        len = rest.saturating_add(len.to_string().len());
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// What keywords of extended attributes begin with.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// The keyword of a sparse map inside the header.
pub(super) const SPARSE_MAP: &[u8] = b"GNU.sparse.map";

#[cfg(test)]
mod tests {
    use super::{Records, encode, unescape, xattr_keyword};

    #[test]
    fn records_of_any_bytes_read_back() {
        let mut bytes = Vec::new();
        for len in [0, 1, 80, 85, 86, 87, 88, 89, 90, 979, 980, 981, 9000] {
            let value = vec![b'\n'; len];
            let key = format!("SCHILY.xattr.user.{len}");
            bytes.extend(encode(key.as_bytes(), &value));
        }
        let mut records = Records::default();
        records.read(&bytes).unwrap();
        assert_eq!(records.xattrs().count(), 13);
        assert!(records.xattrs().all(|(name, value)| name == format!("user.{}", value.len()).into_bytes()));
        let keyword = xattr_keyword(b"user.a=b%3D");
        assert_eq!(unescape(keyword.strip_prefix(b"SCHILY.xattr.").unwrap()), b"user.a=b%3D");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"9 a=b\n"[..], b"x a=b\n", b"6 ab\n\n", b"99999999999999999999 a=b\n", b"0 a=b\n", b"-6 a=b\n", b"6 a=bb"]
        {
            assert!(Records::default().read(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let time = |text: &str| {
            let mut records = Records::default();
            records.read(&encode(b"mtime", text.as_bytes())).unwrap();
            records.time(b"mtime")
        };
        assert_eq!(time("1700000000.5"), Ok(Some((1_700_000_000, 500_000_000))));
        assert_eq!(time("-1.25"), Ok(Some((-2, 750_000_000))));
        assert_eq!(time("5"), Ok(Some((5, 0))));
        assert_eq!(time("5.0000000019"), Ok(Some((5, 1))));
        assert_eq!(time("5.x"), Err(()));
        assert_eq!(time("99999999999999999999"), Err(()));
    }
}
