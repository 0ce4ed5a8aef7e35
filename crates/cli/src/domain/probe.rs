use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use super::{DiskFormat, Error};

/// What kind of seed an ISO image is, by its volume label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SeedKind {
    /// `cidata`: cloud-init's NoCloud.
    NoCloud,
    /// `config-2`: OpenStack's config drive.
    ConfigDrive,
}

impl SeedKind {
    /// Returns the volume label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoCloud => "cidata",
            Self::ConfigDrive => "config-2",
        }
    }
}

/// Returns the format that the first bytes of the file at `path` announce: qcow2 by its magic, else raw.
///
/// A file that announces any other disk format is refused: attached as raw it would show the guest the format's own tables.
///
/// # Errors
///
/// [`Error::DiskFormat`] for another format's magic, [`Error::Path`] for anything but a regular file or a block device, and
/// [`Error::Read`].
pub fn probe_format(path: &Path) -> Result<DiskFormat, Error> {
    let mut head = [0; 512];
    let head = read_at(path, 0, &mut head)?;
    if head.starts_with(b"QFI\xfb") {
        return Ok(DiskFormat::Qcow2);
    }
    match OTHER_FORMATS.iter().find(|(offset, magic, _)| head.get(*offset..).is_some_and(|rest| rest.starts_with(magic))) {
        Some((_, _, found)) => Err(Error::DiskFormat { path: path.to_owned(), found }),
        None => Ok(DiskFormat::Raw),
    }
}

/// Returns the kind of seed that the volume label of the ISO image at `path` announces, if it is one.
///
/// # Spec
///
/// ECMA-119, 8.4: the primary volume descriptor is sector 16 at the earliest; the volume identifier its bytes 41 to 72.
///
/// # Errors
///
/// [`Error::Path`] for anything but a regular file or a block device, and [`Error::Read`].
pub fn probe_seed(path: &Path) -> Result<Option<SeedKind>, Error> {
    let mut descriptor = [0; 72];
    let descriptor = read_at(path, 16 * 2048, &mut descriptor)?;
    if descriptor.get(..6) != Some(b"\x01CD001") {
        return Ok(None);
    }
    let label = descriptor.get(40..72).unwrap_or_default().trim_ascii_end();
    Ok(match label {
        b"cidata" | b"CIDATA" => Some(SeedKind::NoCloud),
        b"config-2" | b"CONFIG-2" => Some(SeedKind::ConfigDrive),
        _ => None,
    })
}

/// Returns as much of `buf` as the file at `path` has from `offset` on.
fn read_at<'a>(path: &Path, offset: u64, buf: &'a mut [u8]) -> Result<&'a [u8], Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    // Looked at before it is opened, since opening a FIFO would wait for its other end.
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    if !kind.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
        return Err(Error::Path { path: path.to_owned(), rule: "it is neither a regular file nor a block device" });
    }
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(len) => filled = filled.saturating_add(len),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(buf.get(..filled).unwrap_or_default())
}

/// Where the magic of a format other than qcow2 is, what it is, and the format's name.
const OTHER_FORMATS: [(usize, &[u8], &str); 9] = [
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"QED\0", "qed"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
];

#[cfg(test)]
mod tests {
    use super::{SeedKind, probe_format, probe_seed};
    use crate::domain::{DiskFormat, Error};

    #[test]
    fn qcow2_is_known_by_its_magic_and_anything_unknown_is_raw() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, format) in
            [(&b"QFI\xfb\0\0\0\x03"[..], DiskFormat::Qcow2), (b"", DiskFormat::Raw), (&[0x55; 4096], DiskFormat::Raw)]
        {
            let path = folder.path().join("disk");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(probe_format(&path).unwrap(), format);
        }
    }

    #[test]
    fn another_format_is_refused_by_name_and_a_fifo_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut vdi = vec![0; 0x40];
        vdi.extend(b"\x7f\x10\xda\xbe");
        std::fs::write(&path, vdi).unwrap();
        assert!(matches!(probe_format(&path), Err(Error::DiskFormat { found: "vdi", .. })));

        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(matches!(probe_format(&fifo), Err(Error::Path { .. })));
    }

    #[test]
    fn a_seed_is_known_by_its_label_and_a_short_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.iso");
        let mut bytes = vec![0; 16 * 2048];
        bytes.extend(b"\x01CD001\x01\0");
        bytes.extend([b' '; 32]);
        bytes.extend(format!("{:32}", "cidata").bytes());
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(probe_seed(&path).unwrap(), Some(SeedKind::NoCloud));
        std::fs::write(&path, &bytes[..2048]).unwrap();
        assert_eq!(probe_seed(&path).unwrap(), None);
    }
}
