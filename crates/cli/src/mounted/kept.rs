use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use imgcore::fs::FileKind;
use rustix::fs::{AtFlags, Mode, Stat, XattrFlags};
use rustix::io::Errno;

use super::kind_of;
use super::resolve::{Place, own_path};
use super::view::{look, xattr};

/// What the kernel takes from a file that gets other contents or another owner, and that a plan keeps.
///
/// Spec: chown(2), "the S_ISUID and S_ISGID mode bits are cleared"; capabilities(7) has the same for `security.capability`.
#[derive(Debug)]
pub(super) struct Kept {
    mode: u32,
    capability: Option<Vec<u8>>,
}

impl Kept {
    /// Notes it before the change.
    pub(super) fn of(place: &Place, stat: &Stat) -> Result<Self, Errno> {
        let capability = if kind_of(stat) == FileKind::File { xattr(place, CAPABILITY)? } else { None };
        Ok(Self { mode: stat.st_mode & 0o7777, capability })
    }

    /// Sets it again after the change.
    pub(super) fn restore(&self, place: &Place) -> Result<(), Errno> {
        let stat = look(&place.folder, place.name())?;
        if kind_of(&stat) != FileKind::Symlink && stat.st_mode & 0o7777 != self.mode {
            set_mode(&place.folder, place.name(), self.mode)?;
        }
        match &self.capability {
            Some(value) if xattr(place, CAPABILITY)?.as_ref() != Some(value) => set_xattr(place, CAPABILITY, value),
            _ => Ok(()),
        }
    }
}

/// Sets the mode of what is no link.
pub(super) fn set_mode(folder: &OwnedFd, name: &[u8], mode: u32) -> Result<(), Errno> {
    rustix::fs::chmodat(folder, OsStr::from_bytes(name), Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Sets an extended attribute.
pub(super) fn set_xattr(place: &Place, name: &str, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::lsetxattr(own_path(&place.folder, place.name()), name, value, XattrFlags::empty())
}

const CAPABILITY: &str = "security.capability";
