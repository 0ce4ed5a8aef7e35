use std::fmt;
use std::str::FromStr;

use super::Error;
use crate::block::{self, BlockRead};

/// The format of an image.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Format {
    /// The bytes of the disk, one to one.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl Format {
    /// Returns the name that qemu-img uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            other => match FOREIGN.iter().find(|name| **name == other) {
                Some(name) => Err(Error::UnsupportedFormat(name)),
                None => Err(Error::UnknownFormat(other.escape_debug().to_string())),
            },
        }
    }
}

/// The names that QEMU has for formats of images which are not read here.
const FOREIGN: &[&str] = &["bochs", "cloop", "dmg", "luks", "parallels", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc", "vvfat"];

/// Guesses the format of the image in `storage` from its first bytes: what is not qcow2 is raw.
///
/// A guest writes the first bytes of a raw disk, so it decides what this says. Ask only about images from the caller's own
/// hand, and let nothing follow from *raw*.
///
/// # Errors
///
/// The failure of the storage.
pub fn probe(storage: &dyn BlockRead) -> Result<Format, block::Error> {
    let mut magic = [0; 4];
    if storage.size() >= 4 {
        storage.read_exact_at(&mut magic, 0)?;
    }
    Ok(if magic == *b"QFI\xfb" { Format::Qcow2 } else { Format::Raw })
}

#[cfg(test)]
mod tests {
    use super::{Error, Format, probe};
    use crate::block::MemoryDisk;

    #[test]
    fn what_is_not_qcow2_is_raw_also_when_it_is_short() {
        for (bytes, format) in [(&b"QFI\xfb\0\0\0\x03"[..], Format::Qcow2), (b"QFI", Format::Raw), (b"", Format::Raw)] {
            assert_eq!(probe(&MemoryDisk::new(bytes.to_vec())).unwrap(), format);
        }
        assert_eq!("qcow2".parse::<Format>().unwrap(), Format::Qcow2);
        assert!(matches!("vmdk".parse::<Format>(), Err(Error::UnsupportedFormat("vmdk"))));
        assert!(matches!("ext4".parse::<Format>(), Err(Error::UnknownFormat(_))));
    }
}
