use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::domain::DiskFormat;
use crate::error::{CommandError, ErrorKind};

/// Checks that the image in `file` stands alone, and returns the bytes of the disk in it. `path` names it in errors.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] for what is not in the format, [`ErrorKind::Refused`] for an image that refers to another file,
/// [`ErrorKind::Unsupported`] for an encrypted one and for unknown features.
///
/// # Spec
///
/// qcow2, "Header".
pub(super) fn check_alone(file: &File, path: &Path, format: DiskFormat) -> Result<u64, CommandError> {
    let named = |kind, message: &str| CommandError::new(kind, format!("`{}` {message}", path.display()));
    let size = file.metadata().map_err(|error| CommandError::io(format!("cannot look at `{}`", path.display()), error))?.len();
    if format == DiskFormat::Raw {
        return Ok(size);
    }
    let mut header = [0; 104];
    if size < 104 {
        return Err(named(ErrorKind::Corrupt, "is too short for a qcow2 image"));
    }
    let read = file.read_exact_at(&mut header, 0);
    read.map_err(|error| CommandError::io(format!("cannot read `{}`", path.display()), error))?;
    let header = Header(header);
    if header.u32_at(0) != 0x5146_49fb || !matches!(header.u32_at(4), 2 | 3) {
        return Err(named(ErrorKind::Corrupt, "is not a qcow2 image of version 2 or 3"));
    }
    if header.u64_at(8) != 0 {
        return Err(named(ErrorKind::Refused, "has a backing file")
            .hint("`vmimg image convert -O qcow2` makes one image of the chain; or name the file instead of adding it"));
    }
    if header.u32_at(32) != 0 {
        return Err(named(ErrorKind::Unsupported, "is encrypted"));
    }
    // Spec: "incompatible_features … If an implementation finds an unknown bit set, it must refuse to open the image"
    let incompatible = if header.u32_at(4) == 3 { header.u64_at(72) } else { 0 };
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(named(ErrorKind::Refused, "keeps its data in another file")
            .hint("`vmimg image convert -O qcow2` makes one file of both"));
    }
    if incompatible & CORRUPT != 0 {
        return Err(named(ErrorKind::Corrupt, "is marked as corrupt"));
    }
    if incompatible & !KNOWN != 0 {
        return Err(named(ErrorKind::Unsupported, "uses unknown features"));
    }
    Ok(header.u64_at(24))
}

/// The fixed part of a qcow2 header, big-endian.
struct Header([u8; 104]);

impl Header {
    fn u32_at(&self, offset: usize) -> u32 {
        let bytes = self.0.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn u64_at(&self, offset: usize) -> u64 {
        let bytes = self.0.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
/// Dirty, corrupt, external data, compression type, extended L2.
const KNOWN: u64 = 0b1_1111;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::check_alone;
    use crate::domain::DiskFormat;
    use crate::error::ErrorKind;

    #[test]
    fn an_image_that_leans_on_another_file_is_refused() {
        let sound = header(|_| {});
        assert_eq!(check(&sound), Ok(10 << 30));
        assert_eq!(check(&header(|bytes| bytes[15] = 1)), Err(ErrorKind::Refused));
        assert_eq!(check(&header(|bytes| bytes[79] = 4)), Err(ErrorKind::Refused));
        assert_eq!(check(&header(|bytes| bytes[35] = 2)), Err(ErrorKind::Unsupported));
        assert_eq!(check(&header(|bytes| bytes[72] = 1)), Err(ErrorKind::Unsupported));
        assert_eq!(check(&header(|bytes| bytes[7] = 4)), Err(ErrorKind::Corrupt));
        assert_eq!(check(&sound[..103]), Err(ErrorKind::Corrupt));
        assert_eq!(check(&[]), Err(ErrorKind::Corrupt));
    }

    fn header(change: impl FnOnce(&mut [u8; 104])) -> Vec<u8> {
        let mut bytes = [0; 104];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[24..32].copy_from_slice(&(10_u64 << 30).to_be_bytes());
        change(&mut bytes);
        bytes.to_vec()
    }

    fn check(bytes: &[u8]) -> Result<u64, ErrorKind> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        check_alone(&File::open(&path).unwrap(), &path, DiskFormat::Qcow2).map_err(|error| error.kind())
    }
}
