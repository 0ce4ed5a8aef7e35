use std::collections::BTreeMap;

use imgcore::fs::ext4::Space;
use imgcore::fs::{Device, Error, FileKind, GuestPath, Node};

use super::error::failed;
use super::resolve::{own_path, resolve};
use super::view::xattr;
use super::{Mounted, kind_of};

impl Mounted {
    /// Returns all extended attributes of `path` by their full names; a link as the last name is not followed.
    ///
    /// # Errors
    ///
    /// As [`imgcore::fs::FileSystem::symlink_metadata`].
    pub fn xattrs(&self, path: &GuestPath) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let place = resolve(self, path, false)?;
        place.expect(path)?;
        let cannot = |error| failed(path, "be read", error);
        let mut names = vec![0; LONGEST_LIST];
        let len = match rustix::fs::llistxattr(own_path(&place.folder, place.name()), &mut *names) {
            Ok(len) => len,
            Err(rustix::io::Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(cannot(error)),
        };
        let mut all = BTreeMap::new();
        for name in names.get(..len).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            // A name that is no text is none that a plan or a policy could mean.
            let Ok(text) = std::str::from_utf8(name) else { continue };
            if let Some(value) = xattr(&place, text).map_err(cannot)? {
                all.insert(name.to_vec(), value);
            }
        }
        Ok(all)
    }

    /// Returns what `path` is when it is a device node, a FIFO or a socket; a link as the last name is not followed.
    ///
    /// # Errors
    ///
    /// As [`Mounted::xattrs`].
    pub fn node(&self, path: &GuestPath) -> Result<Option<Node>, Error> {
        let place = resolve(self, path, false)?;
        let stat = place.expect(path)?;
        let device = Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
        Ok(match kind_of(stat) {
            FileKind::CharDevice => Some(Node::CharDevice(device)),
            FileKind::BlockDevice => Some(Node::BlockDevice(device)),
            FileKind::Fifo => Some(Node::Fifo),
            FileKind::Socket => Some(Node::Socket),
            _ => None,
        })
    }

    /// Returns how much room there is, as the kernel counts it. File systems that make inodes as they need them have as many as
    /// there is room for, or say 0.
    ///
    /// # Errors
    ///
    /// The failure of the device.
    pub fn space(&self) -> Result<Space, Error> {
        let found = self.open_root().and_then(rustix::fs::fstatvfs);
        let found = found.map_err(|error| failed(&GuestPath::root(), "be looked at", error))?;
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Space {
            block_size: count(found.f_frsize),
            blocks: found.f_blocks,
            free_blocks: found.f_bfree,
            reserved_blocks: found.f_bfree.saturating_sub(found.f_bavail),
            inodes: count(found.f_files),
            free_inodes: count(found.f_ffree),
        })
    }
}

/// Spec: xattr(7), "the VFS-imposed limits on [...] the list of attribute names [...] is 64 kB".
const LONGEST_LIST: usize = 64 << 10;
