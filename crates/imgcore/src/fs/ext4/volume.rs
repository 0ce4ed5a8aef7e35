use super::blockmap::read_map;
use super::dirent::{Record, each_record, is_sealed, kind_of, records, records_end};
use super::error::{corrupt, refused};
use super::extent::{ExtentTree, FileExtent, read_tree};
use super::feature::check_readable;
use super::group::{Group, Groups};
use super::inline::{inline_contents, inline_folder, is_inline};
use super::inode::{ENCRYPT_FLAG, EXTENTS_FLAG, INDEX_FLAG, Inode};
use super::layout::Layout;
use super::names::{Asked, FolderNames, Folders, LARGEST_FOLDER, room};
use super::store::Store;
use super::superblock::RawSuperblock;
use crate::block::BlockRead;
use crate::fs::{DirEntry, Error, FileKind};

/// An open file system: what reader, editor and verifier share.
#[derive(Debug)]
pub(super) struct Volume<D> {
    pub(super) raw: RawSuperblock,
    groups: Groups,
    pub(super) store: Store<D>,
    pub(super) folders: Folders,
}

impl<D: BlockRead> Volume<D> {
    /// Reads the superblock.
    pub(super) fn open(disk: D) -> Result<Self, Error> {
        let raw = RawSuperblock::read(&disk)?;
        check_readable(&raw)?;
        let layout = Layout::decode(&raw, disk.size())?;
        Ok(Self::over(disk, raw, layout, Groups::of(&layout)))
    }

    /// Returns the file system of which the superblock was read.
    pub(super) fn over(disk: D, raw: RawSuperblock, layout: Layout, groups: Groups) -> Self {
        Self { raw, groups, store: Store::new(disk, layout), folders: Folders::default() }
    }

    pub(super) fn layout(&self) -> &Layout {
        self.store.layout()
    }

    pub(super) fn group(&self, number: u32) -> Result<&Group, Error> {
        self.groups.get(number, self.store.disk(), self.layout())
    }

    /// Returns the descriptor of a group, to be changed.
    pub(super) fn group_mut(&mut self, number: u32) -> Result<&mut Group, Error> {
        self.groups.get_mut(number, self.store.disk(), self.store.layout())
    }

    /// Returns the block of inode `number`, and where in the block it begins, in bytes.
    pub(super) fn inode_place(&self, number: u32) -> Result<(u64, usize), Error> {
        let layout = self.layout();
        let missing = || corrupt(format!("inode {number}"), "its number is one of the file system's");
        let (group, index) = layout.group_of_inode(number).ok_or_else(missing)?;
        let offset = u64::from(index).saturating_mul(u64::from(layout.inode_size));
        let size = u64::from(layout.block_size);
        let block = self.group(group)?.inode_table.saturating_add(offset.checked_div(size).unwrap_or_default());
        let inside = offset.checked_rem(size).unwrap_or_default();
        Ok((block, usize::try_from(inside).unwrap_or(usize::MAX)))
    }

    /// Returns inode `number`.
    pub(super) fn inode(&self, number: u32) -> Result<Inode, Error> {
        let (block, at) = self.inode_place(number)?;
        let block = self.store.block(block)?;
        let bytes = block.get(at..).and_then(|rest| rest.get(..usize::from(self.layout().inode_size)));
        Inode::decode(bytes.unwrap_or_default(), number, self.layout())
    }

    /// Returns inode `number`, which a folder names.
    pub(super) fn named_inode(&self, number: u32) -> Result<Inode, Error> {
        let inode = self.inode(number)?;
        if inode.raw.i_links_count.get() == 0 {
            return Err(corrupt(format!("inode {number}"), "a file with a name has a link"));
        }
        Ok(inode)
    }

    /// Returns where the contents of `inode` lie.
    pub(super) fn tree(&self, inode: &Inode) -> Result<ExtentTree, Error> {
        if is_inline(inode) {
            return Err(corrupt(format!("inode {}", inode.number), "contents that lie in it have no blocks"));
        }
        if inode.has_flag(ENCRYPT_FLAG) {
            return Err(refused(format!("encrypts inode {}, which is not supported", inode.number)));
        }
        self.listed(inode)
    }

    /// Returns the blocks that `inode`, which has some, lists: by an extent tree or by a block map.
    pub(super) fn listed(&self, inode: &Inode) -> Result<ExtentTree, Error> {
        if inode.has_flag(EXTENTS_FLAG) {
            return read_tree(&self.store, inode);
        }
        if self.layout().cluster_blocks > 1 {
            return Err(corrupt(format!("inode {}", inode.number), "with the feature `bigalloc`, a file has extents"));
        }
        read_map(&self.store, inode)
    }

    /// Fills `buf` with the contents of a file at `offset`, given its extents; all else is zeros.
    pub(super) fn read_at(&self, extents: &[FileExtent], buf: &mut [u8], offset: u64) -> Result<(), Error> {
        buf.fill(0);
        let block_size = u64::from(self.layout().block_size);
        let end = offset.saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        for extent in extents.iter().filter(|extent| !extent.unwritten) {
            let first = u64::from(extent.logical).saturating_mul(block_size);
            let from = first.max(offset);
            let to = extent.logical_end().saturating_mul(block_size).min(end);
            if from >= to {
                continue;
            }
            let below = self.store.offset(extent.physical)?.saturating_add(from.saturating_sub(first));
            let start = usize::try_from(from.saturating_sub(offset)).unwrap_or(usize::MAX);
            let stop = usize::try_from(to.saturating_sub(offset)).unwrap_or(usize::MAX);
            if let Some(part) = buf.get_mut(start..stop) {
                self.store.disk().read_exact_at(part, below)?;
            }
        }
        Ok(())
    }

    /// Returns all contents of a file of at most `limit` bytes, or `None` when it has more.
    pub(super) fn contents(&self, inode: &Inode, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(size) = usize::try_from(inode.size()).ok().filter(|_| inode.size() <= limit) else { return Ok(None) };
        if size == 0 {
            return Ok(Some(Vec::new()));
        }
        if is_inline(inode) {
            return inline_contents(inode).map(Some);
        }
        let tree = self.tree(inode)?;
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(size).is_err() {
            return Ok(None);
        }
        bytes.resize(size, 0);
        self.read_at(&tree.extents, &mut bytes, 0)?;
        Ok(Some(bytes))
    }

    /// Returns the text of a symbolic link.
    pub(super) fn link_target(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        let bad = || corrupt(format!("inode {}", inode.number), "a link has 1 to 4095 bytes");
        let size = usize::try_from(inode.size()).ok().filter(|size| (1..=4095).contains(size)).ok_or_else(bad)?;
        if is_fast_link(inode) {
            return Ok(inode.raw.i_block.get(..size).ok_or_else(bad)?.to_vec());
        }
        self.contents(inode, 4095)?.ok_or_else(bad)
    }

    /// Returns the blocks of a folder, by their index in it.
    pub(super) fn folder_blocks(&self, folder: &Inode) -> Result<Vec<(u32, u64)>, Error> {
        let extents = self.tree(folder)?.extents;
        let size = folder.size();
        let blocks = size.div_ceil(u64::from(self.layout().block_size));
        let mapped: u64 = extents.iter().map(|extent| u64::from(extent.len)).sum();
        check_disjoint(folder, &extents)?;
        if mapped > MAX_FOLDER_BLOCKS {
            return Err(refused(format!("has a folder, inode {}, of more than {MAX_FOLDER_BLOCKS} blocks", folder.number)));
        }
        let runs = extents.iter().filter(|extent| !extent.unwritten).flat_map(|extent| {
            let logical = extent.logical..=extent.logical.saturating_add(extent.len.saturating_sub(1));
            logical.zip(extent.physical..)
        });
        Ok(runs.take_while(|(logical, _)| u64::from(*logical) < blocks).collect())
    }

    /// Returns the bytes of a block of a folder, its checksum checked.
    pub(super) fn folder_block(&self, folder: &Inode, block: u64) -> Result<std::sync::Arc<[u8]>, Error> {
        let bytes = self.store.block(block)?;
        // Blocks of an index have a checksum of their own kind, which the index checks.
        let checked = self.layout().has_metadata_csum() && !folder.has_flag(INDEX_FLAG);
        if checked && !is_sealed(&bytes, folder.checksum_seed(self.layout())) {
            return Err(corrupt(format!("folder {}", folder.number), "the checksum of a block matches its bytes"));
        }
        Ok(bytes)
    }

    /// Checks that the tables of a folder's index end inside their blocks.
    pub(super) fn check_index(&self, folder: &Inode) -> Result<(), Error> {
        // Without checksums a leaf may look as a node does.
        if !folder.has_flag(INDEX_FLAG) || is_inline(folder) || !self.layout().has_metadata_csum() {
            return Ok(());
        }
        for (index, number) in self.folder_blocks(folder)? {
            let block = self.store.block(number)?;
            let half = |at: usize| {
                block.get(at..).and_then(|rest| rest.first_chunk::<2>()).map_or(0, |half| u16::from_le_bytes(*half))
            };
            let is_node = u32::from(half(4)) == self.layout().block_size;
            let at: usize = if index == 0 { 0x20 } else { 8 };
            let end = usize::from(half(at.saturating_add(2))).saturating_mul(8).saturating_add(at);
            if (index == 0 || is_node) && end > block.len() {
                return Err(corrupt(format!("index of folder {}", folder.number), "a node has no more entries than fit"));
            }
        }
        Ok(())
    }

    /// Returns the inode that `name` means in a folder.
    pub(super) fn lookup(&self, folder: &Inode, name: &[u8]) -> Result<Option<u32>, Error> {
        Ok(self.find(folder, name)?.map(|(inode, _)| inode))
    }

    /// Returns the inode that `name` means in a folder, and the block that says so, or 0 where that is the folder's inode.
    pub(super) fn find(&self, folder: &Inode, name: &[u8]) -> Result<Option<(u32, u64)>, Error> {
        if is_inline(folder) {
            let (stored, _) = inline_folder(folder)?;
            let found = stored.all()?.iter().find(|record| record.name == name).map(|record| (record.inode, 0));
            return Ok(found);
        }
        if self.knows(folder, false)? {
            let Some(block) = self.folders.with(folder.number, |names| names.block_of(name)).flatten() else {
                return Ok(None);
            };
            if let Some(inode) = self.find_in(folder, block, name)? {
                return Ok(Some((inode, block)));
            }
            self.folders.forget(folder.number);
        }
        for (_, block) in self.folder_blocks(folder)? {
            if let Some(inode) = self.find_in(folder, block, name)? {
                return Ok(Some((inode, block)));
            }
        }
        Ok(None)
    }

    fn find_in(&self, folder: &Inode, block: u64, name: &[u8]) -> Result<Option<u32>, Error> {
        let bytes = self.folder_block(folder, block)?;
        for record in each_record(&bytes, folder.number) {
            let record = record?;
            if record.inode != 0 && record.name == name {
                return Ok(Some(record.inode));
            }
        }
        Ok(None)
    }

    /// Returns whether all names of a folder are known: when they were read before, or now that it is worth it or `must` be.
    ///
    /// Nothing is known of the largest folders.
    pub(super) fn knows(&self, folder: &Inode, must: bool) -> Result<bool, Error> {
        match self.folders.ask(folder.number) {
            Asked::Known => return Ok(true),
            Asked::New if !must => return Ok(false),
            _ if folder.size() > LARGEST_FOLDER => return Ok(false),
            _ => {}
        }
        let end = records_end(self.layout().block_bytes(), self.layout().has_metadata_csum());
        let mut names = FolderNames::default();
        for (index, block) in self.folder_blocks(folder)? {
            let bytes = self.folder_block(folder, block)?;
            let records = records(&bytes, folder.number)?;
            names.push_block(index, block, room(&records, end));
            for record in records.iter().filter(|record| record.inode != 0) {
                names.add(record.name, block);
            }
            if names.is_too_large() {
                return Ok(false);
            }
        }
        self.folders.keep(folder.number, names);
        Ok(self.folders.ask(folder.number) == Asked::Known)
    }

    /// Returns the names in a folder but `.` and `..`, in stored order.
    pub(super) fn entries(&self, folder: &Inode) -> Result<Vec<DirEntry>, Error> {
        let mut entries = Vec::new();
        let mut left = MOST_NAMES;
        if is_inline(folder) {
            for record in inline_folder(folder)?.0.all()? {
                if record.name == b"." || record.name == b".." {
                    return Err(corrupt(format!("folder {}", folder.number), "in its inode, it does not name itself"));
                }
                entries.push(self.entry(&record)?);
            }
            return Ok(entries);
        }
        for (_, block) in self.folder_blocks(folder)? {
            let bytes = self.folder_block(folder, block)?;
            for record in records(&bytes, folder.number)? {
                if record.inode != 0 && record.name != b"." && record.name != b".." {
                    let rest = left.checked_sub(record.name.len().saturating_add(EACH_NAME));
                    left = rest.ok_or_else(|| refused(format!("has a folder, inode {}, of too many names", folder.number)))?;
                    entries.push(self.entry(&record)?);
                }
            }
        }
        Ok(entries)
    }

    fn entry(&self, record: &Record<'_>) -> Result<DirEntry, Error> {
        let kind = match kind_of(record.file_type) {
            Some(kind) => kind,
            None => self.inode(record.inode)?.kind()?,
        };
        Ok(DirEntry { name: record.name.to_vec(), kind, inode: u64::from(record.inode) })
    }
}

/// Returns whether the text of a link is in its inode.
pub(super) fn is_fast_link(inode: &Inode) -> bool {
    inode.size() < 60 && !inode.has_flag(EXTENTS_FLAG) && !is_inline(inode)
}

/// Returns whether an inode of this kind has extents or a block map.
pub(super) fn has_tree(inode: &Inode, kind: FileKind) -> bool {
    match kind {
        _ if is_inline(inode) => false,
        FileKind::File | FileKind::Directory => true,
        FileKind::Symlink => !is_fast_link(inode),
        _ => false,
    }
}

/// Checks that no block is twice in a folder: a small disk could list the same names without end.
fn check_disjoint(folder: &Inode, extents: &[FileExtent]) -> Result<(), Error> {
    let mut runs: Vec<(u64, u32)> = extents.iter().map(|extent| (extent.physical, extent.len)).collect();
    runs.sort_unstable();
    let mut free = 0;
    for (start, len) in runs {
        if start < free {
            return Err(corrupt(format!("folder {}", folder.number), "it has each of its blocks once"));
        }
        free = start.saturating_add(u64::from(len));
    }
    Ok(())
}

/// The most bytes of memory that the names of a folder take when all are returned, and what each takes beside its bytes.
const MOST_NAMES: usize = 256 << 20;
const EACH_NAME: usize = 72;
/// The most blocks of a folder that are read.
const MAX_FOLDER_BLOCKS: u64 = 1 << 17;
