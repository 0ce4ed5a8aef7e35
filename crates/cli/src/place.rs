//! Where an image is that the command line names: a path, or the address of an NBD export.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use imgcore::image::Location;
use imgcore::nbd::{Stop, Uri};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// Where an image is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In this file, whose path begins at the root.
    File(PathBuf),
    /// In this export.
    Export(Uri),
}

impl Place {
    /// Returns what `name` means: an address when it begins as one, otherwise a path from the working folder.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for an address that breaks the rules of addresses.
    pub fn of(context: &Context, name: &Path) -> Result<Self, CommandError> {
        if !Uri::is_meant(name.as_os_str().as_bytes()) {
            return Ok(Self::File(context.absolute(name)));
        }
        let usage = |message: String| CommandError::new(ErrorKind::Usage, message).hint(HINT);
        let text = name.to_str().ok_or_else(|| usage("the address is not UTF-8".to_owned()))?;
        let uri = Uri::parse(text, &context.absolute(Path::new(""))).map_err(|error| usage(error.to_string()))?;
        // Spec: `doc/uri.md`: "it SHOULD default to a local operating system credential if one is available"
        let login = context.variable("LOGNAME").or_else(|| context.variable("USER"));
        let interrupt = context.interrupt().clone();
        let stop = Stop::when(move || interrupt.ends_waiting());
        Ok(Self::Export(uri.with_user(login.and_then(OsStr::to_str)).with_stop(stop)))
    }

    /// Returns it for the library.
    #[must_use]
    pub fn location(&self) -> Location<'_> {
        match self {
            Self::File(path) => Location::File(path),
            Self::Export(uri) => Location::Export(uri),
        }
    }

    /// Returns the path, if it is one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for an address: `what` works with files.
    pub fn file(self, what: &str) -> Result<PathBuf, CommandError> {
        match self {
            Self::File(path) => Ok(path),
            Self::Export(uri) => {
                Err(CommandError::new(ErrorKind::Unsupported, format!("{what} is for files, and `{uri}` is an NBD export")))
            }
        }
    }
}

/// Returns `bytes` as a part of a URI.
#[must_use]
pub fn encoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

const HINT: &str = "as in `nbd://HOST:PORT/EXPORT` and `nbd+unix:///EXPORT?socket=PATH`";

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn names_become_parts_of_addresses() {
        assert_eq!(encoded(b"/run/a b?"), "/run/a%20b%3F");
    }
}
