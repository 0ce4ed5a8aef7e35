use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Error;

/// What of the files that an image names may be opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OpenPolicy {
    /// Nothing: an image that needs another file is refused.
    #[default]
    Nothing,
    /// Nothing, and the image itself has to be what it seems to be and nothing else; see `inspect`.
    Untrusted,
    /// Plain paths to regular files and block devices, as qemu-img does; never an address or a pseudo-protocol.
    PlainPaths,
}

impl OpenPolicy {
    /// Returns the path of the file `name`, which `image` calls its `what`.
    ///
    /// A relative name is relative to the folder of the image.
    ///
    /// # Errors
    ///
    /// [`Error::NotFollowed`].
    pub(super) fn resolve(self, image: &Path, what: &'static str, name: &[u8]) -> Result<PathBuf, Error> {
        Ok(beside(image, self.check(image, what, name)?.as_bytes()))
    }

    /// Returns `name` if it is one that may be opened.
    ///
    /// # Errors
    ///
    /// [`Error::NotFollowed`].
    pub(super) fn check<'a>(self, image: &Path, what: &'static str, name: &'a [u8]) -> Result<&'a OsStr, Error> {
        let refused = |why| Error::NotFollowed {
            image: image.to_owned(),
            what,
            name: String::from_utf8_lossy(name).escape_debug().to_string(),
            why,
        };
        match self {
            Self::Nothing | Self::Untrusted => Err(refused("no file that an image names may be")),
            Self::PlainPaths if name.is_empty() => Err(refused("the name is empty")),
            Self::PlainPaths if name.contains(&0) => Err(refused("the name has a NUL byte")),
            Self::PlainPaths if has_protocol(name) => Err(refused("it is no plain path")),
            Self::PlainPaths => Ok(OsStr::from_bytes(name)),
        }
    }
}

/// Returns the path that `name` means in the image at `image`.
pub(super) fn beside(image: &Path, name: &[u8]) -> PathBuf {
    image.parent().unwrap_or(Path::new("")).join(OsStr::from_bytes(name))
}

/// Returns whether QEMU takes `name` for an address: `json:…`, `nbd:…`, `file:…`, that is a colon before the first slash.
pub(super) fn has_protocol(name: &[u8]) -> bool {
    name.iter().find(|byte| matches!(byte, b':' | b'/')) == Some(&b':')
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::OpenPolicy;

    #[test]
    fn only_plain_paths_are_followed_and_they_start_at_the_image() {
        let image = Path::new("/pool/web.qcow2");
        let plain = OpenPolicy::PlainPaths;
        for name in ["json:{}", "nbd:localhost:1", "file:/etc/shadow", "nbd://h/x", "", "a\0b", "fat:rw:x", "https://h/i"] {
            plain.resolve(image, "backing file", name.as_bytes()).unwrap_err();
        }
        for (name, path) in [("base", "/pool/base"), ("/a/b", "/a/b"), ("./json:x", "/pool/./json:x"), ("../c", "/pool/../c")] {
            assert_eq!(plain.resolve(image, "backing file", name.as_bytes()).unwrap(), PathBuf::from(path));
        }
        assert_eq!(plain.resolve(Path::new("o"), "backing file", b"b").unwrap(), PathBuf::from("b"));
        OpenPolicy::Nothing.resolve(image, "backing file", b"base").unwrap_err();
        OpenPolicy::Untrusted.resolve(image, "backing file", b"base").unwrap_err();
    }
}
