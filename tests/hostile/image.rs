//! A small sound qcow2 image, byte by byte, to be damaged.

/// What a crafted image consists of.
#[derive(Clone, Debug)]
pub(crate) struct Crafted {
    /// What is wrong with it.
    pub(crate) name: String,
    /// The image, and the files beside it that it may name.
    pub(crate) bytes: Vec<u8>,
    pub(crate) beside: Vec<(&'static str, Vec<u8>)>,
    /// Bytes of the file, where it is longer than what is in it.
    pub(crate) length: Option<u64>,
}

impl Crafted {
    pub(crate) fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes, beside: Vec::new(), length: None }
    }
}

/// An image of version 3 with two standard clusters, a compressed one, a zero cluster, a snapshot and a bitmap:
///
/// ```text
/// cluster  0       1               2               3   4   5     6     7           8          9          10      11
///          header  refcount table  refcount block  L1  L2  data  data  compressed  snapshots  directory  bitmap  snapshot's L1
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) bits: u32,
}

pub(crate) const REFCOUNT_TABLE: u64 = 1;
pub(crate) const REFCOUNT_BLOCK: u64 = 2;
pub(crate) const L1: u64 = 3;
pub(crate) const L2: u64 = 4;
pub(crate) const DATA: u64 = 5;
pub(crate) const COMPRESSED: u64 = 7;
pub(crate) const SNAPSHOTS: u64 = 8;
pub(crate) const DIRECTORY: u64 = 9;
pub(crate) const BITMAP: u64 = 10;
pub(crate) const SNAPSHOT_L1: u64 = 11;
const CLUSTERS: u64 = 12;
/// Where the extensions begin.
pub(crate) const EXTENSIONS: u64 = 112;

impl Image {
    pub(crate) fn sound(bits: u32) -> Self {
        let mut image = Self { bytes: vec![0; (CLUSTERS << bits) as usize], bits };
        let cluster = 1_u64 << bits;
        image.put(0, b"QFI\xfb");
        for (at, value) in [(4, 3), (20, bits), (36, 1), (56, 1), (60, 1), (96, 4), (100, 112)] {
            image.put_u32(at, value);
        }
        let size = (cluster * 16).max(8192);
        for (at, value) in [(24, size), (40, L1), (48, REFCOUNT_TABLE), (64, SNAPSHOTS), (88, 1)] {
            image.put_u64(at, if at == 24 || at == 88 { value } else { value << bits });
        }
        image.put_u32(EXTENSIONS, 0x2385_2875);
        image.put_u32(EXTENSIONS + 4, 24);
        image.put_u32(EXTENSIONS + 8, 1);
        image.put_u64(EXTENSIONS + 16, 32);
        image.put_u64(EXTENSIONS + 24, DIRECTORY << bits);
        image.put_u64(REFCOUNT_TABLE << bits, REFCOUNT_BLOCK << bits);
        for cluster in 0..CLUSTERS {
            let shared = (L2..=COMPRESSED).contains(&cluster);
            let at = image.at(REFCOUNT_BLOCK) + 2 * cluster;
            image.put(at, &[0, if shared { 2 } else { 1 }]);
        }
        for table in [L1, SNAPSHOT_L1] {
            image.put_u64(table << bits, L2 << bits);
        }
        image.put_u64(L2 << bits, DATA << bits);
        image.put_u64((L2 << bits) + 8, (DATA + 1) << bits);
        image.put_u64((L2 << bits) + 16, 1 << 62 | COMPRESSED << bits);
        image.put_u64((L2 << bits) + 24, 1);
        for at in 0..2 * cluster {
            let place = (DATA << bits) + at;
            image.bytes[place as usize] = (at % 251) as u8 | 1;
        }
        // A stored block of deflate, as long as fits one sector.
        image.put(COMPRESSED << bits, &[1, 0, 1, 0xFF, 0xFE]);
        image.snapshot();
        image.bitmap();
        image
    }

    fn snapshot(&mut self) {
        let at = self.at(SNAPSHOTS);
        self.put_u64(at, SNAPSHOT_L1 << self.bits);
        self.put_u32(at + 8, 1);
        self.put(at + 12, &[0, 1, 0, 2]);
        self.put_u32(at + 36, 16);
        let size = self.u64(24);
        self.put_u64(at + 48, size);
        self.put(at + 56, b"1s1");
    }

    fn bitmap(&mut self) {
        let at = self.at(DIRECTORY);
        self.put_u64(at, BITMAP << self.bits);
        self.put_u32(at + 8, 1);
        self.put(at + 16, &[1, 16, 0, 2]);
        self.put(at + 24, b"b0");
        let table = self.at(BITMAP);
        self.put_u64(table, 1);
    }

    /// The offset of a cluster.
    pub(crate) fn at(&self, cluster: u64) -> u64 {
        cluster << self.bits
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn put_u32(&mut self, at: u64, value: u32) {
        self.put(at, &value.to_be_bytes());
    }

    pub(crate) fn put_u64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_be_bytes());
    }

    pub(crate) fn u64(&self, at: u64) -> u64 {
        u64::from_be_bytes(self.bytes[at as usize..at as usize + 8].try_into().unwrap())
    }

    /// Adds the record of a backing file, and of its format unless that is empty.
    pub(crate) fn backing(mut self, name: &[u8], format: &str) -> Self {
        let mut at = EXTENSIONS + 32;
        if !format.is_empty() {
            self.put_u32(at, 0xE279_2ACA);
            self.put_u32(at + 4, format.len() as u32);
            self.put(at + 8, format.as_bytes());
            at += 8 + (format.len() as u64).next_multiple_of(8);
        }
        at += 8;
        let room = (self.at(1) - at) as usize;
        let name = &name[..name.len().min(room)];
        self.put(at, name);
        self.put_u64(8, at);
        self.put_u32(16, name.len() as u32);
        self
    }

    /// Makes the contents those of an external data file, without what goes not together with one.
    pub(crate) fn data_file(mut self, name: &[u8]) -> Self {
        self.put_u64(72, 4);
        self.put_u64(88, 0);
        self.put_u32(60, 0);
        self.put_u64(64, 0);
        self.put_u32(EXTENSIONS, 0x4441_5441);
        self.put_u32(EXTENSIONS + 4, name.len() as u32);
        self.put(EXTENSIONS + 8, &[0; 64]);
        self.put(EXTENSIONS + 8, name);
        let table = self.at(L2);
        self.put(table, &[0; 32]);
        self.put_u64(table, 1 << 63);
        self
    }
}
