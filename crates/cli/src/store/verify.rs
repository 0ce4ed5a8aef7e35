use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::StoredImage;
use super::add::hex;
use super::alone::check_alone;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::progress::Progress;

/// Reads the whole of a stored image and compares it with its record.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when the bytes are not the ones that were added, and the failure of the operating system.
pub fn verify(context: &Context, store: &Path, image: &StoredImage) -> Result<(), CommandError> {
    let path = image.path(store);
    let sha256 = digest(context, &path)?;
    if sha256 != image.sha256 {
        let message = format!("the image `{}` has changed since it was added: its SHA-256 is {sha256}", image.name);
        return Err(
            CommandError::new(ErrorKind::Corrupt, message).hint("remove it and add it again; machines on it are damaged")
        );
    }
    check_alone(&path, image.format).map(drop)
}

/// Returns the SHA-256 of a file in hexadecimal.
///
/// # Errors
///
/// The failure of the operating system.
pub(crate) fn digest(context: &Context, path: &Path) -> Result<String, CommandError> {
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
