//! Where the structures of a sound ext4 file system are, and their checksums, so that damage to one gets past them.
//!
//! It is a plain second reading of the format, of a file system that mke2fs or debugfs wrote; it indexes as it likes.

/// A structure, and what its checksum starts from.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// Where it begins, in bytes.
    pub at: usize,
    /// Bytes that it has.
    pub len: usize,
    seed: u32,
}

/// What a structure is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The primary superblock.
    Superblock,
    /// The descriptor of a group, by its number.
    Descriptor(u32),
    /// A group's bitmap of blocks, and where the group's descriptor is.
    BlockBitmap(usize),
    /// A group's bitmap of inodes, and where the group's descriptor is.
    InodeBitmap(usize),
    /// An inode that is in use.
    Inode,
    /// A block of an extent tree.
    ExtentNode,
    /// A block of block numbers.
    Numbers,
    /// A block of names.
    Leaf,
    /// A node of an index, its table beginning here.
    Index(usize),
    /// A block of extended attributes, by its number.
    Xattrs(u64),
    /// The superblock of the journal.
    JournalSuperblock,
    /// A descriptor of a transaction: for each tag where it is, and where the block is whose checksum it has.
    JournalTags(u32, Vec<(usize, usize)>),
    /// A block in the journal.
    JournalData,
    /// The numbers of blocks that are not to be replayed.
    JournalRevocation,
    /// The end of a transaction.
    JournalCommit,
    /// A block of the file that lists orphans, by its number.
    Orphans(u64),
    /// A block of a quota file.
    Quota,
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn be32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put16(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes()[..2]);
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_be32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// A crc32c without the usual inversions, bit by bit.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

fn crc16(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

/// What the superblock says about the rest.
#[derive(Clone, Copy, Debug)]
struct Shape {
    block: usize,
    blocks: u64,
    first: usize,
    per_group: usize,
    /// What a bitmap counts: clusters, or blocks where they are the same.
    clusters_per_group: usize,
    inodes_per_group: usize,
    inode_size: usize,
    desc_size: usize,
    /// A crc32c on everything.
    sums: bool,
    /// A crc16 on descriptors.
    short_sums: bool,
    seed: u32,
}

impl Shape {
    fn read(bytes: &[u8]) -> Self {
        let sb = &bytes[1024..2048];
        let (incompat, ro_compat) = (u32_at(sb, 0x60), u32_at(sb, 0x64));
        let block = 1024 << u32_at(sb, 0x18);
        let seed = if incompat & 0x2000 != 0 { u32_at(sb, 0x270) } else { crc32c(!0, &sb[0x68..0x78]) };
        Self {
            block,
            blocks: u64::from(u32_at(sb, 4)),
            first: u32_at(sb, 0x14) as usize,
            per_group: u32_at(sb, 0x20) as usize,
            clusters_per_group: u32_at(sb, 0x24) as usize,
            inodes_per_group: u32_at(sb, 0x28) as usize,
            inode_size: if u32_at(sb, 0x4C) == 0 { 128 } else { u16_at(sb, 0x58) },
            desc_size: if incompat & 0x80 != 0 { u16_at(sb, 0xFE) } else { 32 },
            sums: ro_compat & 0x400 != 0,
            short_sums: ro_compat & 0x10 != 0,
            seed,
        }
    }
}

impl Shape {
    /// Where the descriptors begin, in bytes.
    fn descriptors(&self) -> usize {
        (1024 / self.block + 1) * self.block
    }
}

/// Finds the structures of a sound file system whose descriptors lie behind its superblock.
pub fn places(bytes: &[u8]) -> Vec<Place> {
    let shape = Shape::read(bytes);
    let mut found = vec![Place { kind: Kind::Superblock, at: 1024, len: 1024, seed: !0 }];
    let groups = (shape.blocks as usize - shape.first).div_ceil(shape.per_group);
    let sb = &bytes[1024..2048];
    for group in 0..groups {
        let at = shape.descriptors() + group * shape.desc_size;
        let number = u32::try_from(group).unwrap();
        found.push(Place { kind: Kind::Descriptor(number), at, len: shape.desc_size, seed: shape.seed });
        let table = u32_at(bytes, at + 8) as usize * shape.block;
        let blocks = (u32_at(bytes, at) as usize * shape.block, shape.clusters_per_group / 8);
        let inodes = (u32_at(bytes, at + 4) as usize * shape.block, shape.inodes_per_group / 8);
        // What was never written has no checksum.
        let flags = if shape.sums || shape.short_sums { u16_at(bytes, at + 0x12) } else { 0 };
        if flags & 2 == 0 {
            found.push(Place { kind: Kind::BlockBitmap(at), at: blocks.0, len: blocks.1, seed: shape.seed });
        }
        if flags & 1 == 1 {
            continue;
        }
        found.push(Place { kind: Kind::InodeBitmap(at), at: inodes.0, len: inodes.1, seed: shape.seed });
        for index in 0..shape.inodes_per_group {
            let at = table + index * shape.inode_size;
            if bytes[inodes.0 + index / 8] >> (index % 8) & 1 == 1 && u16_at(bytes, at) != 0 {
                let number = u32::try_from(group * shape.inodes_per_group + index + 1).unwrap();
                inode(bytes, &shape, at, number, &mut found);
            }
        }
    }
    if u32_at(sb, 0xE0) != 0 {
        journal(bytes, &shape, &mut found);
    }
    found
}

/// The block at `index` of a file that has the inode at `at` and a short tree.
fn inode(bytes: &[u8], shape: &Shape, at: usize, number: u32, found: &mut Vec<Place>) {
    let seed = crc32c(crc32c(shape.seed, &number.to_le_bytes()), &bytes[at + 0x64..at + 0x68]);
    found.push(Place { kind: Kind::Inode, at, len: shape.inode_size, seed });
    let xattrs = u64::from(u32_at(bytes, at + 0x68));
    if xattrs != 0 {
        found.push(Place { kind: Kind::Xattrs(xattrs), at: xattrs as usize * shape.block, len: shape.block, seed: shape.seed });
    }
    let (mode, flags) = (u16_at(bytes, at) >> 12, u32_at(bytes, at + 0x20));
    let has_blocks = mode == 8 || mode == 4 || (mode == 10 && u32_at(bytes, at + 4) >= 60);
    if flags & 0x1000_0000 != 0 || !has_blocks {
        return;
    }
    let mut contents = Vec::new();
    if flags & 0x8_0000 != 0 {
        extents(bytes, shape, at + 0x28, seed, &mut contents, found);
    } else {
        for index in 0..15 {
            let block = u32_at(bytes, at + 0x28 + index * 4) as usize;
            numbers(bytes, shape, block, index.saturating_sub(11), &mut contents, found);
        }
    }
    let is_indexed = flags & 0x1000 != 0;
    if mode == 4 {
        for (index, block) in contents.iter().enumerate() {
            let start = block * shape.block;
            let is_node = is_indexed && u16_at(bytes, start + 4) == shape.block && bytes[start + 6] == 0;
            let kind = match () {
                () if is_indexed && index == 0 => Kind::Index(0x20),
                () if is_node => Kind::Index(8),
                () => Kind::Leaf,
            };
            found.push(Place { kind, at: start, len: shape.block, seed });
        }
    }
    let has_quota = u32_at(bytes, 1024 + 0x64) & 0x100 != 0;
    if has_quota && [0x240, 0x244, 0x26C].iter().any(|field| u32_at(bytes, 1024 + field) == number) {
        let block = |block: &usize| Place { kind: Kind::Quota, at: block * shape.block, len: shape.block, seed };
        found.extend(contents.iter().map(block));
    }
    let orphans = u32_at(bytes, 1024 + 0x280);
    if number == orphans && orphans != 0 && u32_at(bytes, 1024 + 0x5C) & 0x1000 != 0 {
        let block =
            |block: &usize| Place { kind: Kind::Orphans(*block as u64), at: block * shape.block, len: shape.block, seed };
        found.extend(contents.iter().map(block));
    }
}

fn extents(bytes: &[u8], shape: &Shape, node: usize, seed: u32, contents: &mut Vec<usize>, found: &mut Vec<Place>) {
    let (count, depth) = (u16_at(bytes, node + 2), u16_at(bytes, node + 6));
    for entry in (1..=count).map(|index| node + index * 12) {
        if depth == 0 {
            let start = u32_at(bytes, entry + 8) as usize;
            contents.extend((start..).take(u16_at(bytes, entry + 4) & 0x7FFF));
        } else {
            let child = u32_at(bytes, entry + 4) as usize * shape.block;
            found.push(Place { kind: Kind::ExtentNode, at: child, len: shape.block, seed });
            extents(bytes, shape, child, seed, contents, found);
        }
    }
}

fn numbers(bytes: &[u8], shape: &Shape, block: usize, depth: usize, contents: &mut Vec<usize>, found: &mut Vec<Place>) {
    if block == 0 {
        return;
    }
    if depth == 0 {
        contents.push(block);
        return;
    }
    let at = block * shape.block;
    found.push(Place { kind: Kind::Numbers, at, len: shape.block, seed: 0 });
    for index in 0..shape.block / 4 {
        numbers(bytes, shape, u32_at(bytes, at + index * 4) as usize, depth - 1, contents, found);
    }
}

/// The blocks of a log that does not wrap, in a journal whose blocks follow each other.
fn journal(bytes: &[u8], shape: &Shape, found: &mut Vec<Place>) {
    let table = u32_at(bytes, shape.descriptors() + 8) as usize * shape.block;
    let inode = table + (u32_at(bytes, 1024 + 0xE0) as usize - 1) * shape.inode_size;
    let has_extents = u32_at(bytes, inode + 0x20) & 0x8_0000 != 0;
    let mut contents = Vec::new();
    if has_extents {
        extents(bytes, shape, inode + 0x28, 0, &mut contents, &mut Vec::new());
    } else {
        for index in 0..15_usize {
            let block = u32_at(bytes, inode + 0x28 + index * 4) as usize;
            numbers(bytes, shape, block, index.saturating_sub(11), &mut contents, &mut Vec::new());
        }
    }
    let place = |index: usize| contents.get(index).map(|block| block * shape.block);
    let Some(start) = place(0) else { return };
    found.push(Place { kind: Kind::JournalSuperblock, at: start, len: 1024, seed: !0 });
    let seed = crc32c(!0, &bytes[start + 0x30..start + 0x40]);
    let features = be32_at(bytes, start + 0x28);
    let tag_bytes =
        if features & 0x10 != 0 { 16 } else { 8 + if features & 2 != 0 { 4 } else { 0 } + usize::from(features & 8 != 0) * 2 };
    let mut index = be32_at(bytes, start + 0x1C) as usize;
    while let Some(at) = place(index).filter(|at| index > 0 && be32_at(bytes, *at) == 0xC03B_3998) {
        let kind = be32_at(bytes, at + 4);
        index += 1;
        let push = |kind, at, found: &mut Vec<Place>| found.push(Place { kind, at, len: shape.block, seed });
        match kind {
            1 => {
                let mut tags = Vec::new();
                let mut tag = at + 12;
                loop {
                    let flags = be32_at(bytes, tag + 4) & 0xFFFF;
                    let Some(data) = place(index) else { return };
                    push(Kind::JournalData, data, found);
                    tags.push((tag, data));
                    index += 1;
                    if flags & 8 != 0 || tag + 64 > at + shape.block {
                        break;
                    }
                    tag += tag_bytes + if flags & 2 != 0 { 0 } else { 16 };
                }
                push(Kind::JournalTags(be32_at(bytes, at + 8), tags), at, found);
            }
            2 => push(Kind::JournalCommit, at, found),
            5 => push(Kind::JournalRevocation, at, found),
            _ => return,
        }
    }
}

/// Gives every structure, as far as it has one, the checksum of what it holds now.
pub fn seal(bytes: &mut [u8], sound: &[u8], places: &[Place]) {
    let shape = Shape::read(sound);
    let journal = places.iter().find(|place| place.kind == Kind::JournalSuperblock).map(|place| place.at);
    let features = journal.map_or(0, |at| be32_at(sound, at + 0x28));
    for place in places {
        seal_log(bytes, place, features);
        if shape.sums {
            seal_one(bytes, &shape, place);
        }
    }
    let superblock = |place: &&Place| matches!(place.kind, Kind::Descriptor(_));
    for place in places.iter().filter(superblock) {
        seal_descriptor(bytes, sound, &shape, place);
    }
    if shape.sums {
        let sum = crc32c(!0, &bytes[1024..2044]);
        put32(bytes, 2044, sum);
    }
}

fn seal_one(bytes: &mut [u8], shape: &Shape, place: &Place) {
    let Place { kind, at, len, seed } = place;
    let (at, end) = (*at, at + len);
    match kind {
        Kind::BlockBitmap(descriptor) | Kind::InodeBitmap(descriptor) => {
            let sum = crc32c(*seed, &bytes[at..end]);
            let (low, high) = if matches!(kind, Kind::BlockBitmap(_)) { (0x18, 0x38) } else { (0x1A, 0x3A) };
            put16(bytes, descriptor + low, sum);
            if shape.desc_size >= 64 {
                put16(bytes, descriptor + high, sum >> 16);
            }
        }
        Kind::Inode => {
            let has_high = shape.inode_size > 128 && u16_at(bytes, at + 0x80) >= 4;
            put16(bytes, at + 0x7C, 0);
            if has_high {
                put16(bytes, at + 0x82, 0);
            }
            let sum = crc32c(*seed, &bytes[at..end]);
            put16(bytes, at + 0x7C, sum);
            if has_high {
                put16(bytes, at + 0x82, sum >> 16);
            }
        }
        Kind::ExtentNode => {
            let tail = 12 + u16_at(bytes, at + 4) * 12;
            if tail + 4 <= *len {
                let sum = crc32c(*seed, &bytes[at..at + tail]);
                put32(bytes, at + tail, sum);
            }
        }
        Kind::Leaf => {
            let sum = crc32c(*seed, &bytes[at..end - 12]);
            put32(bytes, end - 4, sum);
        }
        Kind::Index(table) => {
            let (limit, count) = (u16_at(bytes, at + table), u16_at(bytes, at + table + 2));
            let tail = table + limit * 8;
            if tail + 8 <= *len && table + count * 8 <= tail {
                let sum = crc32c(*seed, &bytes[at..at + table + count * 8]);
                let sum = crc32c(crc32c(sum, &bytes[at + tail..at + tail + 4]), &[0; 4]);
                put32(bytes, at + tail + 4, sum);
            }
        }
        Kind::Xattrs(number) => {
            put32(bytes, at + 0x10, 0);
            let sum = crc32c(crc32c(*seed, &number.to_le_bytes()), &bytes[at..end]);
            put32(bytes, at + 0x10, sum);
        }
        Kind::Orphans(number) => {
            let sum = crc32c(crc32c(*seed, &number.to_le_bytes()), &bytes[at..end - 8]);
            put32(bytes, end - 4, sum);
        }
        _ => {}
    }
}

/// Seals what belongs to the journal, whose incompatible features are given.
fn seal_log(bytes: &mut [u8], place: &Place, features: u32) {
    let Place { kind, at, len, seed } = place;
    let (at, end) = (*at, at + len);
    if features & 0x18 == 0 {
        return;
    }
    match kind {
        Kind::JournalSuperblock => {
            put_be32(bytes, at + 0xFC, 0);
            let sum = crc32c(!0, &bytes[at..end]);
            put_be32(bytes, at + 0xFC, sum);
        }
        Kind::JournalTags(sequence, tags) => {
            for (tag, data) in tags {
                let sum = crc32c(crc32c(*seed, &sequence.to_be_bytes()), &bytes[*data..data + len]);
                if features & 0x10 != 0 {
                    put_be32(bytes, tag + 12, sum);
                } else {
                    bytes[tag + 4..tag + 6].copy_from_slice(&sum.to_be_bytes()[2..]);
                }
            }
            put_be32(bytes, end - 4, 0);
            let sum = crc32c(*seed, &bytes[at..end]);
            put_be32(bytes, end - 4, sum);
        }
        Kind::JournalRevocation => {
            put_be32(bytes, end - 4, 0);
            let sum = crc32c(*seed, &bytes[at..end]);
            put_be32(bytes, end - 4, sum);
        }
        Kind::JournalCommit => {
            put_be32(bytes, at + 16, 0);
            let sum = crc32c(*seed, &bytes[at..end]);
            put_be32(bytes, at + 16, sum);
        }
        _ => {}
    }
}

fn seal_descriptor(bytes: &mut [u8], sound: &[u8], shape: &Shape, place: &Place) {
    let Place { kind: Kind::Descriptor(number), at, len, seed } = place else { return };
    if shape.sums {
        put16(bytes, at + 0x1E, 0);
        let sum = crc32c(crc32c(*seed, &number.to_le_bytes()), &bytes[*at..at + len]);
        put16(bytes, at + 0x1E, sum);
    } else if shape.short_sums {
        let start = crc16(crc16(0xFFFF, &sound[1024 + 0x68..1024 + 0x78]), &number.to_le_bytes());
        let sum = crc16(crc16(start, &bytes[*at..at + 0x1E]), &bytes[at + 0x20..at + len]);
        put16(bytes, at + 0x1E, sum);
    }
}
