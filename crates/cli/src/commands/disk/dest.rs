//! Where something goes in a guest.

use std::path::Path;
use std::str::FromStr;

use imgcore::fs::{FileSystem, GuestPath, PathError};

use super::walk::into_folder;
use crate::error::{CommandError, ErrorKind};

/// A path of a guest, which a slash at its end says to be a folder.
#[derive(Clone, Debug)]
pub(super) struct Dest {
    pub(super) path: GuestPath,
    is_folder: bool,
}

impl FromStr for Dest {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Ok(Self { path: text.parse()?, is_folder: text.ends_with('/') })
    }
}

impl Dest {
    /// Returns the one that the command line names.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] when it is no path of a guest.
    pub(super) fn named(text: &Path) -> Result<Self, CommandError> {
        let unfit =
            |why: String| CommandError::new(ErrorKind::Usage, format!("`{}` is no path in a guest: {why}", text.display()));
        let text = text.to_str().ok_or_else(|| unfit("it is not UTF-8".to_owned()))?;
        text.parse().map_err(|error: PathError| unfit(error.to_string()))
    }

    /// Returns where something called `name` goes: into the folder that exists, or else to the path itself, which a folder may have a
    /// slash behind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a file that is to go into a folder that is none, and the failure of the file system.
    pub(super) fn of(self, files: &dyn FileSystem, name: Option<&str>, is_folder: bool) -> Result<GuestPath, CommandError> {
        let path = into_folder(files, self.path.clone(), name)?;
        if !self.is_folder || is_folder || path != self.path {
            return Ok(path);
        }
        let message = format!("`{path}/` is no folder of the guest");
        Err(CommandError::new(ErrorKind::NotFound, message)
            .hint("`vmimg disk mkdir` makes one; without the slash it is a file"))
    }
}
