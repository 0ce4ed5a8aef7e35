//! What a device says about the server behind it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use imgcore::nbd::attach::Connection;

/// A server of this program: its process, and the image that it serves. The kernel keeps it with the device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    pub(super) pid: u32,
    pub(super) image: PathBuf,
}

impl Identity {
    /// Returns that of this process, which serves `image`.
    pub(super) fn of_process(image: &Path) -> Self {
        Self { pid: std::process::id(), image: image.to_owned() }
    }

    /// Returns that of the server of `connection`, if it is one of this program.
    pub(super) fn of(connection: &Connection) -> Option<Self> {
        Self::decode(connection.identifier()?)
    }

    /// Returns whether this server is the one of `connection`.
    pub(super) fn is_of(&self, connection: &Connection) -> bool {
        match connection.identifier() {
            Some(identifier) => self.encode().starts_with(identifier) && !identifier.is_empty(),
            // A kernel that does not keep it.
            None => connection.process() == Some(self.pid),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = format!("{WORD}{}:", self.pid).into_bytes();
        bytes.extend(self.image.as_os_str().as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(WORD.as_bytes())?;
        let colon = rest.iter().position(|byte| *byte == b':')?;
        let (pid, image) = rest.split_at_checked(colon)?;
        let pid = std::str::from_utf8(pid).ok()?.parse().ok()?;
        Some(Self { pid, image: PathBuf::from(OsStr::from_bytes(image.get(1..)?)) })
    }
}

/// What sets this program's servers apart from others.
const WORD: &str = "vmimg:";

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::Identity;

    #[test]
    fn what_is_written_is_read_whatever_the_path() {
        let identity = Identity::of_process(Path::new(OsStr::from_bytes(b"/a:b\n\xff")));
        assert_eq!(Identity::decode(&identity.encode()), Some(identity));
        for other in ["", "vmimg:", "vmimg:x:/a", "vmimg:5", "qemu:5:/a"] {
            assert_eq!(Identity::decode(other.as_bytes()), None);
        }
    }
}
