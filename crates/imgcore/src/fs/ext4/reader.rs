use super::journal::replay;
use super::resolve::resolve;
use super::volume::Volume;
use super::xattr::{read_xattrs, split_name};
use crate::block::{BlockRead, Staged};
use crate::fs::{DirEntry, Error, FileKind, FileSystem, GuestPath, Metadata};

use super::inode::Inode;

/// An ext4 file system, for reading.
#[derive(Debug)]
pub struct Ext4<D> {
    /// Over what the journal has, where the file system was not unmounted.
    pub(super) volume: Volume<Staged<D>>,
}

impl<D: BlockRead> Ext4<D> {
    /// Opens the file system that fills `disk`. What is in its journal is read from there, as if it had been replayed.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] names a feature that is in the way;
    /// [`Error::Corrupt`] when the superblock or a group descriptor breaks a rule; otherwise the failure of `disk`.
    pub fn open(disk: D) -> Result<Self, Error> {
        let mut disk = Staged::new(disk);
        replay(&mut disk)?;
        Ok(Self { volume: Volume::open(disk)? })
    }

    /// Returns the label, without its padding.
    #[must_use]
    pub fn label(&self) -> Vec<u8> {
        self.volume.raw.s_volume_name.iter().copied().take_while(|byte| *byte != 0).collect()
    }

    /// Returns the UUID.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.volume.raw.s_uuid
    }

    /// Returns the device below.
    #[must_use]
    pub fn into_inner(self) -> D {
        self.volume.store.into_disk().into_base()
    }

    pub(super) fn find(&self, path: &GuestPath, follow_last: bool) -> Result<Inode, Error> {
        let place = resolve(&self.volume, path, follow_last)?;
        place.found.ok_or_else(|| Error::NotFound(path.clone()))
    }

    pub(super) fn find_kind(&self, path: &GuestPath, follow_last: bool, wanted: FileKind) -> Result<Inode, Error> {
        let inode = self.find(path, follow_last)?;
        let kind = inode.kind()?;
        if kind == wanted { Ok(inode) } else { Err(Error::WrongKind { path: path.clone(), kind }) }
    }
}

impl<D: BlockRead> FileSystem for Ext4<D> {
    fn metadata(&self, path: &GuestPath) -> Result<Metadata, Error> {
        self.find(path, true)?.metadata()
    }

    fn symlink_metadata(&self, path: &GuestPath) -> Result<Metadata, Error> {
        self.find(path, false)?.metadata()
    }

    fn read(&self, path: &GuestPath, limit: u64) -> Result<Vec<u8>, Error> {
        let inode = self.find_kind(path, true, FileKind::File)?;
        let contents = self.volume.contents(&inode, limit)?;
        contents.ok_or_else(|| Error::TooLarge { path: path.clone(), size: inode.size(), limit })
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>, Error> {
        let folder = self.find_kind(path, true, FileKind::Directory)?;
        let mut entries = self.volume.entries(&folder)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>, Error> {
        let link = self.find_kind(path, false, FileKind::Symlink)?;
        self.volume.link_target(&link)
    }

    fn xattr(&self, path: &GuestPath, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let inode = self.find(path, false)?;
        let Some((index, name)) = split_name(name) else { return Ok(None) };
        let all = read_xattrs(&self.volume, &inode)?;
        let found = all.iter().find(|attribute| attribute.index == index && attribute.name == name && !attribute.is_contents());
        found.map(|attribute| self.value_of(&inode, attribute)).transpose()
    }
}
