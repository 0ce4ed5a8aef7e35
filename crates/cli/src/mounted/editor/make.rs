use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use imgcore::fs::{Attributes, Content, Device, Error, FileKind, Node};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, makedev};
use rustix::io::Errno;

use super::Editor;
use crate::mounted::contents::store;
use crate::mounted::kept::set_mode;
use crate::mounted::kind_of;
use crate::mounted::resolve::{Place, open_at, open_folder};
use crate::mounted::view::{look, xattr};

/// What a new file is made of.
pub(super) enum Make<'a> {
    File(&'a Content),
    Folder,
    Link(&'a str),
    Node(Node),
}

impl Editor<'_> {
    /// Makes something in the place of whatever is there but a folder.
    pub(super) fn make_at(&self, what: &Make<'_>, attributes: &Attributes) -> Result<(), Error> {
        let place = self.resolve(false)?;
        self.clear(&place)?;
        self.make(place, what, attributes)
    }

    /// Makes what is missing at a place: folders on the way, then what was asked for.
    pub(super) fn make(&self, place: Place, what: &Make<'_>, attributes: &Attributes) -> Result<(), Error> {
        let place = self.make_parents(place)?;
        self.make_one(&place, what, attributes)
    }

    /// Makes the folders that are missing on the way to a place; returns that of the last name.
    pub(super) fn make_parents(&self, place: Place) -> Result<Place, Error> {
        let Place { folder, names: mut above, missing, .. } = place;
        let mut names: Vec<Vec<u8>> = above.pop().into_iter().chain(missing).collect();
        names.retain(|name| !name.is_empty() && name != b".");
        let Some(last) = names.pop() else { return Err(Error::NotFound(self.path.clone())) };
        if last == b".." || names.iter().any(|name| name == b"..") {
            return Err(Error::NotFound(self.path.clone()));
        }
        let mut at = Place { folder, names: above, found: None, missing: Vec::new() };
        for name in names {
            at.names.push(name);
            self.make_one(&at, &Make::Folder, &Attributes::default())?;
            at.folder = open_folder(&at.folder, at.name()).map_err(self.cannot("be opened"))?;
        }
        at.names.push(last);
        Ok(at)
    }

    /// Makes one file.
    fn make_one(&self, place: &Place, what: &Make<'_>, attributes: &Attributes) -> Result<(), Error> {
        let cannot = self.cannot("be made");
        let above = look(&place.folder, b".").map_err(&cannot)?;
        let (folder, name) = (&place.folder, OsStr::from_bytes(place.name()));
        let mode = if matches!(what, Make::Folder) { 0o755 } else { 0o644 };
        let bits = Mode::from_raw_mode(mode);
        match what {
            Make::File(content) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let file = open_at(folder, place.name(), flags, bits).map_err(&cannot)?;
                store(&File::from(file), content, 0, self.path)?;
            }
            Make::Folder => rustix::fs::mkdirat(folder, name, bits).map_err(&cannot)?,
            Make::Link(target) => rustix::fs::symlinkat(*target, folder, name).map_err(&cannot)?,
            Make::Node(node) => self.make_node(folder, name, *node, bits)?,
        }
        let stat = self.settle(place, &above, mode).map_err(&cannot)?;
        self.set_time(folder, place.name(), (self.now, 0), true)?;
        self.set_attributes(place, &stat, attributes)?;
        self.touch(folder)
    }

    fn make_node(&self, folder: &OwnedFd, name: &OsStr, node: Node, bits: Mode) -> Result<(), Error> {
        let (kind, device) = match node {
            Node::CharDevice(device) => (FileType::CharacterDevice, Some(device)),
            Node::BlockDevice(device) => (FileType::BlockDevice, Some(device)),
            Node::Fifo => (FileType::Fifo, None),
            Node::Socket => (FileType::Socket, None),
        };
        let number = match device {
            None => 0,
            Some(Device { major, minor }) if major < 1 << 12 && minor < 1 << 20 => makedev(major, minor),
            Some(_) => {
                return Err(self.unrepresentable("a device has a major number below 4096 and a minor one below 2^20"));
            }
        };
        rustix::fs::mknodat(folder, name, kind, bits, number).map_err(self.cannot("be made"))
    }

    /// Gives what is new the owner and the mode that it has in a guest: root's, the group of a folder that passes it on, and
    /// `mode` whatever this process masks, unless the folder has a default access list. Returns what it is then.
    fn settle(&self, place: &Place, above: &Stat, mode: u32) -> Result<Stat, Errno> {
        let (folder, name) = (&place.folder, place.name());
        let stat = look(folder, name)?;
        let gid = if above.st_mode & SETGID != 0 { above.st_gid } else { 0 };
        if (stat.st_uid, stat.st_gid) != (0, gid) {
            let owner = (Some(Uid::from_raw(0)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(folder, OsStr::from_bytes(name), owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind_of(&stat) != FileKind::Symlink && stat.st_mode & 0o777 != mode && !has_default_list(folder)? {
            set_mode(folder, name, stat.st_mode & 0o7000 | mode)?;
        }
        look(folder, name)
    }
}

/// Returns whether new files in a folder get an access list.
fn has_default_list(folder: &OwnedFd) -> Result<bool, Errno> {
    let folder = folder.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let place = Place { folder, names: Vec::new(), found: None, missing: Vec::new() };
    Ok(xattr(&place, "system.posix_acl_default")?.is_some())
}

const SETGID: u32 = 0o2000;
