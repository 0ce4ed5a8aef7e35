//! Folders with an index.
//!
//! ```text
//! block 0   | . | .. to the end | reserved, hash, 8, levels, 0 | limit, count, block | hash, block | ... | checksum |
//! node      | record of the whole block | limit, count, block | hash, block | ...                       | checksum |
//! leaf      | record | record | ...                                                                     | tail     |
//! ```
//!
//! A name goes into the leaf of its hash. A full leaf is split; when the node above has no room for another leaf, the whole index is
//! built anew, with leaves and nodes three quarters full. A folder gets an index when it outgrows its first block.
//!
//! Spec: "Hash Tree Directories".

use std::ops::RangeInclusive;

use super::Editor;
use super::folder::Name;
use crate::block::{BlockRead, BlockWrite};
use crate::fs::Error;
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::dirent::{TYPE_DIRECTORY, put_record, record_len, records, set_record_inode, set_record_len};
use crate::fs::ext4::error::corrupt;
use crate::fs::ext4::extent::FileExtent;
use crate::fs::ext4::feature::{DIR_INDEX, LARGEDIR};
use crate::fs::ext4::hash::NameHash;
use crate::fs::ext4::inode::{INDEX_FLAG, Inode};

/// The hash and the block of a leaf or node, as its parent lists it.
type Child = (u32, u32);

/// How a folder's index is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexHash {
    hash: NameHash,
    /// As the root stores it.
    version: u8,
}

/// A node of an index on the way to a name, or the root.
struct Step {
    block: u64,
    bytes: std::sync::Arc<[u8]>,
    /// Where its table begins.
    at: usize,
    children: Vec<Child>,
    /// Which of the children the name is under.
    position: usize,
}

/// A name with its hash, and the second hash that orders equal ones.
type Hashed = ((u32, u32), Name);

impl<D: BlockWrite> Editor<D> {
    /// Puts a name into a folder with an index. The inode is not saved.
    pub(super) fn insert_indexed(&mut self, folder: &mut Inode, name: &Name) -> Result<(), Error> {
        self.volume.knows(folder, true)?;
        let (root, bytes) = self.indexed_block(folder, 0)?;
        let (index, levels) = self.index_of(folder, &bytes)?;
        let (wanted, _) = index.hash.hash(&name.bytes);
        let mut step = self.step_to(folder, (root, bytes), ROOT_ENTRIES, wanted)?;
        let mut range = step.range(0..=u32::MAX);
        for _ in 0..levels {
            let node = self.indexed_block(folder, step.child())?;
            step = self.step_to(folder, node, NODE_ENTRIES, wanted)?;
            range = step.range(range);
        }
        let (number, leaf) = self.indexed_block(folder, step.child())?;
        if number == root {
            return Err(bad(folder, "the root is no leaf"));
        }
        if self.ordered.insert(number) {
            let mut names = Vec::new();
            collect(folder, &leaf, index.hash, &mut names)?;
            if names.iter().any(|((hash, _), _)| !range.contains(hash)) {
                return Err(bad(folder, "the hashes of a leaf's names are those that it is listed with"));
            }
        }
        if let Some((bytes, _)) = self.with_name(folder, &leaf, name)? {
            self.volume.store.write(number, bytes);
            self.volume.folders.with(folder.number, |names| names.add(&name.bytes, number));
            return Ok(());
        }
        if self.split_leaf(folder, &step, (number, &leaf), index.hash, name)? {
            return Ok(());
        }
        self.rebuild(folder, index, name)
    }

    /// Gives a folder of one block an index, and one more name.
    pub(super) fn make_index(&mut self, folder: &mut Inode, index: IndexHash, name: &Name) -> Result<(), Error> {
        self.rebuild(folder, index, name)?;
        folder.set_flag(INDEX_FLAG, true);
        Ok(())
    }

    /// Returns how a new index hashes names, or `None` when new folders have none.
    pub(super) fn new_index_hash(&self) -> Result<Option<IndexHash>, Error> {
        let version = self.volume.raw.s_def_hash_version;
        if !self.volume.raw.has_compat(DIR_INDEX) || version > LAST_HASH {
            return Ok(None);
        }
        let layout = self.volume.layout();
        Ok(Some(IndexHash { hash: NameHash::new(version, layout.unsigned_hash, layout.hash_seed)?, version }))
    }

    /// Moves the second half of a full leaf's names, with `name` among them, to a new one behind it; returns `false` when the node
    /// above has no room for another leaf.
    fn split_leaf(
        &mut self,
        folder: &mut Inode,
        above: &Step,
        leaf: (u64, &[u8]),
        hash: NameHash,
        name: &Name,
    ) -> Result<bool, Error> {
        let mut names = vec![(hash.hash(&name.bytes), name.clone())];
        collect(folder, leaf.1, hash, &mut names)?;
        sort(&mut names);
        let size = |names: &[Hashed]| names.iter().map(|(_, name)| record_len(name.bytes.len())).sum::<usize>();
        let half = size(&names) / 2;
        let mut used = 0_usize;
        let first = names.iter().take_while(|(_, name)| {
            used = used.saturating_add(record_len(name.bytes.len()));
            used <= half
        });
        let at = first.count().max(1);
        let (before, behind) = names.split_at(at.min(names.len()));
        let (Some(last), Some(first)) = (before.last(), behind.first()) else { return Ok(false) };
        let fits = size(before).max(size(behind)) <= self.records_end();
        if !fits || above.children.len() >= self.limit(above.at) {
            return Ok(false);
        }
        // The lowest bit says that names of this hash are in the leaf before as well.
        let start = first.0.0 | u32::from(last.0.0 == first.0.0);
        let plain = |names: &[Hashed]| names.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
        let (before, behind) = (plain(before), plain(behind));
        let (index, block) = self.append_block(folder)?;
        let bytes = self.packed(folder, &before);
        self.volume.store.write(leaf.0, bytes);
        let bytes = self.packed(folder, &behind);
        self.volume.store.write(block, bytes);
        let mut children = above.children.clone();
        children.insert(above.position.saturating_add(1).min(children.len()), (start, index));
        let mut bytes = above.bytes.to_vec();
        self.put_children(folder, &mut bytes, above.at, &children);
        self.volume.store.write(above.block, bytes);
        self.volume.folders.with(folder.number, |names| {
            names.push_block(index, block, 0);
            before.iter().for_each(|name| names.set(&name.bytes, leaf.0));
            behind.iter().for_each(|name| names.set(&name.bytes, block));
        });
        Ok(true)
    }

    /// Builds the index anew with one more name.
    fn rebuild(&mut self, folder: &mut Inode, index: IndexHash, name: &Name) -> Result<(), Error> {
        let mut names = vec![(index.hash.hash(&name.bytes), name.clone())];
        let blocks = self.volume.folder_blocks(folder)?;
        for (_, block) in &blocks {
            collect(folder, &self.volume.store.block(*block)?, index.hash, &mut names)?;
        }
        sort(&mut names);
        let first = self.volume.store.block(blocks.first().map_or(0, |(_, block)| *block))?;
        let parent = records(&first, folder.number)?.iter().find(|record| record.name == b"..").map(|record| record.inode);
        let parent = parent.ok_or_else(|| bad(folder, "the first block has the folder above"))?;
        let shape =
            self.shape(&names).ok_or_else(|| self.unrepresentable("the folder's index has no room for another name"))?;
        let levels = u8::try_from(shape.widths.len()).unwrap_or(u8::MAX);
        let total = shape.widths.iter().fold(shape.leaves.len().saturating_add(1), |sum, width| sum.saturating_add(*width));
        let places = self.resize_folder(folder, total)?;
        let mut places = places.into_iter().zip(0_u32..);
        let root_place = places.next();
        let mut children = Vec::new();
        for (first, leaf) in &shape.leaves {
            let Some((place, index)) = places.next() else { break };
            let bytes = self.packed(folder, leaf);
            self.volume.store.write(place, bytes);
            children.push((*first, index));
        }
        for _ in 0..levels {
            let mut above = Vec::new();
            for chunk in children.chunks(shape.in_node) {
                let Some((place, index)) = places.next() else { break };
                let bytes = self.encode_node(folder, chunk);
                self.volume.store.write(place, bytes);
                above.push((chunk.first().map_or(0, |(hash, _)| *hash), index));
            }
            children = above;
        }
        if let Some((place, _)) = root_place {
            let bytes = self.encode_root(folder, parent, (index.version, levels), &children);
            self.volume.store.write(place, bytes);
        }
        self.volume.folders.forget(folder.number);
        Ok(())
    }

    /// Gives a folder exactly `total` blocks and returns them in order.
    fn resize_folder(&mut self, folder: &mut Inode, total: usize) -> Result<Vec<u64>, Error> {
        let tree = self.owned_tree(folder)?;
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        // Only what can be written where it is, and leaves no hole before what is added, stays.
        let mut end = 0;
        let is_whole = tree.extents.iter().all(|extent| {
            let follows = u64::from(extent.logical) == end && !extent.unwritten;
            end = extent.logical_end();
            follows
        });
        let mut kept = self.cut(&tree.extents, if is_whole { total } else { 0 })?;
        let have = kept.last().map_or(0, FileExtent::logical_end);
        let group = self.group_of(folder);
        self.extend(&mut kept, have, total.saturating_sub(have), group)?;
        self.store_tree(folder, &kept, group, &tree.nodes)?;
        folder.set_size(total.saturating_mul(u64::from(self.volume.layout().block_size)));
        let run = |extent: &FileExtent| extent.physical..extent.physical.saturating_add(u64::from(extent.len));
        Ok(kept.iter().flat_map(run).collect())
    }
}

impl<D: BlockRead> Editor<D> {
    /// Returns the number and the bytes of the block of a folder at `index`.
    fn indexed_block(&self, folder: &Inode, index: u32) -> Result<(u64, std::sync::Arc<[u8]>), Error> {
        let block = match self.volume.folders.with(folder.number, |names| names.block_at(index)) {
            Some(block) => block,
            None => {
                self.volume.folder_blocks(folder)?.into_iter().find(|(logical, _)| *logical == index).map(|(_, block)| block)
            }
        };
        let block = block.ok_or_else(|| bad(folder, "a block of the index exists"))?;
        Ok((block, self.volume.store.block(block)?))
    }

    /// Returns a node or the root, its table beginning at `at`, and which of its children has the hash `wanted`.
    fn step_to(&self, folder: &Inode, node: (u64, std::sync::Arc<[u8]>), at: usize, wanted: u32) -> Result<Step, Error> {
        let (block, bytes) = node;
        let children = self.children(folder, &bytes, at)?;
        let position = children.partition_point(|(hash, _)| *hash <= wanted).saturating_sub(1);
        Ok(Step { block, bytes, at, children, position })
    }

    /// Returns the hash and the number of levels below the root.
    fn index_of(&self, folder: &Inode, root: &[u8]) -> Result<(IndexHash, u8), Error> {
        let info = root.get(ROOT_INFO..ROOT_ENTRIES).unwrap_or_default();
        let &[_, _, _, _, version, 8, levels, _] = info else {
            return Err(bad(folder, "the root has 8 bytes of information"));
        };
        if levels > 2 {
            return Err(bad(folder, "it has at most 3 levels"));
        }
        let layout = self.volume.layout();
        let hash = NameHash::new(version, layout.unsigned_hash, layout.hash_seed)?;
        Ok((IndexHash { hash, version }, levels))
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
        let children: Vec<Child> = entries
            .map(|(at, entry)| {
                let half =
                    |from: usize| entry.get(from..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
                let hash = if at == 0 { 0 } else { u32::from_le_bytes(half(0)) };
                (hash, u32::from_le_bytes(half(4)) & 0x0FFF_FFFF)
            })
            .collect();
        if !children.is_sorted_by_key(|(hash, _)| *hash) {
            return Err(bad(folder, "the hashes of a node ascend"));
        }
        Ok(children)
    }

    /// Returns how many entries, the first included, a table at `at` of a block has room for.
    fn limit(&self, at: usize) -> usize {
        let layout = self.volume.layout();
        let entries = layout.block_bytes().saturating_sub(at).checked_div(ENTRY).unwrap_or_default();
        entries.saturating_sub(usize::from(layout.has_metadata_csum()))
    }

    /// Returns the shape of an index of sorted names: leaves and nodes three quarters full where that is not too much, else full.
    fn shape(&self, names: &[Hashed]) -> Option<Shape> {
        let most = if self.volume.raw.has_incompat(LARGEDIR) { 2 } else { 1 };
        let (root_limit, node_limit) = (self.limit(ROOT_ENTRIES), self.limit(NODE_ENTRIES));
        [3, 4].into_iter().find_map(|quarters| {
            let leaves = self.leaves(names, self.records_end().saturating_mul(quarters) / 4);
            let in_node = node_limit.saturating_mul(quarters) / 4;
            let mut widths = Vec::new();
            let mut width = leaves.len();
            while width > root_limit {
                width = width.div_ceil(in_node);
                widths.push(width);
            }
            (widths.len() <= most).then_some(Shape { leaves, in_node, widths })
        })
    }

    /// Returns sorted names as leaves of `full` bytes, with the hashes under which the index lists them.
    fn leaves(&self, names: &[Hashed], full: usize) -> Vec<(u32, Vec<Name>)> {
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

    /// Spec: "Hash Tree Directories", `struct dx_root`.
    fn encode_root(&self, folder: &Inode, parent: u32, (version, levels): (u8, u8), children: &[Child]) -> Vec<u8> {
        let entry = |inode, name: &[u8]| Name { bytes: name.to_vec(), inode, file_type: TYPE_DIRECTORY };
        let mut bytes = self.packed(folder, &[entry(folder.number, b"."), entry(parent, b"..")]);
        // The record of the folder above hides the index, to the end of the block.
        let above = record_len(1);
        let to_end = bytes.len().saturating_sub(above);
        set_record_len(&mut bytes, above, to_end);
        if let Some(behind) = bytes.get_mut(ROOT_INFO..) {
            behind.fill(0);
            if let Some(info) = behind.get_mut(4..7) {
                info.copy_from_slice(&[version, ROOT_INFO_LEN, levels]);
            }
        }
        self.put_children(folder, &mut bytes, ROOT_ENTRIES, children);
        bytes
    }

    /// Returns a root with `parent` as the folder above.
    pub(super) fn root_below(&self, folder: &Inode, root: &[u8], parent: u32) -> Result<Vec<u8>, Error> {
        let children = self.children(folder, root, ROOT_ENTRIES)?;
        let mut bytes = root.to_vec();
        set_record_inode(&mut bytes, record_len(1), parent);
        self.put_children(folder, &mut bytes, ROOT_ENTRIES, &children);
        Ok(bytes)
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

/// Adds the names of a block of a folder, but those of the folder itself and the one above.
fn collect(folder: &Inode, block: &[u8], hash: NameHash, names: &mut Vec<Hashed>) -> Result<(), Error> {
    for record in records(block, folder.number)? {
        if record.inode != 0 && record.name != b"." && record.name != b".." {
            let name = Name { bytes: record.name.to_vec(), inode: record.inode, file_type: record.file_type };
            names.push((hash.hash(record.name), name));
        }
    }
    Ok(())
}

fn sort(names: &mut [Hashed]) {
    names.sort_by(|a, b| (a.0, &a.1.bytes).cmp(&(b.0, &b.1.bytes)));
}

impl Step {
    /// Returns the index of the block that the name is under.
    fn child(&self) -> u32 {
        self.children.get(self.position).map_or(0, |(_, block)| *block)
    }

    /// Returns the hashes that names below that block have, of those in `above`. Names of the last one may go on behind it, where
    /// the lowest bit of the next hash says so.
    fn range(&self, above: RangeInclusive<u32>) -> RangeInclusive<u32> {
        let first = self.children.get(self.position).map_or(0, |(hash, _)| hash & !1);
        let behind = self.children.get(self.position.saturating_add(1)).map_or(u32::MAX, |(hash, _)| hash.saturating_sub(1));
        first.max(*above.start())..=behind.min(*above.end())
    }
}

/// An index to be written.
struct Shape {
    leaves: Vec<(u32, Vec<Name>)>,
    /// Children of a node.
    in_node: usize,
    /// How many nodes each level has, from the leaves up.
    widths: Vec<usize>,
}

const ROOT_INFO_LEN: u8 = 8;
/// The last of the hashes that a superblock may name: tea, unsigned.
const LAST_HASH: u8 = 5;
const ROOT_INFO: usize = 0x18;
/// Where the table of the root begins.
const ROOT_ENTRIES: usize = 0x20;
/// Where the table of a node begins.
const NODE_ENTRIES: usize = 8;
const ENTRY: usize = 8;
