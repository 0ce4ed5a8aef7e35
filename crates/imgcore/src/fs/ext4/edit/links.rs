use super::Editor;
use super::folder::{MAX_LINKS, Name};
use crate::block::BlockWrite;
use crate::fs::ext4::dirent::type_of;
use crate::fs::ext4::resolve::resolve;
use crate::fs::{Error, FileKind, GuestPath};

impl<D: BlockWrite> Editor<D> {
    /// Gives the file at `target` one more name.
    pub(super) fn hard_link(&mut self, target: &GuestPath) -> Result<(), Error> {
        let old = resolve(&self.volume, target, false)?.found.ok_or_else(|| Error::NotFound(target.clone()))?;
        let kind = old.kind()?;
        if kind == FileKind::Directory {
            return Err(Error::WrongKind { path: target.clone(), kind });
        }
        self.check_changeable(&old)?;
        let place = resolve(&self.volume, &self.path, false)?;
        if place.found.as_ref().is_some_and(|there| there.number == old.number) {
            return Ok(());
        }
        self.clear(&place)?;
        let (parent, name) = self.make_parents(place)?;
        self.check_project(parent, &old)?;
        // What was in the way may have been counted in it.
        let mut inode = self.volume.named_inode(old.number)?;
        let links = inode.raw.i_links_count.get().saturating_add(1);
        if links > MAX_LINKS {
            return Err(self.unrepresentable("a file has at most 65,000 names"));
        }
        inode.raw.i_links_count.set(links);
        self.stamp(&mut inode)?;
        self.save(&inode)?;
        self.insert_name(parent, &Name { bytes: name, inode: inode.number, file_type: type_of(kind) })
    }
}
