use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::crc32c;
use super::cluster::broken_rule;
use super::error::{corrupt, refused};
use super::inode::Inode;
use super::store::Store;
use super::superblock::{halves, halves16, join};
use crate::block::BlockRead;
use crate::fs::Error;

/// The head of every node of an extent tree.
///
/// ```text
/// inode   | header | entry | entry | entry | entry |
/// block   | header | entry | ... eh_max of them ... | checksum | unused |
/// ```
///
/// Spec: "Extent Tree", `struct ext4_extent_header`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtentHeader {
    eh_magic: U16,
    eh_entries: U16,
    eh_max: U16,
    eh_depth: U16,
    eh_generation: U32,
}

/// Spec: "Extent Tree", `struct ext4_extent_idx`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtentIndex {
    ei_block: U32,
    ei_leaf_lo: U32,
    ei_leaf_hi: U16,
    ei_unused: U16,
}

/// Spec: "Extent Tree", `struct ext4_extent`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtent {
    ee_block: U32,
    ee_len: U16,
    ee_start_hi: U16,
    ee_start_lo: U32,
}

// Sizes as printed in the specification.
const _: () = {
    assert!(size_of::<RawExtentHeader>() == NODE_HEADER);
    assert!(size_of::<RawExtentIndex>() == NODE_ENTRY);
    assert!(size_of::<RawExtent>() == NODE_ENTRY);
};

/// A run of a file's blocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct FileExtent {
    /// Index of the first block in the file.
    pub(super) logical: u32,
    /// Number of the first block on the disk.
    pub(super) physical: u64,
    /// Blocks, at least 1.
    pub(super) len: u32,
    /// Set aside, and reads as zeros.
    pub(super) unwritten: bool,
}

impl FileExtent {
    pub(super) fn logical_end(&self) -> u64 {
        u64::from(self.logical).saturating_add(u64::from(self.len))
    }
}

/// All extents of a file, and the blocks of the tree that lists them.
#[derive(Clone, Debug, Default)]
pub(super) struct ExtentTree {
    /// By ascending logical block, disjoint.
    pub(super) extents: Vec<FileExtent>,
    /// Blocks of the tree outside of the inode.
    pub(super) nodes: Vec<u64>,
}

/// Reads the extent tree of `inode`, which has one.
///
/// The tree may be anything: its depth falls by one at each level, every entry stays inside the range that its parent gives it,
/// and ranges ascend, so no node is visited twice.
pub(super) fn read_tree<D: BlockRead>(store: &Store<D>, inode: &Inode) -> Result<ExtentTree, Error> {
    let mut tree = ExtentTree::default();
    let seed = inode.checksum_seed(store.layout());
    let reader = TreeReader { store, inode: inode.number, seed };
    reader.node(&inode.raw.i_block, None, (0, 1 << 32), &mut tree)?;
    Ok(tree)
}

struct TreeReader<'a, D> {
    store: &'a Store<D>,
    inode: u32,
    seed: u32,
}

impl<D: BlockRead> TreeReader<'_, D> {
    fn bad(&self, rule: &str) -> Error {
        corrupt(format!("extent tree of inode {}", self.inode), rule)
    }

    /// Reads a node whose entries lie in the logical `range`, start and end.
    fn node(&self, bytes: &[u8], depth: Option<u16>, range: (u64, u64), tree: &mut ExtentTree) -> Result<(), Error> {
        let (header, entries) = RawExtentHeader::read_from_prefix(bytes).map_err(|_| self.bad("a node has a header"))?;
        let level = header.eh_depth.get();
        let capacity = entries.len().checked_div(NODE_ENTRY).unwrap_or_default();
        // Spec: "eh_magic: Magic number, 0xF30A", "eh_depth: … at most 5"
        if header.eh_magic.get() != NODE_MAGIC || level > MAX_DEPTH || depth.is_some_and(|expected| expected != level) {
            return Err(self.bad("a node has the magic 0xF30A and the depth of its place, at most 5"));
        }
        let count = usize::from(header.eh_entries.get());
        if count > usize::from(header.eh_max.get()) || usize::from(header.eh_max.get()) > capacity {
            return Err(self.bad("a node has no more entries than fit"));
        }
        if count == 0 && depth.is_some() {
            return Err(self.bad("only the root may be empty"));
        }
        let entries = entries.chunks_exact(NODE_ENTRY).take(count);
        if level == 0 {
            return self.leaf(entries, range, tree);
        }
        let children = entries.map(|bytes| {
            let raw = RawExtentIndex::read_from_bytes(bytes).map_err(|_| self.bad("an index has 12 bytes"))?;
            Ok((u64::from(raw.ei_block.get()), join(raw.ei_leaf_lo.get(), u32::from(raw.ei_leaf_hi.get()))))
        });
        let children = children.collect::<Result<Vec<_>, Error>>()?;
        let ends = children.iter().skip(1).map(|(start, _)| *start).chain([range.1]);
        let mut floor = range.0;
        for ((start, block), end) in children.iter().zip(ends) {
            if *start < floor || end <= *start || end > range.1 {
                return Err(self.bad("the entries of a node ascend inside its range"));
            }
            floor = end;
            if tree.nodes.len() >= MAX_NODES || tree.extents.len() >= MAX_PIECES {
                return Err(refused(format!("scatters inode {} over too many pieces", self.inode)));
            }
            tree.nodes.push(*block);
            let child = self.store.block(*block)?;
            self.check(&child)?;
            self.node(&child, level.checked_sub(1), (*start, end), tree)?;
        }
        Ok(())
    }

    fn leaf<'b>(&self, entries: impl Iterator<Item = &'b [u8]>, range: (u64, u64), tree: &mut ExtentTree) -> Result<(), Error> {
        let mut floor = range.0;
        for bytes in entries {
            let raw = RawExtent::read_from_bytes(bytes).map_err(|_| self.bad("an extent has 12 bytes"))?;
            let stored = raw.ee_len.get();
            // Spec: "If the value of this field is <= 32768, the extent is initialized. If the value of the field is > 32768,
            // the extent is uninitialized and the actual extent length is ee_len - 32768."
            let unwritten = stored > MAX_LEN;
            let len = u32::from(if unwritten { stored.wrapping_sub(MAX_LEN) } else { stored });
            let physical = join(raw.ee_start_lo.get(), u32::from(raw.ee_start_hi.get()));
            let extent = FileExtent { logical: raw.ee_block.get(), physical, len, unwritten };
            let layout = self.store.layout();
            let end = physical.saturating_add(u64::from(len));
            if len == 0 || physical <= u64::from(layout.first_data_block) || end > layout.blocks_count {
                return Err(self.bad("an extent lies inside the file system"));
            }
            if u64::from(extent.logical) < floor || extent.logical_end() > range.1 {
                return Err(self.bad("extents ascend inside the range of their node"));
            }
            if let Some(rule) = broken_rule(tree.extents.last(), &extent, layout.cluster_blocks) {
                return Err(self.bad(rule));
            }
            floor = extent.logical_end();
            tree.extents.push(extent);
        }
        Ok(())
    }

    fn check(&self, node: &[u8]) -> Result<(), Error> {
        if !self.store.layout().has_metadata_csum() {
            return Ok(());
        }
        let max = RawExtentHeader::read_from_prefix(node).map_or(0, |(header, _)| usize::from(header.eh_max.get()));
        let at = max.saturating_mul(NODE_ENTRY).saturating_add(NODE_HEADER);
        let stored = node.get(at..at.saturating_add(4));
        let sum = crc32c(self.seed, node.get(..at).unwrap_or_default()).to_le_bytes();
        if stored == Some(sum.as_slice()) { Ok(()) } else { Err(self.bad("the checksum of a node matches its bytes")) }
    }
}

/// Returns how many blocks, beside the inode, the tree of `extents` extents takes.
pub(super) fn nodes_needed(extents: usize, block_size: usize) -> usize {
    let mut total = 0_usize;
    let mut entries = extents;
    while entries > INLINE_ENTRIES {
        entries = entries.div_ceil(node_capacity(block_size));
        total = total.saturating_add(entries);
    }
    total
}

/// The bytes of a new tree: what goes into the inode, and what goes into the blocks that were given.
pub(super) struct EncodedTree {
    pub(super) root: [u8; 60],
    pub(super) nodes: Vec<(u64, Vec<u8>)>,
}

/// Builds the tree of `extents`, which ascend, bottom up, into `blocks`, of which there are [`nodes_needed`].
pub(super) fn encode_tree(
    extents: &[FileExtent],
    blocks: &[u64],
    block_size: usize,
    checksum_seed: Option<u32>,
) -> EncodedTree {
    let mut entries: Vec<(u32, [u8; 12])> = extents.iter().map(|extent| (extent.logical, encode_extent(extent))).collect();
    let mut nodes = Vec::new();
    let mut free = blocks.iter();
    let mut depth = 0;
    let capacity = node_capacity(block_size);
    while entries.len() > INLINE_ENTRIES {
        let mut above = Vec::new();
        for (chunk, block) in entries.chunks(capacity).zip(free.by_ref()) {
            let mut bytes = encode_node(chunk, depth, capacity);
            if let Some(seed) = checksum_seed {
                let sum = crc32c(seed, &bytes);
                bytes.extend_from_slice(&sum.to_le_bytes());
            }
            bytes.resize(block_size, 0);
            nodes.push((*block, bytes));
            let first = chunk.first().map_or(0, |(logical, _)| *logical);
            above.push((first, encode_index(first, *block)));
        }
        entries = above;
        depth = u16::saturating_add(depth, 1);
    }
    let mut root = [0; 60];
    root.copy_from_slice(&encode_node(&entries, depth, INLINE_ENTRIES));
    EncodedTree { root, nodes }
}

fn encode_extent(extent: &FileExtent) -> [u8; 12] {
    let len = u16::try_from(extent.len).unwrap_or(MAX_LEN);
    let (low, high) = halves(extent.physical);
    let raw = RawExtent {
        ee_block: U32::new(extent.logical),
        ee_len: U16::new(if extent.unwritten { len.saturating_add(MAX_LEN) } else { len }),
        ee_start_hi: U16::new(halves16(high).0),
        ee_start_lo: U32::new(low),
    };
    zerocopy::transmute!(raw)
}

fn encode_index(logical: u32, block: u64) -> [u8; 12] {
    let (low, high) = halves(block);
    let raw = RawExtentIndex {
        ei_block: U32::new(logical),
        ei_leaf_lo: U32::new(low),
        ei_leaf_hi: U16::new(halves16(high).0),
        ei_unused: U16::ZERO,
    };
    zerocopy::transmute!(raw)
}

/// Returns a node up to where its checksum goes.
fn encode_node(entries: &[(u32, [u8; 12])], depth: u16, capacity: usize) -> Vec<u8> {
    let header = RawExtentHeader {
        eh_magic: U16::new(NODE_MAGIC),
        eh_entries: U16::new(u16::try_from(entries.len()).unwrap_or(u16::MAX)),
        eh_max: U16::new(u16::try_from(capacity).unwrap_or(u16::MAX)),
        eh_depth: U16::new(depth),
        eh_generation: U32::ZERO,
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(entries.iter().flat_map(|(_, entry)| entry));
    bytes.resize(capacity.saturating_mul(NODE_ENTRY).saturating_add(NODE_HEADER), 0);
    bytes
}

fn node_capacity(block_size: usize) -> usize {
    block_size.saturating_sub(NODE_HEADER).checked_div(NODE_ENTRY).unwrap_or(1).max(1)
}

const NODE_MAGIC: u16 = 0xF30A;
const NODE_HEADER: usize = 12;
const NODE_ENTRY: usize = 12;
const MAX_DEPTH: u16 = 5;
/// The most blocks of an extent: more means "unwritten".
pub(super) const MAX_LEN: u16 = 32768;
const INLINE_ENTRIES: usize = 4;
/// The most blocks of a tree that are read.
pub(super) const MAX_NODES: usize = 1 << 17;
/// The most pieces of a file.
pub(super) const MAX_PIECES: usize = 1 << 22;
