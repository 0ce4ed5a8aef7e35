//! Folders with an index.
//!
//! ```text
//! block 0   | . | .. to the end | reserved, hash, 8, levels, 0 | limit, count, block | hash, block | ... | checksum |
//! node      | record of the whole block | limit, count, block | hash, block | ...                       | checksum |
//! leaf      | record | record | ...                                                                     | tail     |
//! ```
//!
//! A name goes into the leaf of its hash. When that is full, the whole index is built anew, with leaves three quarters full.
//!
//! Spec: "Hash Tree Directories".

use super::Editor;
use super::contents::push_run;
use super::folder::Name;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::dirent::{put_record, record_len, records};
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::feature::LARGEDIR;
use crate::fs::ext4::hash::NameHash;
use crate::fs::ext4::inode::Inode;

/// The hash and the block of a leaf or node, as its parent lists it.
type Child = (u32, u32);

impl<D: BlockWrite> Editor<D> {
    /// Puts a name into a folder with an index. The inode is not saved.
    pub(super) fn insert_indexed(&mut self, folder: &mut Inode, name: &Name) -> Result<(), Error> {
        let blocks = self.volume.folder_blocks(folder)?;
        let root = self.indexed_block(folder, &blocks, 0)?;
        let (hash, levels) = self.index_of(folder, &root.1)?;
        let (wanted, _) = hash.hash(&name.bytes);
        let mut children = self.children(folder, &root.1, ROOT_ENTRIES)?;
        for _ in 0..levels {
            let (_, bytes) = self.indexed_block(folder, &blocks, choose(&children, wanted))?;
            children = self.children(folder, &bytes, NODE_ENTRIES)?;
        }
        let (number, leaf) = self.indexed_block(folder, &blocks, choose(&children, wanted))?;
        if number == root.0 {
            return Err(bad(folder, "the root is no leaf"));
        }
        match self.with_name(folder, &leaf, name)? {
            Some(bytes) => self.volume.store.write(number, bytes),
            None => self.rebuild(folder, &blocks, hash, name)?,
        }
        Ok(())
    }

    /// Builds the index anew with one more name.
    fn rebuild(&mut self, folder: &mut Inode, blocks: &[(u32, u64)], hash: NameHash, name: &Name) -> Result<(), Error> {
        let mut names = vec![(hash.hash(&name.bytes), name.clone())];
        for (_, block) in blocks {
            let bytes = self.volume.store.block(*block)?;
            for record in records(&bytes, folder.number)? {
                if record.inode != 0 && record.name != b"." && record.name != b".." {
                    let name = Name { bytes: record.name.to_vec(), inode: record.inode, file_type: record.file_type };
                    names.push((hash.hash(record.name), name));
                }
            }
        }
        names.sort_by(|a, b| (a.0, &a.1.bytes).cmp(&(b.0, &b.1.bytes)));
        let leaves = self.leaves(&names);
        let root_limit = self.limit(ROOT_ENTRIES);
        let node_limit = self.limit(NODE_ENTRIES);
        let mut widths = Vec::new();
        let mut width = leaves.len();
        while width > root_limit {
            width = width.div_ceil(node_limit);
            widths.push(width);
        }
        let most = if self.volume.raw.has_incompat(LARGEDIR) { 2 } else { 1 };
        if widths.len() > most {
            return Err(self.unrepresentable("the folder's index has no room for another name"));
        }
        let levels = u8::try_from(widths.len()).unwrap_or(u8::MAX);
        let total = widths.iter().fold(leaves.len().saturating_add(1), |sum, width| sum.saturating_add(*width));
        let root = self.volume.store.block(blocks.first().map_or(0, |(_, block)| *block))?;
        let places = self.resize_folder(folder, total)?;
        let mut places = places.into_iter().zip(0_u32..);
        let root_place = places.next();
        let mut children = Vec::new();
        for (first, leaf) in &leaves {
            let Some((place, index)) = places.next() else { break };
            let bytes = self.packed(folder, leaf);
            self.volume.store.write(place, bytes);
            children.push((*first, index));
        }
        for _ in 0..levels {
            let mut above = Vec::new();
            for chunk in children.chunks(node_limit) {
                let Some((place, index)) = places.next() else { break };
                let bytes = self.encode_node(folder, chunk);
                self.volume.store.write(place, bytes);
                above.push((chunk.first().map_or(0, |(hash, _)| *hash), index));
            }
            children = above;
        }
        if let Some((place, _)) = root_place {
            let bytes = self.encode_root(folder, &root, levels, &children);
            self.volume.store.write(place, bytes);
        }
        Ok(())
    }

    /// Gives a folder exactly `total` blocks and returns them in order.
    fn resize_folder(&mut self, folder: &mut Inode, total: usize) -> Result<Vec<u64>, Error> {
        let tree = self.volume.tree(folder)?;
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        let mut kept = Vec::new();
        let mut have = 0_u64;
        for extent in &tree.extents {
            let keep = u32::try_from(total.saturating_sub(have)).unwrap_or(u32::MAX).min(extent.len);
            if keep > 0 {
                push_run(&mut kept, have, extent.physical, keep);
            }
            if keep < extent.len {
                let rest = extent.physical.saturating_add(u64::from(keep));
                self.free((rest, extent.len.saturating_sub(keep)))?;
            }
            have = have.saturating_add(u64::from(keep));
        }
        let group = self.group_of(folder);
        for (start, len) in self.allocate(group, total.saturating_sub(have))? {
            push_run(&mut kept, have, start, len);
            have = have.saturating_add(u64::from(len));
        }
        self.store_tree(folder, &kept, group, &tree.nodes)?;
        folder.set_size(total.saturating_mul(u64::from(self.volume.layout().block_size)));
        let run = |extent: &crate::fs::ext4::extent::FileExtent| {
            extent.physical..extent.physical.saturating_add(u64::from(extent.len))
        };
        Ok(kept.iter().flat_map(run).collect())
    }
}

impl<D: BlockRead> Editor<D> {
    /// Returns the number and the bytes of the block of a folder at `index`.
    fn indexed_block(&self, folder: &Inode, blocks: &[(u32, u64)], index: u32) -> Result<(u64, std::sync::Arc<[u8]>), Error> {
        let at = blocks.binary_search_by_key(&index, |(logical, _)| *logical);
        let block = at.ok().and_then(|at| blocks.get(at)).map(|(_, block)| *block);
        let block = block.ok_or_else(|| bad(folder, "a block of the index exists"))?;
        Ok((block, self.volume.store.block(block)?))
    }

    /// Returns the hash and the number of levels below the root.
    fn index_of(&self, folder: &Inode, root: &[u8]) -> Result<(NameHash, u8), Error> {
        let info = root.get(ROOT_INFO..ROOT_ENTRIES).unwrap_or_default();
        let &[_, _, _, _, version, 8, levels, _] = info else {
            return Err(bad(folder, "the root has 8 bytes of information"));
        };
        if levels > 2 {
            return Err(bad(folder, "it has at most 3 levels"));
        }
        let layout = self.volume.layout();
        Ok((NameHash::new(version, layout.unsigned_hash, layout.hash_seed)?, levels))
    }

    /// Returns the children that a root or node lists, its table beginning at `at`.
    fn children(&self, folder: &Inode, block: &[u8], at: usize) -> Result<Vec<Child>, Error> {
        let table = block.get(at..).unwrap_or_default();
        let word = |from: usize| table.get(from..).and_then(|rest| rest.first_chunk::<4>()).copied();
        let (limit, count) = word(0)
            .map_or((0, 0), |[a, b, c, d]| (usize::from(u16::from_le_bytes([a, b])), usize::from(u16::from_le_bytes([c, d]))));
        // Spec: "The limit and count entries in the dx_root/dx_node structures are adjusted as necessary to fit the dx_tail"
        if count == 0 || count > limit || limit != self.limit(at) {
            return Err(bad(folder, "a node has at least one entry, and no more than fit"));
        }
        let used = count.saturating_mul(ENTRY);
        if self.volume.layout().has_metadata_csum() {
            let stored = word(limit.saturating_mul(ENTRY).saturating_add(4));
            if stored
                != Some(
                    self.checksum(folder, block, at.saturating_add(used), limit.saturating_mul(ENTRY).saturating_add(at))
                        .to_le_bytes(),
                )
            {
                return Err(bad(folder, "the checksum of a node matches its bytes"));
            }
        }
        let entries = table.get(..used).unwrap_or_default().chunks_exact(ENTRY).enumerate();
        Ok(entries
            .map(|(at, entry)| {
                let half =
                    |from: usize| entry.get(from..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
                let hash = if at == 0 { 0 } else { u32::from_le_bytes(half(0)) };
                (hash, u32::from_le_bytes(half(4)) & 0x0FFF_FFFF)
            })
            .collect())
    }

    /// Returns how many entries, the first included, a table at `at` of a block has room for.
    fn limit(&self, at: usize) -> usize {
        let layout = self.volume.layout();
        let entries = layout.block_bytes().saturating_sub(at).checked_div(ENTRY).unwrap_or_default();
        entries.saturating_sub(usize::from(layout.has_metadata_csum()))
    }

    /// Returns sorted names as leaves, three quarters full, with the hashes under which the index lists them.
    fn leaves(&self, names: &[((u32, u32), Name)]) -> Vec<(u32, Vec<Name>)> {
        let full = self.records_end().saturating_mul(3) / 4;
        let mut leaves: Vec<(u32, Vec<Name>)> = Vec::new();
        let (mut used, mut last) = (usize::MAX, 0);
        for ((hash, _), name) in names {
            let needed = record_len(name.bytes.len());
            if used.saturating_add(needed) > full {
                // The lowest bit says that names of this hash are in the leaf before as well.
                let continued = !leaves.is_empty() && last == *hash;
                leaves.push((hash | u32::from(continued), Vec::new()));
                used = 0;
            }
            if let Some((_, leaf)) = leaves.last_mut() {
                leaf.push(name.clone());
            }
            used = used.saturating_add(needed);
            last = *hash;
        }
        leaves
    }

    fn encode_root(&self, folder: &Inode, old: &[u8], levels: u8, children: &[Child]) -> Vec<u8> {
        let mut bytes = vec![0; self.volume.layout().block_bytes()];
        if let (Some(to), Some(from)) = (bytes.get_mut(..ROOT_ENTRIES), old.get(..ROOT_ENTRIES)) {
            to.copy_from_slice(from);
        }
        if let Some(place) = bytes.get_mut(ROOT_INFO.saturating_add(6)) {
            *place = levels;
        }
        self.put_children(folder, &mut bytes, ROOT_ENTRIES, children);
        bytes
    }

    fn encode_node(&self, folder: &Inode, children: &[Child]) -> Vec<u8> {
        let mut bytes = vec![0; self.volume.layout().block_bytes()];
        let len = bytes.len();
        put_record(&mut bytes, 0, len, 0, b"", 0);
        self.put_children(folder, &mut bytes, NODE_ENTRIES, children);
        bytes
    }

    fn put_children(&self, folder: &Inode, block: &mut [u8], at: usize, children: &[Child]) {
        let limit = self.limit(at);
        let short = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
        let mut put = |from: usize, bytes: &[u8]| {
            if let Some(place) = block.get_mut(from..).and_then(|rest| rest.get_mut(..bytes.len())) {
                place.copy_from_slice(bytes);
            }
        };
        for (index, (hash, child)) in children.iter().enumerate() {
            let place = index.saturating_mul(ENTRY).saturating_add(at);
            put(place, &hash.to_le_bytes());
            put(place.saturating_add(4), &child.to_le_bytes());
        }
        put(at, &short(limit));
        put(at.saturating_add(2), &short(children.len()));
        if self.volume.layout().has_metadata_csum() {
            let used = children.len().saturating_mul(ENTRY).saturating_add(at);
            let tail = limit.saturating_mul(ENTRY).saturating_add(at);
            let sum = self.checksum(folder, block, used, tail).to_le_bytes();
            let tail = tail.saturating_add(4);
            if let Some(place) = block.get_mut(tail..).and_then(|rest| rest.get_mut(..4)) {
                place.copy_from_slice(&sum);
            }
        }
    }

    /// Spec: "The checksum is calculated against the FS UUID, the htree index header (dx_root or dx_node), all of the htree indices
    /// (dx_entry) that are in use, and the tail block (dx_tail)."
    fn checksum(&self, folder: &Inode, block: &[u8], used: usize, tail: usize) -> u32 {
        let start = crc32c(folder.checksum_seed(self.volume.layout()), block.get(..used).unwrap_or_default());
        // The reserved word before the checksum is said to be zero, but Linux leaves old entries there.
        let reserved = block.get(tail..).and_then(|rest| rest.get(..4)).unwrap_or_default();
        crc32c(crc32c(start, reserved), &[0; 4])
    }
}

fn bad(folder: &Inode, rule: &str) -> Error {
    corrupt(format!("index of folder {}", folder.number), rule)
}

/// Returns the child for a hash: the last one that begins at or before it.
fn choose(children: &[Child], wanted: u32) -> u32 {
    let behind = children.partition_point(|(hash, _)| *hash <= wanted);
    children.get(behind.saturating_sub(1)).map_or(0, |(_, block)| *block)
}

const ROOT_INFO: usize = 0x18;
/// Where the table of the root begins.
const ROOT_ENTRIES: usize = 0x20;
/// Where the table of a node begins.
const NODE_ENTRIES: usize = 8;
const ENTRY: usize = 8;
