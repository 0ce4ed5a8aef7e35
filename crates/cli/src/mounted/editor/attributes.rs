use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use imgcore::fs::{Attributes, Error, FileKind};
use rustix::fs::{AtFlags, Gid, Stat, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::Editor;
use crate::mounted::kept::{Kept, set_mode, set_xattr};
use crate::mounted::kind_of;
use crate::mounted::resolve::Place;

impl Editor<'_> {
    /// Sets what `attributes` names.
    pub(super) fn set_attributes(&self, place: &Place, stat: &Stat, attributes: &Attributes) -> Result<(), Error> {
        let kind = kind_of(stat);
        let cannot = self.cannot("be changed");
        if attributes.uid.is_some() || attributes.gid.is_some() {
            let kept = Kept::of(place, stat).map_err(&cannot)?;
            let (uid, gid) = (attributes.uid.map(Uid::from_raw), attributes.gid.map(Gid::from_raw));
            if attributes.uid == Some(u32::MAX) || attributes.gid == Some(u32::MAX) {
                return Err(self.unrepresentable("the number of an owner is below 4294967295"));
            }
            let name = OsStr::from_bytes(place.name());
            rustix::fs::chownat(&place.folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(&cannot)?;
            kept.restore(place).map_err(&cannot)?;
        }
        for (name, value) in &attributes.xattrs {
            let refused = |error| match error {
                Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM | Errno::RANGE | Errno::TOOBIG => {
                    self.unrepresentable(format!("the extended attribute `{name}` cannot be set"))
                }
                error => cannot(error),
            };
            set_xattr(place, name, value).map_err(refused)?;
        }
        if let Some(mode) = attributes.mode {
            if mode > 0o7777 {
                return Err(self.unrepresentable("a mode is at most 7777"));
            }
            if kind != FileKind::Symlink {
                set_mode(&place.folder, place.name(), mode).map_err(&cannot)?;
            }
        }
        match attributes.mtime {
            Some(secs) => self.set_time(&place.folder, place.name(), (secs, attributes.mtime_nanos), false),
            None => Ok(()),
        }
    }

    /// Sets when something was changed, and with `born` when it was read.
    pub(super) fn set_time(&self, folder: &OwnedFd, name: &[u8], (secs, nanos): (i64, u32), born: bool) -> Result<(), Error> {
        let time = Timespec { tv_sec: secs, tv_nsec: i64::from(nanos) };
        let last_access = if born { time } else { Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT } };
        let times = Timestamps { last_access, last_modification: time };
        rustix::fs::utimensat(folder, OsStr::from_bytes(name), &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.cannot("be changed"))
    }

    /// Sets when the names in a folder were changed.
    pub(super) fn touch(&self, folder: &OwnedFd) -> Result<(), Error> {
        self.set_time(folder, b".", (self.now, 0), false)
    }
}
