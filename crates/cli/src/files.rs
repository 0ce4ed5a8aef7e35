//! Reading files of the host: bounded texts, and digests as text.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::error::CommandError;
use crate::progress::Progress;

/// Returns the text of the file `path`, and no more than its first `limit` bytes.
///
/// # Errors
///
/// The failure of the operating system; [`io::ErrorKind::InvalidData`] for what is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the SHA-256 of a file in hexadecimal.
///
/// # Errors
///
/// The failure of the operating system, and [`crate::error::ErrorKind::Interrupted`].
pub fn digest(context: &Context, path: &Path) -> Result<String, CommandError> {
    let cannot = |error| CommandError::io(format!("cannot read `{}`", path.display()), error);
    let mut file = File::open(path).map_err(cannot)?;
    let len = file.metadata().map_err(cannot)?.len();
    let mut progress = Progress::bytes(context, "reading", len);
    let (mut digest, mut done, mut buf) = (Sha256::new(), 0_u64, vec![0; 1 << 20]);
    loop {
        let read = match file.read(&mut buf) {
            Ok(0) => return Ok(hex(&digest.finalize())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(cannot(error)),
        };
        digest.update(buf.get(..read).unwrap_or_default());
        done = done.saturating_add(u64::try_from(read).unwrap_or_default());
        progress.set(done);
        context.interrupt().check()?;
    }
}

/// Returns `bytes` in hexadecimal.
pub fn hex<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes.into_iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{digest, read_text};
    use crate::context::Context;

    #[test]
    fn a_text_is_cut_at_its_limit_and_a_digest_is_of_all_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read_text(&path, 2).unwrap(), "ab");
        let context = Context::detached(PathBuf::from("/"), Box::new(std::io::sink()), Box::new(std::io::sink()));
        // FIPS 180-2, appendix B.1.
        let wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(&context, &path).unwrap(), wanted);
    }
}
