use std::fs;
use std::io;
use std::path::Path;

use super::{ImageName, RECORD_FILE, StoredImage};
use crate::error::{CommandError, ErrorKind};
use crate::files::read_text;
use crate::machine::Root;

/// Reads the record of the image `name` in the store of `root`.
///
/// # Errors
///
/// [`ErrorKind::NotFound`] when there is no such image, [`ErrorKind::Corrupt`] when its record does not parse or is another's.
pub fn load(root: &Root, name: &ImageName) -> Result<StoredImage, CommandError> {
    let path = root.store().join(name.as_str()).join(RECORD_FILE);
    let text = match read_text(&path, RECORD_LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CommandError::new(ErrorKind::NotFound, format!("there is no image `{name}` in the store")));
        }
        read => read.map_err(|error| CommandError::io(format!("cannot read `{}`", path.display()), error))?,
    };
    let corrupt = || CommandError::new(ErrorKind::Corrupt, format!("`{}` is not an image's record", path.display()));
    let image: StoredImage = serde_json::from_str(&text).map_err(|error| corrupt().with_source(error))?;
    let plain = Path::new(&image.file).file_name().is_some_and(|file| file == image.file.as_str());
    if image.version != 1 || image.name != *name || !plain {
        return Err(corrupt());
    }
    Ok(image)
}

/// Returns the images in the store of `root`, by name.
///
/// # Errors
///
/// The failure of the operating system, and the first record that is corrupt. A store that does not exist is empty.
pub fn list(root: &Root) -> Result<Vec<StoredImage>, CommandError> {
    let store = root.store();
    let cannot = |error| CommandError::io(format!("cannot read the folder `{}`", store.display()), error);
    let entries = match fs::read_dir(&store) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot(error)),
    };
    let mut names: Vec<ImageName> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        names.extend(name.filter(|_| entry.path().join(RECORD_FILE).is_file()));
    }
    names.sort();
    names.iter().map(|name| load(root, name)).collect()
}

/// Removes the image `name` from the store of `root`.
///
/// # Errors
///
/// [`ErrorKind::NotFound`], and [`ErrorKind::Refused`] while a machine's disk is an overlay of it, or may be one.
pub fn remove(root: &Root, name: &ImageName) -> Result<(), CommandError> {
    let image = load(root, name)?;
    let path = image.path(&root.store());
    for machine in root.names()? {
        let used = match root.load(&machine) {
            Ok(record) => record.base.path == path,
            Err(error) => {
                let error =
                    CommandError::new(ErrorKind::Refused, format!("the machine `{machine}` may be on it")).with_source(error);
                return Err(error.context(format!("the image `{name}` cannot be removed")));
            }
        };
        if used {
            let error = CommandError::new(ErrorKind::Refused, format!("the machine `{machine}` is on the image `{name}`"));
            return Err(error.hint(format!("`vmimg remove {machine}` removes the machine")));
        }
    }
    let cannot = |error| CommandError::io(format!("cannot remove the image `{name}`"), error);
    let hidden = tempfile::Builder::new().prefix(".add.").tempdir_in(root.store()).map_err(cannot)?;
    // One rename, so that the image is there as a whole or not at all; the folder goes with the value.
    fs::rename(root.store().join(name.as_str()), hidden.path().join("removed")).map_err(cannot)?;
    hidden.close().map_err(cannot)
}

const RECORD_LIMIT: u64 = 1 << 20;
