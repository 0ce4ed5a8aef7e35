use super::compression::Compression;
use super::error::Error;
use super::extension::Extension;
use super::feature;
use super::geometry::Geometry;
use super::header::{Header, MAX_BACKING_NAME, MAX_CLUSTER_BITS, MAX_L1, Version};
use super::offset::{HostOffset, to_u64, to_usize};
use crate::block::{self, BlockWrite, ByteRange, Hole};

/// What a new image is to be like. The defaults are qemu-img's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CreateOptions {
    /// Bytes of the disk; rounded up to whole sectors of 512 bytes.
    pub size: u64,
    /// The version of the format.
    pub version: Version,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Bits of a refcount: a power of two up to 64. Version 2 has 16.
    pub refcount_bits: u32,
    /// Whether refcount updates may be postponed.
    pub lazy_refcounts: bool,
    /// Whether clusters, of 16 KiB at least, are allocated in 32 parts.
    pub extended_l2: bool,
    /// How compressed clusters are stored.
    pub compression: Compression,
    /// The backing file. Its format is always recorded.
    pub backing: Option<NewBacking>,
    /// The external data file.
    pub data_file: Option<DataFileName>,
    /// What is allocated from the beginning.
    pub preallocation: Preallocation,
    /// Whether the file is to be written in place where the host's file system would copy on write, as btrfs does. This is for
    /// whoever makes the file.
    pub no_cow: bool,
}

/// The backing file of a new image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewBacking {
    /// Its name, absolute or relative to the image; at most 1023 bytes.
    pub name: Vec<u8>,
    /// Its format, as in `raw` or `qcow2`.
    pub format: String,
}

/// The external data file of a new image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataFileName {
    /// Its name, absolute or relative to the image.
    pub name: Vec<u8>,
    /// Whether it is a raw image by itself.
    pub raw: bool,
}

/// What a new image allocates from the beginning.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Every cluster has a place in the file, which has holes there.
    Metadata,
    /// Every cluster has a place and space, which is not written.
    Falloc,
    /// Every cluster has a place that is written with zeros.
    Full,
}

impl Preallocation {
    /// Gives `range` of a new `target`, where it has holes, the space that every cluster is to have.
    ///
    /// # Errors
    ///
    /// The failure of the target.
    pub fn fill<T: BlockWrite + ?Sized>(self, target: &mut T, range: ByteRange) -> Result<(), block::Error> {
        match self {
            Self::Off | Self::Metadata => Ok(()),
            Self::Falloc => target.write_zeroes_at(range, Hole::Keep),
            Self::Full => {
                let zeros = vec![0; to_usize(range.len()).min(ZEROS)];
                let mut offset = range.start();
                while offset < range.end() {
                    let left = to_usize(range.end().saturating_sub(offset));
                    let part = zeros.get(..left).unwrap_or(&zeros);
                    target.write_all_at(part, offset)?;
                    offset = offset.saturating_add(to_u64(part.len()));
                }
                Ok(())
            }
        }
    }
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            version: Version::V3,
            cluster_size: 65536,
            refcount_bits: 16,
            lazy_refcounts: false,
            extended_l2: false,
            compression: Compression::Zlib,
            backing: None,
            data_file: None,
            preallocation: Preallocation::Off,
            no_cow: false,
        }
    }
}

impl CreateOptions {
    /// Returns the default options for a disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// Checks that there can be such an image; making one finds the same.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOptions`].
    pub fn check(&self) -> Result<(), Error> {
        self.header().map(drop)
    }

    /// Returns the header of such an image; its tables have no place yet.
    pub(super) fn header(&self) -> Result<Header, Error> {
        let geometry = self.geometry()?;
        self.check_version()?;
        let size = self.size.checked_next_multiple_of(512).ok_or_else(|| invalid("the disk is too large"))?;
        let l1_entries = geometry.l1_entries(size);
        if l1_entries.saturating_mul(8) > MAX_L1 || size > MAX_SIZE {
            return Err(invalid("the disk is too large for clusters of this size"));
        }
        let (incompatible, autoclear) = self.features();
        Ok(Header {
            version: self.version,
            geometry,
            size,
            l1_offset: HostOffset(0),
            l1_entries,
            refcount_table_offset: HostOffset(0),
            refcount_table_clusters: 0,
            snapshots_offset: HostOffset(0),
            snapshot_count: 0,
            incompatible,
            compatible: if self.lazy_refcounts { feature::LAZY_REFCOUNTS } else { 0 },
            autoclear,
            compression: self.compression,
            backing_name: self.backing.as_ref().map(|backing| backing.name.clone()),
            extensions: self.extensions(),
            further_fields: Vec::new(),
        })
    }

    fn geometry(&self) -> Result<Geometry, Error> {
        let cluster_bits = self.cluster_size.trailing_zeros();
        if !self.cluster_size.is_power_of_two() || !(9..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(invalid("Cluster size must be a power of two between 512 and 2048k"));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return Err(invalid("Refcount width must be a power of two and may not exceed 64 bits"));
        }
        if self.extended_l2 && cluster_bits < 14 {
            return Err(invalid("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"));
        }
        let refcount_order = self.refcount_bits.trailing_zeros();
        Ok(Geometry { cluster_bits, extended_l2: self.extended_l2, refcount_order })
    }

    fn check_version(&self) -> Result<(), Error> {
        let v3_only = [
            (self.refcount_bits != 16, "Different refcount widths than 16 bits"),
            (self.lazy_refcounts, "Lazy refcounts"),
            (self.extended_l2, "Extended L2 entries"),
            (self.compression != Compression::Zlib, "Compression types other than zlib"),
            (self.data_file.is_some(), "External data files"),
        ];
        if self.version == Version::V2
            && let Some((_, what)) = v3_only.iter().find(|(wanted, _)| *wanted)
        {
            return Err(invalid(format!("{what} are only supported with compatibility level 1.1 and above")));
        }
        if let Some(backing) = &self.backing {
            if backing.name.len() > MAX_BACKING_NAME || backing.name.is_empty() {
                return Err(invalid("The name of the backing file must have 1 to 1023 bytes"));
            }
            if backing.format.is_empty() {
                return Err(invalid("The format of the backing file is missing"));
            }
            if self.data_file.as_ref().is_some_and(|file| file.raw) {
                return Err(invalid("Backing file and data-file-raw cannot be used at the same time"));
            }
            if self.preallocation != Preallocation::Off {
                return Err(invalid("Backing file and preallocation cannot be used at the same time"));
            }
        }
        Ok(())
    }

    fn features(&self) -> (u64, u64) {
        let bits = [
            (self.data_file.is_some(), feature::DATA_FILE),
            (self.compression != Compression::Zlib, feature::COMPRESSION),
            (self.extended_l2, feature::EXTENDED_L2),
        ];
        let incompatible = bits.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);
        let raw = self.data_file.as_ref().is_some_and(|file| file.raw);
        (incompatible, if raw { feature::RAW_DATA_FILE } else { 0 })
    }

    /// Returns the extensions in the order in which qemu-img writes them.
    fn extensions(&self) -> Vec<Extension> {
        let mut extensions = Vec::new();
        if let Some(backing) = &self.backing {
            extensions.push(Extension { kind: Extension::BACKING_FORMAT, data: backing.format.clone().into_bytes() });
        }
        if let Some(file) = &self.data_file {
            extensions.push(Extension { kind: Extension::DATA_FILE, data: file.name.clone() });
        }
        // The smallest clusters keep their room for the backing file's name.
        if self.version == Version::V3 && self.cluster_size >= FEATURE_NAMES_CLUSTER {
            extensions.push(feature::names());
        }
        extensions
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::InvalidOptions(why.into())
}

/// A signed 64-bit offset reaches no further.
const MAX_SIZE: u64 = u64::MAX >> 1;

/// Bytes of the smallest clusters that get a feature name table.
const FEATURE_NAMES_CLUSTER: u64 = 4096;

/// Bytes of zeros that are written at a time.
const ZEROS: usize = 256 << 10;
