//! What a file is, whatever is said about it.
//!
//! Two programs that take one file for two formats read two different disks: one that was judged, and one that is used. So a
//! file that nobody declared to be raw is not read as raw when it begins as an image of another format, be it encrypted or not.
//!
//! A file that is not trusted at all, [`OpenPolicy::Untrusted`], is held to these rules, which are at least as strict as those
//! of OpenStack's format inspector (oslo.utils, `imageutils.format_inspector`):
//!
//! - its bytes are those of the declared or guessed format and of no other one: not of a QCOW, QED, VMDK, VHD, VHDX, VDI, LUKS,
//!   Parallels, Bochs, cloop or DMG image, nor of an ISO or UDF file system; a raw disk may have a partition table, a qcow2
//!   image may not;
//! - a qcow2 image names no backing file and no data file, and has no feature bit that is not known here, be it incompatible,
//!   compatible or autoclear.

use std::path::Path;

use super::open::{BACKING, DATA_FILE};
use super::{Error, Format, OpenOptions, OpenPolicy, Storage, probe};
use crate::block::{self, BlockRead};
use crate::qcow2::Image;

/// What the bytes of a file say that it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Signature {
    /// The name of the format.
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// An image in the format that is read here.
    Qcow2,
    /// A disk with partitions.
    PartitionTable,
    /// An image in another format, which every program tells by its first bytes.
    Image,
    /// Something that is also a plain disk to many programs.
    Other,
}

/// Returns the format of `file`, declared or guessed, unless its bytes speak against it.
///
/// # Errors
///
/// [`Error::ForeignFormat`], [`Error::Untrusted`], the failure of the storage.
pub(super) fn format_of(file: &Storage, options: &OpenOptions) -> Result<Format, Error> {
    let format = options.format.map_or_else(|| probe(file), Ok)?;
    let guessed_raw = options.format.is_none() && format == Format::Raw;
    let untrusted = options.policy == OpenPolicy::Untrusted;
    if !untrusted && !guessed_raw {
        return Ok(format);
    }
    let own = if format == Format::Raw { Kind::PartitionTable } else { Kind::Qcow2 };
    for found in signatures(file)? {
        let path = file.path().to_owned();
        if untrusted && found.kind != own {
            return Err(Error::Untrusted {
                path,
                why: format!("its bytes are those of {}, and it was opened as {format}", found.name),
            });
        }
        if found.kind == Kind::Image {
            return Err(Error::ForeignFormat { path, format: found.name });
        }
    }
    Ok(format)
}

/// Checks what an image says about itself, if `policy` does not trust it.
///
/// # Errors
///
/// [`Error::NotFollowed`] when it names another file, [`Error::Untrusted`] for unknown features.
pub(super) fn inspect(path: &Path, image: &Image<Storage>, policy: OpenPolicy) -> Result<(), Error> {
    if policy != OpenPolicy::Untrusted {
        return Ok(());
    }
    if let Some(backing) = image.backing_file() {
        policy.check(path, BACKING, &backing.name)?;
    }
    if let Some(data) = image.data_file() {
        policy.check(path, DATA_FILE, &data.name.unwrap_or_default())?;
    }
    if image.has_unknown_features() {
        return Err(Error::Untrusted { path: path.to_owned(), why: "it has unknown feature bits".to_owned() });
    }
    Ok(())
}

/// Returns everything that the bytes in `storage` say that it is.
fn signatures(storage: &dyn BlockRead) -> Result<Vec<Signature>, block::Error> {
    let mut found = Vec::new();
    for (place, bytes, name, kind) in SIGNATURES {
        let offset = match place {
            Place::At(offset) => Some(*offset),
            Place::FromEnd(offset) => storage.size().checked_sub(*offset),
        };
        let mut stored = vec![0; bytes.len()];
        let end = offset.and_then(|offset| offset.checked_add(u64::try_from(bytes.len()).ok()?));
        let Some(offset) = offset.filter(|_| end.is_some_and(|end| end <= storage.size())) else { continue };
        storage.read_exact_at(&mut stored, offset)?;
        let signature = Signature { name, kind: *kind };
        if stored == *bytes && !found.contains(&signature) {
            found.push(signature);
        }
    }
    Ok(found)
}

/// Where a signature is.
enum Place {
    At(u64),
    FromEnd(u64),
}

const SIGNATURES: &[(Place, &[u8], &str, Kind)] = &[
    (Place::At(0), b"QFI\xfb\0\0\0\x01", "a QCOW image", Kind::Image),
    (Place::At(0), b"QFI\xfb", "a qcow2 image", Kind::Qcow2),
    (Place::At(0), b"QED\0", "a QED image", Kind::Image),
    (Place::At(0), b"KDMV", "a VMDK image", Kind::Image),
    (Place::At(0), b"COWD", "a VMDK image", Kind::Image),
    (Place::At(0), b"# Disk DescriptorFile", "a VMDK image", Kind::Image),
    (Place::At(0), b"conectix", "a VHD image", Kind::Image),
    (Place::At(0), b"vhdxfile", "a VHDX image", Kind::Image),
    (Place::At(64), b"\x7f\x10\xda\xbe", "a VDI image", Kind::Image),
    (Place::At(0), b"LUKS\xba\xbe", "an encrypted LUKS volume", Kind::Image),
    (Place::At(0), b"WithoutFreeSpace", "a Parallels image", Kind::Image),
    (Place::At(0), b"WithouFreSpacExt", "a Parallels image", Kind::Image),
    (Place::At(0), b"Bochs Virtual HD Image", "a Bochs image", Kind::Image),
    (Place::At(0), b"#!/bin/sh\n#V2.0 Format", "a cloop image", Kind::Image),
    (Place::FromEnd(512), b"conectix", "a VHD image of fixed size", Kind::Other),
    (Place::FromEnd(512), b"koly", "a DMG image", Kind::Other),
    (Place::At(32_769), b"CD001", "an ISO 9660 file system", Kind::Other),
    (Place::At(32_769), b"NSR02", "a UDF file system", Kind::Other),
    (Place::At(32_769), b"NSR03", "a UDF file system", Kind::Other),
    (Place::At(32_769), b"BEA01", "a UDF file system", Kind::Other),
    (Place::At(510), b"\x55\xaa", "a disk with a partition table", Kind::PartitionTable),
    (Place::At(512), b"EFI PART", "a disk with a partition table", Kind::PartitionTable),
];

#[cfg(test)]
mod tests {
    use super::super::{Location, Storage};
    use super::{Error, Format, Kind, OpenOptions, OpenPolicy, Place, SIGNATURES, format_of};
    use crate::storage::Access;

    fn judge(bytes: &[u8], format: Option<Format>, policy: OpenPolicy) -> Result<Format, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let disk = Storage::open(Location::File(file.path()), Access::Read).unwrap();
        format_of(&disk, &OpenOptions { format, policy, ..OpenOptions::default() })
    }

    #[test]
    fn a_file_is_what_its_bytes_say_and_nothing_else_besides() {
        for (place, bytes, name, kind) in SIGNATURES {
            let mut file = vec![0; 40_000];
            let at = match place {
                Place::At(at) => usize::try_from(*at).unwrap(),
                Place::FromEnd(at) => file.len() - usize::try_from(*at).unwrap(),
            };
            file[at..at + bytes.len()].copy_from_slice(bytes);
            let trusted = judge(&file, None, OpenPolicy::PlainPaths);
            let declared = judge(&file, Some(Format::Raw), OpenPolicy::PlainPaths);
            let untrusted = judge(&file, Some(Format::Raw), OpenPolicy::Untrusted);
            assert_eq!(declared.unwrap(), Format::Raw, "{name}");
            assert_eq!(untrusted.is_ok(), *kind == Kind::PartitionTable, "{name}");
            match kind {
                // Which version it is, its reader says.
                _ if file.starts_with(b"QFI") => assert_eq!(trusted.unwrap(), Format::Qcow2),
                Kind::Image => assert!(matches!(trusted, Err(Error::ForeignFormat { .. })), "{name}"),
                _ => assert_eq!(trusted.unwrap(), Format::Raw, "{name}"),
            }
            file[..4].copy_from_slice(b"QFI\xfb");
            let both = judge(&file, None, OpenPolicy::Untrusted);
            assert_eq!(both.is_ok(), at == 0 && file[7] != 1, "{name} in a qcow2 image");
        }
        for len in [0, 1, 511, 512, 32_770] {
            assert_eq!(judge(&vec![0; len], None, OpenPolicy::Untrusted).unwrap(), Format::Raw);
        }
    }
}
