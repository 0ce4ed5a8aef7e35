use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use imgcore::fs::{DirEntry, Error, FileKind, FileSystem, GuestPath, Metadata};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::failed;
use super::resolve::{Place, open_at, open_folder, own_path, read_link, resolve};
use super::{Mounted, kind_of};

impl FileSystem for Mounted {
    fn metadata(&self, path: &GuestPath) -> Result<Metadata, Error> {
        Ok(metadata_of(resolve(self, path, true)?.expect(path)?))
    }

    fn symlink_metadata(&self, path: &GuestPath) -> Result<Metadata, Error> {
        Ok(metadata_of(resolve(self, path, false)?.expect(path)?))
    }

    fn read(&self, path: &GuestPath, limit: u64) -> Result<Vec<u8>, Error> {
        self.open_file(path)?.read(path, limit)
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>, Error> {
        let place = resolve(self, path, true)?;
        let kind = kind_of(place.expect(path)?);
        if kind != FileKind::Directory {
            return Err(Error::WrongKind { path: path.clone(), kind });
        }
        let cannot = |error| failed(path, "be listed", error);
        let folder = open_folder(&place.folder, place.name()).map_err(cannot)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => kind_of(&look(&folder, name).map_err(cannot)?),
                FileType::RegularFile => FileKind::File,
                FileType::Directory => FileKind::Directory,
                FileType::Symlink => FileKind::Symlink,
                FileType::CharacterDevice => FileKind::CharDevice,
                FileType::BlockDevice => FileKind::BlockDevice,
                FileType::Fifo => FileKind::Fifo,
                FileType::Socket => FileKind::Socket,
            };
            entries.push(DirEntry { name: name.to_vec(), kind, inode: entry.ino() });
            if entries.len() > MOST_ENTRIES {
                let rule = format!("a folder has at most {MOST_ENTRIES} names");
                return Err(Error::Corrupt { format: "mounted", place: format!("`{path}`"), rule });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The kernel gives a folder one place; in btrfs, each subvolume begins with the same inode.
    fn is_tree(&self) -> bool {
        true
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>, Error> {
        let place = resolve(self, path, false)?;
        let kind = kind_of(place.expect(path)?);
        if kind != FileKind::Symlink {
            return Err(Error::WrongKind { path: path.clone(), kind });
        }
        let link = open_at(&place.folder, place.name(), OFlags::PATH, Mode::empty());
        link.and_then(read_link).map_err(|error| failed(path, "be read", error))
    }

    fn xattr(&self, path: &GuestPath, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let place = resolve(self, path, false)?;
        place.expect(path)?;
        xattr(&place, name).map_err(|error| failed(path, "be read", error))
    }
}

/// Looks at a name in a folder.
pub(super) fn look(folder: impl std::os::fd::AsFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::fstat(open_at(folder, name, OFlags::PATH, Mode::empty())?)
}

/// Returns the extended attribute `name` of what is at a place.
pub(super) fn xattr(place: &Place, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let path = own_path(&place.folder, place.name());
    let mut value = vec![0; LARGEST_VALUE];
    match rustix::fs::lgetxattr(&path, OsStr::from_bytes(name.as_bytes()), &mut *value) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

fn metadata_of(stat: &Stat) -> Metadata {
    Metadata {
        kind: kind_of(stat),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        mtime: stat.st_mtime,
        mtime_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        inode: stat.st_ino,
    }
}

/// Spec: xattr(7), "the VFS-imposed limits on the size of an attribute value is 64 kB".
const LARGEST_VALUE: usize = 64 << 10;

/// More than any folder of a guest has, so that a folder without end ends.
const MOST_ENTRIES: usize = 4 << 20;
