use std::path::Path;

use imgcore::block::{self, BlockRead};
use imgcore::image::{self, Error, OpenOptions, OpenPolicy, open};

use crate::domain::DiskFormat;
use crate::error::{CommandError, ErrorKind};

/// Checks that the image at `path` is sound as far as opening tells and refers to no other file; returns the bytes of its disk.
///
/// # Errors
///
/// [`ErrorKind::Refused`] for an image that refers to another file, [`ErrorKind::Corrupt`] for what is not in the format or
/// marked as corrupt, [`ErrorKind::Unsupported`] for an encrypted one and for unknown features.
pub(super) fn check_alone(path: &Path, format: DiskFormat) -> Result<u64, CommandError> {
    let format = match format {
        DiskFormat::Qcow2 => image::Format::Qcow2,
        DiskFormat::Raw => image::Format::Raw,
    };
    let options = OpenOptions { format: Some(format), policy: OpenPolicy::Nothing, follow: true, lock: false };
    let disk = open(path, &options).map_err(|error| match error {
        Error::NotFollowed { what, name, .. } => CommandError::new(ErrorKind::Refused, format!("it needs {what} `{name}`"))
            .hint("`vmimg image convert -O qcow2` makes one image of all files"),
        other => CommandError::from(block::Error::from(other)),
    })?;
    if disk.qcow2().is_some_and(|image| image.is_corrupt()) {
        return Err(CommandError::new(ErrorKind::Corrupt, "it is marked as corrupt"));
    }
    Ok(disk.size())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use imgcore::qcow2::{CreateOptions, NewBacking, create};
    use imgcore::storage::FileDisk;

    use super::check_alone;
    use crate::domain::DiskFormat;
    use crate::error::ErrorKind;

    #[test]
    fn an_image_that_leans_on_another_file_or_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        write(&path, None);
        assert_eq!(check(&path), Ok(1 << 20));
        let backing = NewBacking { name: b"/etc/passwd".to_vec(), format: "raw".to_owned() };
        write(&path, Some(backing));
        assert_eq!(check(&path), Err(ErrorKind::Refused));
        std::fs::write(&path, [0; 4096]).unwrap();
        assert_eq!(check(&path), Err(ErrorKind::Corrupt));
        assert_eq!(check_alone(&path, DiskFormat::Raw).unwrap(), 4096);
    }

    fn write(path: &Path, backing: Option<NewBacking>) {
        let _gone = std::fs::remove_file(path);
        let options = CreateOptions { backing, ..CreateOptions::new(1 << 20) };
        create(&mut FileDisk::create_new(path).unwrap(), &options).unwrap();
    }

    fn check(path: &Path) -> Result<u64, ErrorKind> {
        check_alone(path, DiskFormat::Qcow2).map_err(|error| error.kind())
    }
}
