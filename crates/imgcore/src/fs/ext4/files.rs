use std::collections::BTreeMap;

use super::acl;
use super::error::corrupt;
use super::extent::FileExtent;
use super::inline::{inline_contents, is_inline};
use super::inode::Inode;
use super::node::node_of;
use super::reader::Ext4;
use super::volume::Volume;
use super::xattr::{ACL_ACCESS, ACL_DEFAULT, Xattr, full_name, read_value, read_xattrs};
use crate::block::{self, BlockRead, ByteRange, Extent, ExtentKind, Staged};
use crate::fs::{Error, FileKind, GuestPath, Node};

/// What a file system has room for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Space {
    /// Bytes of a block.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Blocks that no file has, those set aside for root included.
    pub free_blocks: u64,
    /// Blocks set aside for root.
    pub reserved_blocks: u64,
    /// All inodes.
    pub inodes: u32,
    /// Inodes that no file has.
    pub free_inodes: u32,
}

/// A regular file of a file system, open for reading at any place; what takes no space is a hole.
#[derive(Debug)]
pub struct OpenFile<'a, D> {
    volume: &'a Volume<Staged<D>>,
    size: u64,
    extents: Vec<FileExtent>,
    /// The contents, where they lie in the inode.
    inline: Option<Vec<u8>>,
}

impl<D: BlockRead> Ext4<D> {
    /// Opens the regular file `path`, links followed. Its contents are read when they are asked for.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] when it is no regular file, [`Error::NotFound`], [`Error::TooManyLinks`], otherwise the failure of
    /// the file system.
    pub fn open_file(&self, path: &GuestPath) -> Result<OpenFile<'_, D>, Error> {
        let inode = self.find_kind(path, true, FileKind::File)?;
        let inline = is_inline(&inode).then(|| inline_contents(&inode)).transpose()?;
        let extents = if inline.is_some() { Vec::new() } else { self.volume.tree(&inode)?.extents };
        Ok(OpenFile { volume: &self.volume, size: inode.size(), extents, inline })
    }

    /// Returns all extended attributes of `path` by their full names, access lists as programs see them; a link as the last name
    /// is not followed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::TooManyLinks`], otherwise the failure of the file system.
    pub fn xattrs(&self, path: &GuestPath) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let inode = self.find(path, false)?;
        let mut all = BTreeMap::new();
        for attribute in read_xattrs(&self.volume, &inode)?.iter().filter(|attribute| !attribute.is_contents()) {
            if let Some(name) = full_name(attribute) {
                all.insert(name, self.value_of(&inode, attribute)?);
            }
        }
        Ok(all)
    }

    /// Returns what `path` is when it is a device node, a FIFO or a socket; a link as the last name is not followed.
    ///
    /// # Errors
    ///
    /// As [`Ext4::xattrs`].
    pub fn node(&self, path: &GuestPath) -> Result<Option<Node>, Error> {
        node_of(&self.find(path, false)?)
    }

    /// Returns how much room there is.
    #[must_use]
    pub fn space(&self) -> Space {
        let (raw, layout) = (&self.volume.raw, self.volume.layout());
        Space {
            block_size: layout.block_size,
            blocks: layout.blocks_count,
            free_blocks: raw.free_blocks_count(),
            reserved_blocks: raw.reserved_blocks_count(),
            inodes: raw.s_inodes_count.get(),
            free_inodes: raw.s_free_inodes_count.get(),
        }
    }

    /// Returns the value of an attribute as programs see it.
    pub(super) fn value_of(&self, inode: &Inode, attribute: &Xattr) -> Result<Vec<u8>, Error> {
        let value = read_value(&self.volume, &attribute.value)?;
        if attribute.index != ACL_ACCESS && attribute.index != ACL_DEFAULT {
            return Ok(value);
        }
        let bad = || corrupt(format!("inode {}", inode.number), "its access list has the stored form");
        acl::for_programs(&value).ok_or_else(bad)
    }
}

impl<D: BlockRead> BlockRead for OpenFile<'_, D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let outside = || block::Error::out_of_bounds(offset, len, self.size);
        offset.checked_add(len).filter(|end| *end <= self.size).ok_or_else(outside)?;
        let Some(contents) = &self.inline else {
            return self.volume.read_at(&self.extents, buf, offset).map_err(|error| match error {
                Error::Storage(error) => error,
                other => block::Error::new(block::ErrorKind::Corrupt, other.to_string()),
            });
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = contents.get(at..).and_then(|rest| rest.get(..buf.len())).ok_or_else(outside)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        let outside = || block::Error::out_of_bounds(offset, 1, self.size);
        let extent = |end: u64, kind| {
            let range = ByteRange::new(offset, end.min(self.size)).filter(|range| !range.is_empty());
            range.map(|range| Extent::new(range, kind)).ok_or_else(outside)
        };
        if self.inline.is_some() {
            return extent(self.size, ExtentKind::Data);
        }
        let block_size = u64::from(self.volume.layout().block_size);
        let at = self.extents.partition_point(|run| run.logical_end().saturating_mul(block_size) <= offset);
        let Some(run) = self.extents.get(at) else { return extent(self.size, ExtentKind::Hole) };
        let start = u64::from(run.logical).saturating_mul(block_size);
        match (start <= offset, run.unwritten) {
            (false, _) => extent(start, ExtentKind::Hole),
            (true, true) => extent(run.logical_end().saturating_mul(block_size), ExtentKind::Zero),
            (true, false) => extent(run.logical_end().saturating_mul(block_size), ExtentKind::Data),
        }
    }
}
