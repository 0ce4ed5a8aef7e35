use std::path::Path;

use super::StoredImage;
use super::alone::check_alone;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::files::digest;

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
