use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use imgcore::fs::{Error, FileKind, GuestPath};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::Editor;
use crate::mounted::kind_of;
use crate::mounted::removal::remove;
use crate::mounted::resolve::{Place, resolve};

impl Editor<'_> {
    /// Gives the file at `target` one more name.
    pub(super) fn hard_link(&self, target: &GuestPath) -> Result<(), Error> {
        let old = resolve(self.mounted, target, false)?;
        let stat = old.expect(target)?;
        let kind = kind_of(stat);
        if kind == FileKind::Directory {
            return Err(Error::WrongKind { path: target.clone(), kind });
        }
        let place = self.resolve(false)?;
        if place.found.as_ref().is_some_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        self.clear(&place)?;
        let place = self.make_parents(place)?;
        let (from, to) = (OsStr::from_bytes(old.name()), OsStr::from_bytes(place.name()));
        rustix::fs::linkat(&old.folder, from, &place.folder, to, AtFlags::empty()).map_err(self.cannot("be made"))?;
        self.touch(&place.folder)
    }

    /// Moves what is at `from` to the path of the step.
    pub(super) fn rename(&self, from: &GuestPath) -> Result<(), Error> {
        let old = resolve(self.mounted, from, false)?;
        let moved = old.expect(from)?;
        if old.names.is_empty() {
            return Err(self.unrepresentable("the root has no other name"));
        }
        let is_folder = kind_of(moved) == FileKind::Directory;
        let new = self.resolve(false)?;
        let into_itself = || self.unrepresentable("a folder is not moved into itself");
        if is_folder && new.names.len() > old.names.len() && new.names.starts_with(&old.names) {
            return Err(into_itself());
        }
        if let Some(there) = &new.found {
            if (there.st_dev, there.st_ino) == (moved.st_dev, moved.st_ino) {
                // Another name of the same file, or this one.
                return if new.names == old.names || is_folder { Ok(()) } else { self.remove_at(&old) };
            }
            let kind = kind_of(there);
            if is_folder != (kind == FileKind::Directory) || new.names.is_empty() {
                return Err(Error::WrongKind { path: self.path.clone(), kind });
            }
        }
        let new = self.make_parents(new)?;
        let (from, to) = (OsStr::from_bytes(old.name()), OsStr::from_bytes(new.name()));
        rustix::fs::renameat(&old.folder, from, &new.folder, to).map_err(|error| match error {
            Errno::INVAL => into_itself(),
            error => self.cannot("get its new name")(error),
        })?;
        self.touch(&old.folder)?;
        self.touch(&new.folder)
    }

    pub(super) fn remove_path(&self) -> Result<(), Error> {
        let place = self.resolve(false)?;
        match place.found {
            None => Ok(()),
            Some(_) if place.names.is_empty() => Err(self.unrepresentable("the root cannot be removed")),
            Some(_) => self.remove_at(&place),
        }
    }

    /// Removes what is at a place, unless that is a folder.
    pub(super) fn clear(&self, place: &Place) -> Result<(), Error> {
        let Some(old) = &place.found else { return Ok(()) };
        match kind_of(old) {
            FileKind::Directory => Err(Error::WrongKind { path: self.path.clone(), kind: FileKind::Directory }),
            _ => self.remove_at(place),
        }
    }

    fn remove_at(&self, place: &Place) -> Result<(), Error> {
        remove(&place.folder, place.name(), self.path)?;
        self.touch(&place.folder)
    }
}
