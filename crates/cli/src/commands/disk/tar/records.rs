//! The records of a PAX header: names with values.
//!
//! Spec: POSIX.1-2024 pax, "Extended Header": `"%d %s=%s\n", <length>, <keyword>, <value>`

use std::collections::BTreeMap;
use std::sync::Arc;

/// Records by keyword; only those that say something about a file are kept.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// `None` takes back what a global header said.
    own: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Bytes of those but for a sparse map.
    len: usize,
    /// What global headers said about all files.
    global: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Records {
    /// Has what global headers say hold for this file, too.
    pub(super) fn share(&mut self, global: &Self) {
        self.global = Arc::clone(&global.global);
    }

    /// Adds the records of `bytes`; later ones win. Fails with the rule that they break.
    ///
    /// The crate `tar` splits records at line ends, which values of extended attributes may have inside.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        each(bytes, |key, value| self.add(key, value))
    }

    /// Adds the records of a global header to those for all files that follow. Each of them has a copy, so they are few.
    pub(super) fn read_global(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let mut all = BTreeMap::clone(&self.global);
        let size = |key: &[u8], value: &[u8]| key.len().saturating_add(value.len());
        let mut len: usize = all.iter().map(|(key, value)| size(key, value)).sum();
        each(bytes, |key, value| {
            // Where holes are is said about one file.
            if !is_known(key) || key.starts_with(SPARSE) {
                return Ok(());
            }
            len = len.saturating_sub(all.remove(key).map_or(0, |old| size(key, &old)));
            // Spec: "If the <value> field is zero length, it shall delete any header block field [...] or global extended header"
            if !is_deletion(key, value) {
                len = len.saturating_add(size(key, value));
                all.insert(key.to_vec(), value.to_vec());
            }
            if len > GLOBAL_MAX { Err("what is said about all files has at most 4 KiB") } else { Ok(()) }
        })?;
        self.global = Arc::new(all);
        Ok(())
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
            // The oldest form of a sparse map repeats its keywords; this is the next one's.
            let map = self.own.entry(SPARSE_MAP.to_vec()).or_default().get_or_insert_default();
            if !map.is_empty() {
                map.push(b',');
            }
            map.extend_from_slice(value);
            return if map.len() > MAP_MAX { Err("a sparse map in PAX records has at most 32 MiB") } else { Ok(()) };
        }
        if !is_known(key) {
            return Ok(());
        }
        if key != SPARSE_MAP {
            self.len = self.len.saturating_add(key.len()).saturating_add(value.len());
            if value.len() > VALUE_MAX || self.len > FILE_MAX {
                return Err("the PAX records of a file have at most 1 MiB, and each at most 64 KiB");
            }
        }
        self.own.insert(key.to_vec(), Some(value.to_vec()).filter(|_| !is_deletion(key, value)));
        Ok(())
    }

    /// Returns the value of a keyword.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self.own.get(key) {
            Some(own) => own.as_deref(),
            None => self.global.get(key).map(Vec::as_slice),
        }
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
        let global = self.global.iter().filter(|(key, _)| !self.own.contains_key(*key)).map(|(key, value)| (key, Some(value)));
        let all = global.chain(self.own.iter().map(|(key, value)| (key, value.as_ref())));
        all.filter_map(|(key, value)| Some((unescape(key.strip_prefix(XATTR)?), value?.as_slice())))
    }
}

/// Calls `visit` with keyword and value of each record.
fn each(bytes: &[u8], mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), &'static str>) -> Result<(), &'static str> {
    let mut rest = bytes;
    // Some writers pad with zeros.
    while rest.iter().any(|byte| *byte != 0) {
        let (key, value, behind) = first(rest).ok_or("its PAX records are each a length, a keyword and a value")?;
        visit(key, value)?;
        rest = behind;
    }
    Ok(())
}

/// Returns keyword and value of the first record, and what is behind it.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // A length of the digits that there are at most is far more than any header has.
    let digits = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let len: usize = std::str::from_utf8(bytes.get(..digits)?).ok()?.parse().ok()?;
    let record = bytes.get(..len)?.strip_suffix(b"\n")?.get(digits.checked_add(1)?..)?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((record.get(..equals)?, record.get(equals.checked_add(1)?..)?, bytes.get(len..)?))
}

/// Returns whether a keyword says something about a file that is unpacked.
fn is_known(key: &[u8]) -> bool {
    let others: [&[u8]; 11] = [
        b"path",
        b"linkpath",
        b"size",
        b"uid",
        b"gid",
        b"mtime",
        b"RHT.security.selinux",
        b"SCHILY.acl.access",
        b"SCHILY.acl.default",
        b"SCHILY.devmajor",
        b"SCHILY.devminor",
    ];
    key.starts_with(XATTR) || key.starts_with(SPARSE) || others.contains(&key)
}

/// Returns whether a record takes back others of its keyword; an extended attribute may be empty.
fn is_deletion(key: &[u8], value: &[u8]) -> bool {
    value.is_empty() && !key.starts_with(XATTR)
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
/// What keywords of sparse files begin with.
const SPARSE: &[u8] = b"GNU.sparse.";
/// The most bytes of a value: Linux has no attribute that is larger.
const VALUE_MAX: usize = 64 << 10;
/// The most bytes of the records of one file, of the map of a sparse one, and of what is said about all files.
const FILE_MAX: usize = 1 << 20;
const MAP_MAX: usize = 32 << 20;
const GLOBAL_MAX: usize = 4 << 10;
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
            assert!(Records::default().read(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn what_is_said_about_all_files_is_little_and_can_be_taken_back() {
        let mut global = Records::default();
        let records =
            |pairs: &[(&str, &[u8])]| pairs.iter().flat_map(|(key, value)| encode(key.as_bytes(), value)).collect::<Vec<_>>();
        global.read_global(&records(&[("uid", b"7"), ("gid", b"8"), ("SCHILY.xattr.user.a", b"1")])).unwrap();
        global.read_global(&records(&[("gid", b""), ("comment", &[b'c'; 100_000]), ("GNU.sparse.map", b"0,1")])).unwrap();
        let mut file = Records::default();
        file.share(&global);
        assert_eq!((file.number(b"uid"), file.number(b"gid"), file.get(b"comment")), (Ok(Some(7)), Ok(None), None));
        assert_eq!(file.get(super::SPARSE_MAP), None);
        file.read(&records(&[("uid", b""), ("SCHILY.xattr.user.a", b""), ("SCHILY.xattr.user.b", b"2")])).unwrap();
        assert_eq!(file.number(b"uid"), Ok(None));
        let xattrs: Vec<_> = file.xattrs().collect();
        assert_eq!(xattrs, [(b"user.a".to_vec(), &b""[..]), (b"user.b".to_vec(), b"2")]);
        assert_eq!(global.number(b"uid"), Ok(Some(7)));
        assert!(global.read_global(&records(&[("SCHILY.xattr.user.c", &[0; 5000])])).is_err());
        let mut file = Records::default();
        assert!(file.read(&records(&[("SCHILY.xattr.user.c", &[0; 70_000])])).is_err());
        let many: Vec<String> = (0..20).map(|at| format!("SCHILY.xattr.user.{at}")).collect();
        assert!(many.iter().any(|key| file.read(&encode(key.as_bytes(), &[0; 60_000])).is_err()));
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
