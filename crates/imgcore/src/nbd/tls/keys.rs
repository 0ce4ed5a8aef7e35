//! Files of keys that both sides share, as GnuTLS' psktool writes them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The keys of users, by name.
///
/// # Spec
///
/// `gnutls_psk_set_server_credentials_file(3)`; in QEMU's `tls-creds-psk` the file is `keys.psk` of a folder.
#[derive(Clone)]
pub struct Keys {
    path: PathBuf,
    users: BTreeMap<Vec<u8>, Vec<u8>>,
    shown_to_others: bool,
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the keys in `{}`: {why}", path.display())]
pub struct KeyFileError {
    path: PathBuf,
    why: String,
    /// Whether there is no such file.
    pub missing: bool,
}

impl Keys {
    /// Reads the file `path`, or `keys.psk` in the folder `path`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, breaks the rules of such files, or could have been written by any user of the machine.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let path = if path.is_dir() { path.join(IN_FOLDER) } else { path.to_owned() };
        let fail = |why: String, missing| KeyFileError { path: path.clone(), why, missing };
        let io = |error: std::io::Error| fail(error.to_string(), error.kind() == std::io::ErrorKind::NotFound);
        let file = File::open(&path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let mode = if metadata.is_file() { metadata.permissions().mode() } else { 0 };
        if mode & WRITTEN_BY_OTHERS != 0 {
            return Err(fail(format!("mode {:03o} lets every user change them", mode & 0o777), false));
        }
        let mut text = Vec::new();
        file.take(LARGEST_FILE.saturating_add(1)).read_to_end(&mut text).map_err(io)?;
        if u64::try_from(text.len()).is_ok_and(|len| len > LARGEST_FILE) {
            return Err(fail(format!("the file has more than {LARGEST_FILE} bytes"), false));
        }
        let users = decode(&text).map_err(|why| fail(why, false))?;
        Ok(Self { users, shown_to_others: mode & READ_BY_OTHERS != 0, path })
    }

    /// Returns the file that they come from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether every user of the machine can read the file.
    #[must_use]
    pub fn is_shown_to_others(&self) -> bool {
        self.shown_to_others
    }

    pub(super) fn of(&self, user: &[u8]) -> Option<&[u8]> {
        self.users.get(user).map(Vec::as_slice)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What others must not know has no place in messages.
        f.debug_struct("Keys").field("path", &self.path).finish_non_exhaustive()
    }
}

fn decode(text: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let mut users = BTreeMap::new();
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1_u64..) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let (user, key) = entry(line).map_err(|why| format!("line {number}: {why}"))?;
        if users.insert(user, key).is_some() {
            return Err(format!("line {number}: its user has another line"));
        }
    }
    if users.is_empty() { Err("there are none".to_owned()) } else { Ok(users) }
}

fn entry(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    // Spec: "Each entry in the file consists of a username, followed by a colon (':') and a hex-encoded key."
    let colon = line.iter().position(|byte| *byte == b':').ok_or("it is not `USER:KEY`")?;
    let (user, key) = line.split_at_checked(colon).ok_or("it is not `USER:KEY`")?;
    // Spec: "it can be hex-encoded preceded by a '#'"
    let user = match user.strip_prefix(b"#") {
        Some(digits) => hexadecimal(digits).ok_or("behind `#`, a user's name is hexadecimal")?,
        None => user.to_vec(),
    };
    if user.is_empty() || user.len() > LONGEST_NAME || user.contains(&0) {
        return Err("a user's name has 1 to 128 bytes, and no NUL");
    }
    let key = key.get(1..).and_then(hexadecimal).ok_or("the key is not hexadecimal")?;
    // Spec: RFC 9257, 6: "Each PSK ... MUST be at least 128 bits long"
    if !(SHORTEST_KEY..=LONGEST_KEY).contains(&key.len()) {
        return Err("a key has 16 to 256 bytes, which are 32 to 512 digits");
    }
    Ok((user, key))
}

fn hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)?.wrapping_shl(4) | digit(*low)?)).collect()
}

/// The file's name where a folder is given.
const IN_FOLDER: &str = "keys.psk";

const LARGEST_FILE: u64 = 1 << 20;

/// What every release of OpenSSL takes.
const LONGEST_NAME: usize = 128;
const SHORTEST_KEY: usize = 16;
const LONGEST_KEY: usize = 256;

const WRITTEN_BY_OTHERS: u32 = 0o002;
const READ_BY_OTHERS: u32 = 0o004;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{Keys, decode};

    const KEY: &str = "000102030405060708090A0b0c0d0e0f";

    #[test]
    fn names_and_keys_are_found() {
        let users = decode(format!("alice:{KEY}\n\nb o b:{KEY}ff\r\n#3a00ff:{KEY}").as_bytes());
        users.unwrap_err();
        let users = decode(format!("alice:{KEY}\n\nb o b:{KEY}ff\r\n#3aff:{KEY}").as_bytes()).unwrap();
        let names: Vec<&[u8]> = users.keys().map(Vec::as_slice).collect();
        assert_eq!(names, [&b":\xff"[..], b"alice", b"b o b"]);
        assert_eq!(users[&b"alice"[..]], (0..16).collect::<Vec<u8>>());
        assert_eq!(users[&b"b o b"[..]].len(), 17);
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line() {
        for line in ["alice", ":", "alice:", "alice:0", "alice:xx", "alice:00", "#0:00", "#:00"] {
            let error = decode(format!("bob:{KEY}\n{line}").as_bytes()).unwrap_err();
            assert!(error.starts_with("line 2: "), "{line}: {error}");
        }
        for text in [String::new(), "\n".to_owned(), format!(":{KEY}"), format!("a:{KEY}\na:{KEY}"), format!("a:+{KEY}0")] {
            decode(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn a_file_that_everybody_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.psk");
        assert!(Keys::read(folder.path()).unwrap_err().missing);
        fs::write(&path, format!("alice:{KEY}\n")).unwrap();
        for (mode, shown) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let keys = Keys::read(folder.path()).unwrap();
            assert_eq!((keys.is_shown_to_others(), keys.path()), (shown, path.as_path()));
            assert!(!format!("{keys:?}").contains("alice"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = Keys::read(&path).unwrap_err();
        assert!(!error.missing && error.to_string().contains("mode 666"), "{error}");
    }
}
