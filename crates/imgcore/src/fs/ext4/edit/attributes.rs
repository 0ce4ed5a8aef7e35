use super::Editor;
use crate::block::BlockWrite;
use crate::fs::ext4::Timestamp;
use crate::fs::ext4::acl;
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::feature::EXT_ATTR;
use crate::fs::ext4::inode::Inode;
use crate::fs::ext4::xattr::{
    ACL_ACCESS, ACL_DEFAULT, Value, Xattr, check_values_here, encode_block, encode_inside, read_block, read_xattrs, seal_block,
    split, split_name,
};
use crate::fs::{Attributes, Error, FileKind};

impl<D: BlockWrite> Editor<D> {
    /// Sets what `attributes` names. The inode is not saved.
    pub(super) fn set_attributes(&mut self, inode: &mut Inode, attributes: &Attributes) -> Result<(), Error> {
        let kind = inode.kind()?;
        if let Some(uid) = attributes.uid {
            inode.set_uid(uid);
        }
        if let Some(gid) = attributes.gid {
            inode.set_gid(gid);
        }
        if let Some(secs) = attributes.mtime
            && !inode.set_mtime(Timestamp { secs, nanos: attributes.mtime_nanos })
        {
            return Err(self.unrepresentable(format!("this file system cannot store the time {secs}")));
        }
        let mut changes = Vec::new();
        for (name, value) in &attributes.xattrs {
            changes.push(self.change_of(inode, name, value)?);
        }
        self.set_xattrs(inode, changes)?;
        if let Some(mode) = attributes.mode {
            let mode = u16::try_from(mode).ok().filter(|mode| *mode <= 0o7777);
            let mode = mode.ok_or_else(|| self.unrepresentable("a mode is at most 7777"))?;
            if kind != FileKind::Symlink {
                inode.raw.i_mode.set(inode.raw.i_mode.get() & 0xF000 | mode);
                self.set_access_list(inode, mode)?;
            }
        }
        if inode.set_ctime(self.now) {
            return Ok(());
        }
        Err(self.unrepresentable("this file system cannot store today's date"))
    }

    /// Keeps an access list in step with the mode.
    fn set_access_list(&mut self, inode: &mut Inode, mode: u16) -> Result<(), Error> {
        let list = read_xattrs(&self.volume, inode)?.into_iter().find(|attribute| attribute.index == ACL_ACCESS);
        let Some(Xattr { value: Value::Here(list), name, .. }) = list else { return Ok(()) };
        let bad = || corrupt(format!("inode {}", inode.number), "its access list has the stored form");
        let value = Value::Here(acl::with_mode(&list, mode).ok_or_else(bad)?);
        self.set_xattrs(inode, vec![Xattr { index: ACL_ACCESS, name, value }])
    }

    /// Returns the extended attribute `name` as it is stored. An access list sets the mode of the inode, which is not saved.
    fn change_of(&self, inode: &mut Inode, name: &str, value: &[u8]) -> Result<Xattr, Error> {
        let cannot = |why: &str| self.unrepresentable(format!("the extended attribute `{name}` cannot be set{why}"));
        let (index, rest) = match split_name(name) {
            Some((SYSTEM | RICHACL, _)) | None => return Err(cannot("")),
            Some(parts) => parts,
        };
        if index != ACL_ACCESS && index != ACL_DEFAULT {
            return Ok(Xattr { index, name: rest.to_vec(), value: Value::Here(value.to_vec()) });
        }
        let kind = inode.kind()?;
        if kind == FileKind::Symlink || (index == ACL_DEFAULT && kind != FileKind::Directory) {
            return Err(cannot(": a link has no access list, and only a folder a default one"));
        }
        let (list, mode) = acl::from_programs(value).ok_or_else(|| cannot(": it breaks a rule of acl(5)"))?;
        if index == ACL_ACCESS {
            inode.raw.i_mode.set(inode.raw.i_mode.get() & !0o777 | mode);
        }
        Ok(Xattr { index, name: Vec::new(), value: Value::Here(list) })
    }

    /// Gives a new file what its folder passes on: the group of a folder with the setgid bit, its project, and the
    /// default access list.
    ///
    /// The inode has its mode already; it is not saved.
    pub(super) fn inherit(&mut self, inode: &mut Inode, folder: &Inode) -> Result<(), Error> {
        let kind = inode.kind()?;
        if folder.raw.i_mode.get() & SETGID != 0 {
            inode.set_gid(folder.gid());
            if kind == FileKind::Directory {
                inode.raw.i_mode.set(inode.raw.i_mode.get() | SETGID);
            }
        }
        self.inherit_project(inode, folder)?;
        if kind == FileKind::Symlink {
            return Ok(());
        }
        let all = read_xattrs(&self.volume, folder)?;
        let default = all.into_iter().find(|attribute| attribute.index == ACL_DEFAULT);
        let Some(Xattr { value: Value::Here(list), .. }) = default else { return Ok(()) };
        let bad = || corrupt(format!("inode {}", folder.number), "its default access list has the stored form");
        let (access, mode) = acl::inherited(&list, inode.raw.i_mode.get()).ok_or_else(bad)?;
        inode.raw.i_mode.set(mode);
        let new = |index, value| Xattr { index, name: Vec::new(), value: Value::Here(value) };
        let mut changes = Vec::new();
        if !acl::is_plain(&access) {
            changes.push(new(ACL_ACCESS, access));
        }
        if kind == FileKind::Directory {
            changes.push(new(ACL_DEFAULT, list));
        }
        self.set_xattrs(inode, changes)
    }

    /// Sets extended attributes: those that fit inside the inode, the others in its block. The inode is not saved.
    fn set_xattrs(&mut self, inode: &mut Inode, changes: Vec<Xattr>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.expect_features("an extended attribute")?;
        let old = read_xattrs(&self.volume, inode)?;
        check_values_here(&old)?;
        let mut all = old.clone();
        for change in changes {
            match all.iter_mut().find(|old| old.index == change.index && old.name == change.name) {
                Some(old) => *old = change,
                None => all.push(change),
            }
        }
        if all == old {
            return Ok(());
        }
        let layout = *self.volume.layout();
        let space = inode.xattr_space().unwrap_or_default();
        let inside = space.len();
        let (here, there) = split(all, inside, layout.block_bytes())
            .ok_or_else(|| self.unrepresentable("extended attributes fit the inode and one block"))?;
        if let Some(place) = inode.tail.get_mut(space).filter(|place| !place.is_empty()) {
            place.copy_from_slice(&encode_inside(&here, inside));
        }
        self.release_xattr_block(inode)?;
        if !there.is_empty() {
            let block = self.allocate_one(self.group_of(inode))?;
            self.volume.store.write(block, encode_block(there, block, &layout));
            inode.set_xattr_block(block);
            inode.set_sectors(self.sectors(inode).saturating_add(layout.cluster_size() / 512));
        }
        let features = self.volume.raw.s_feature_compat.get();
        self.volume.raw.s_feature_compat.set(features | EXT_ATTR);
        Ok(())
    }

    /// Gives the block of extended attributes back, or has one user less of it. The inode is not saved.
    pub(super) fn release_xattr_block(&mut self, inode: &mut Inode) -> Result<(), Error> {
        let number = inode.xattr_block();
        if number == 0 {
            return Ok(());
        }
        let block = read_block(&self.volume, number)?;
        let users = block.get(4..8).and_then(|bytes| bytes.first_chunk::<4>()).map_or(1, |bytes| u32::from_le_bytes(*bytes));
        if users > 1 {
            let mut bytes = block.to_vec();
            seal_block(&mut bytes, users.saturating_sub(1), None, number, self.volume.layout());
            self.volume.store.write(number, bytes);
        } else {
            self.free((number, 1))?;
        }
        inode.set_xattr_block(0);
        let less = self.volume.layout().cluster_size() / 512;
        inode.set_sectors(self.sectors(inode).saturating_sub(less));
        Ok(())
    }

    /// Returns the space that an inode takes in 512-byte sectors.
    fn sectors(&self, inode: &Inode) -> u64 {
        let unit = if inode.counts_blocks() { u64::from(self.volume.layout().block_size / 512) } else { 1 };
        inode.blocks().saturating_mul(unit)
    }
}

const SETGID: u16 = 0o2000;
/// Prefixes of names that are not set.
const SYSTEM: u8 = 7;
const RICHACL: u8 = 8;
