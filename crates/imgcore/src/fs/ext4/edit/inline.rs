use super::Editor;
use super::folder::Name;
use crate::block::BlockWrite;
use crate::fs::Error;
use crate::fs::ext4::dirent::{TYPE_DIRECTORY, record_len};
use crate::fs::ext4::inline::{inline_folder, is_inline};
use crate::fs::ext4::inode::{INLINE_DATA_FLAG, Inode};
use crate::fs::ext4::xattr::{check_values_here, encode_inside, read_inside};

impl<D: BlockWrite> Editor<D> {
    /// Drops the contents that lie in an inode. The inode, which has no contents then, is not saved.
    pub(super) fn clear_inline(&mut self, inode: &mut Inode) -> Result<(), Error> {
        let mut inside = read_inside(inode)?;
        check_values_here(&inside)?;
        inside.retain(|attribute| !attribute.is_contents());
        let extra = inode.extra_isize();
        if let Some(place) = inode.tail.get_mut(extra..) {
            place.copy_from_slice(&encode_inside(&inside, place.len()));
        }
        inode.set_flag(INLINE_DATA_FLAG, false);
        self.store_tree(inode, &[], 0, &[])
    }

    /// Moves the names of a folder that lies in its inode to a block, as there may be more. The inode is not saved.
    pub(super) fn move_names_out(&mut self, folder: &mut Inode) -> Result<(), Error> {
        if !is_inline(folder) {
            return Ok(());
        }
        let entry = |inode, name: &[u8], file_type| Name { bytes: name.to_vec(), inode, file_type };
        let (stored, parent) = inline_folder(folder)?;
        let mut names = vec![entry(folder.number, b".", TYPE_DIRECTORY), entry(parent, b"..", TYPE_DIRECTORY)];
        names.extend(stored.all()?.iter().map(|record| entry(record.inode, record.name, record.file_type)));
        let size: usize = names.iter().map(|name| record_len(name.bytes.len())).sum();
        if size > self.records_end() {
            return Err(self.unrepresentable("the names in a folder's inode fit a block"));
        }
        self.clear_inline(folder)?;
        folder.set_size(0);
        let (_, block) = self.append_block(folder)?;
        let bytes = self.packed(folder, &names);
        self.volume.store.write(block, bytes);
        self.volume.folders.forget(folder.number);
        Ok(())
    }
}
