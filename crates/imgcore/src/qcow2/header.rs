use zerocopy::{FromBytes as _, IntoBytes as _};

use super::compression::Compression;
use super::error::{Corrupt, Error, Unsupported};
use super::extension::Extension;
use super::feature;
use super::geometry::Geometry;
use super::offset::{HostOffset, to_u64, to_usize};
use super::raw::{MAGIC, RawHeader};
use crate::block::BlockRead;

/// The version of the format.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// Version 2, `compat=0.10`: no feature bits, no zero clusters, refcounts of 16 bits.
    V2,
    /// Version 3, `compat=1.1`.
    #[default]
    V3,
}

/// The checked header of an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) geometry: Geometry,
    /// Bytes of the disk.
    pub(super) size: u64,
    pub(super) l1_offset: HostOffset,
    pub(super) l1_entries: u64,
    pub(super) refcount_table_offset: HostOffset,
    pub(super) refcount_table_clusters: u64,
    pub(super) snapshots_offset: HostOffset,
    pub(super) snapshot_count: u32,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) compression: Compression,
    /// The backing file's name as stored.
    pub(super) backing_name: Option<Vec<u8>>,
    pub(super) extensions: Vec<Extension>,
    /// Additional header fields from byte 105 on, which mean nothing here.
    pub(super) further_fields: Vec<u8>,
}

impl Header {
    /// Reads the header of the image in `storage`.
    pub(super) fn read(storage: &dyn BlockRead) -> Result<Self, Error> {
        let size = to_usize(storage.size());
        let mut start = vec![0; size.min(size_of::<RawHeader>())];
        storage.read_exact_at(&mut start, 0)?;
        let cluster_len = cluster_len(&start)?;
        let mut bytes = vec![0; size.min(cluster_len)];
        storage.read_exact_at(&mut bytes, 0)?;
        Self::decode(&bytes)
    }

    /// Reads a header from the first cluster of an image, or from all of a shorter one.
    ///
    /// Spec: "Header"
    pub(super) fn decode(cluster: &[u8]) -> Result<Self, Error> {
        let cluster_len = cluster_len(cluster)?;
        let raw = RawHeader::read_from_bytes(&padded::<{ size_of::<RawHeader>() }>(cluster)).unwrap_or_default();
        let version = if raw.version.get() == 2 { Version::V2 } else { Version::V3 };
        // Spec: "For version 2 images, the length is always assumed to be 72 bytes."
        let length = if version == Version::V2 { V2_LENGTH } else { to_usize(u64::from(raw.header_length.get())) };
        if version == Version::V3 {
            // Spec: "For version 3 it's at least 104 bytes and must be a multiple of 8."
            require(length >= size_of::<RawHeader>(), 100, "header_length is less than 104")?;
            require(length.is_multiple_of(8), 100, "header_length is no multiple of 8")?;
        }
        require(length <= cluster_len, 100, "header_length exceeds the first cluster")?;
        let stored = cluster.get(..length).ok_or_else(|| corrupt(0, "the image ends inside the header"))?;

        let backing_offset = to_usize(raw.backing_file_offset.get());
        let backing_name = match backing_offset {
            0 => None,
            start => Some(backing_name(cluster, cluster_len, start, to_usize(u64::from(raw.backing_file_size.get())))?),
        };
        // Spec: "It is not allowed to store other data here": the extensions end where the name begins.
        let area_end = if backing_offset == 0 { cluster.len() } else { backing_offset.min(cluster.len()) };
        let area = cluster.get(length..area_end).unwrap_or_default();
        let extensions = Extension::decode_all(area, to_u64(length))?;

        let (incompatible, compatible, autoclear, refcount_order) = if version == Version::V2 {
            // Spec: "For version 2 images, the order is always assumed to be 4"
            (0, 0, 0, 4)
        } else {
            let incompatible = raw.incompatible_features.get();
            // Spec: "An implementation must fail to open an image if an unknown bit is set."
            if incompatible & !feature::INCOMPATIBLE != 0 {
                let names = feature::describe(incompatible & !feature::INCOMPATIBLE, &extensions);
                return Err(Unsupported::Features(names).into());
            }
            let order = raw.refcount_order.get();
            // Spec: "This value may not exceed 6 (i.e. refcount_bits = 64)."
            require(order <= 6, 96, "refcount_order is more than 6")?;
            (incompatible, raw.compatible_features.get(), raw.autoclear_features.get(), order)
        };
        let further = stored.get(size_of::<RawHeader>()..).unwrap_or_default();
        let compression = compression(incompatible, further.first().copied().unwrap_or(0))?;
        let extended_l2 = incompatible & feature::EXTENDED_L2 != 0;
        let geometry = Geometry { cluster_bits: raw.cluster_bits.get(), extended_l2, refcount_order };
        // Spec: "if the image has Extended L2 Entries then cluster_bits must be at least 14"
        require(!extended_l2 || geometry.cluster_bits >= 14, 20, "clusters are too small for extended L2 entries")?;
        refuse_encryption(raw.crypt_method.get())?;

        let header = Self {
            version,
            geometry,
            size: raw.size.get(),
            l1_offset: HostOffset(raw.l1_table_offset.get()),
            l1_entries: u64::from(raw.l1_size.get()),
            refcount_table_offset: HostOffset(raw.refcount_table_offset.get()),
            refcount_table_clusters: u64::from(raw.refcount_table_clusters.get()),
            snapshots_offset: HostOffset(raw.snapshots_offset.get()),
            snapshot_count: raw.nb_snapshots.get(),
            incompatible,
            compatible,
            autoclear,
            compression,
            backing_name,
            extensions,
            further_fields: further.get(1..).unwrap_or_default().to_vec(),
        };
        header.check_tables()?;
        Ok(header)
    }

    /// Checks that the tables have a place and a bounded size.
    fn check_tables(&self) -> Result<(), Error> {
        let geometry = self.geometry;
        // Spec: "Must be aligned to a cluster boundary."
        require(geometry.is_aligned(self.l1_offset.0), 40, "l1_table_offset is not the start of a cluster")?;
        require(geometry.is_aligned(self.refcount_table_offset.0), 48, "refcount_table_offset is not the start of a cluster")?;
        require(geometry.is_aligned(self.snapshots_offset.0), 64, "snapshots_offset is not the start of a cluster")?;
        require(self.refcount_table_clusters > 0, 56, "there is no refcount table")?;
        let bytes = self.refcount_table_clusters.saturating_mul(geometry.cluster_size());
        too_large("refcount table", bytes, MAX_REFCOUNT_TABLE)?;
        too_large("L1 table", self.l1_entries.saturating_mul(8), MAX_L1)?;
        require(self.l1_entries >= geometry.l1_entries(self.size), 36, "the L1 table is too small for the disk")?;
        too_large("snapshot table", u64::from(self.snapshot_count), MAX_SNAPSHOTS)?;
        Ok(())
    }

    /// Returns the contents of the extension of `kind`.
    pub(super) fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().find(|extension| extension.kind == kind).map(|extension| extension.data.as_slice())
    }

    /// Gives up the names of features where there is no room for them.
    pub(super) fn drop_names_without_room(&mut self) {
        if self.encode().is_err() {
            self.extensions.retain(|extension| extension.kind != Extension::FEATURE_NAMES);
        }
    }

    /// Returns the stored form: header, extensions and backing name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOptions`] when it does not fit the first cluster.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        self.encode_with_name_at(0)
    }

    /// As [`Header::encode`], with the backing file's name at byte `name_at` or, where the extensions reach further, behind them.
    pub(super) fn encode_with_name_at(&self, name_at: usize) -> Result<Vec<u8>, Error> {
        let v3 = self.version == Version::V3;
        let mut bytes = vec![0; if v3 { size_of::<RawHeader>() } else { V2_LENGTH }];
        if v3 {
            bytes.push(self.compression.stored());
            bytes.extend_from_slice(&self.further_fields);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let length = bytes.len();
        for extension in &self.extensions {
            extension.encode(&mut bytes);
        }
        Extension::encode_end(&mut bytes);
        if self.backing_name.is_some() {
            bytes.resize(bytes.len().max(name_at), 0);
        }
        let backing = self.backing_name.as_deref().map(|name| (bytes.len(), name));
        bytes.extend_from_slice(self.backing_name.as_deref().unwrap_or_default());
        if to_u64(bytes.len()) > self.geometry.cluster_size() {
            return Err(Error::InvalidOptions("the header does not fit a cluster of this size".to_owned()));
        }
        let raw = self.raw(length, backing);
        for (to, from) in bytes.iter_mut().zip(raw.as_bytes().iter().take(length)) {
            *to = *from;
        }
        Ok(bytes)
    }

    fn raw(&self, length: usize, backing: Option<(usize, &[u8])>) -> RawHeader {
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let (backing_offset, backing_size) = backing.map_or((0, 0), |(at, name)| (to_u64(at), to_u64(name.len())));
        RawHeader {
            magic: MAGIC,
            version: if self.version == Version::V3 { 3 } else { 2 }.into(),
            backing_file_offset: backing_offset.into(),
            backing_file_size: narrow(backing_size).into(),
            cluster_bits: self.geometry.cluster_bits.into(),
            size: self.size.into(),
            crypt_method: 0.into(),
            l1_size: narrow(self.l1_entries).into(),
            l1_table_offset: self.l1_offset.0.into(),
            refcount_table_offset: self.refcount_table_offset.0.into(),
            refcount_table_clusters: narrow(self.refcount_table_clusters).into(),
            nb_snapshots: self.snapshot_count.into(),
            snapshots_offset: self.snapshots_offset.0.into(),
            incompatible_features: self.incompatible.into(),
            compatible_features: self.compatible.into(),
            autoclear_features: self.autoclear.into(),
            refcount_order: self.geometry.refcount_order.into(),
            header_length: narrow(to_u64(length)).into(),
        }
    }
}

/// Returns the bytes of a cluster, once the first bytes are those of a version and a cluster size that can be read.
fn cluster_len(start: &[u8]) -> Result<usize, Error> {
    if !start.starts_with(&MAGIC) {
        return Err(Error::NotQcow2);
    }
    require(start.len() >= V2_LENGTH, 0, "the image ends inside the header")?;
    let raw = RawHeader::read_from_bytes(&padded::<{ size_of::<RawHeader>() }>(start)).unwrap_or_default();
    if !(2..=3).contains(&raw.version.get()) {
        return Err(Unsupported::Version(raw.version.get()).into());
    }
    let bits = raw.cluster_bits.get();
    // Spec: "Must not be less than 9 (i.e. 512 byte clusters)."
    require(bits >= 9, 20, "cluster_bits is less than 9")?;
    if bits > MAX_CLUSTER_BITS {
        return Err(Unsupported::ClusterBits(bits).into());
    }
    Ok(1_usize.wrapping_shl(bits))
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut padded = [0; N];
    for (to, from) in padded.iter_mut().zip(bytes) {
        *to = *from;
    }
    padded
}

fn backing_name(cluster: &[u8], cluster_len: usize, start: usize, length: usize) -> Result<Vec<u8>, Error> {
    // Spec: "Must not be longer than 1023 bytes."
    require(length <= MAX_BACKING_NAME, 16, "the backing file's name is longer than 1023 bytes")?;
    let end = start.saturating_add(length);
    require(end <= cluster_len, 8, "the backing file's name leaves the first cluster")?;
    let name = cluster.get(start..end).ok_or_else(|| corrupt(8, "the image ends before the backing file's name"))?;
    Ok(name.to_vec())
}

fn compression(incompatible: u64, stored: u8) -> Result<Compression, Error> {
    // Spec: "If the incompatible bit "Compression type" is set: the field must be present and non-zero … Otherwise, this
    // field must not be present or must be zero"
    match (incompatible & feature::COMPRESSION != 0, stored) {
        (false, 0) => Ok(Compression::Zlib),
        (true, 1) => Ok(Compression::Zstd),
        (false, _) => Err(corrupt(104, "compression_type is set without its feature bit").into()),
        (true, 0) => Err(corrupt(104, "compression_type is zero with its feature bit").into()),
        (true, other) => Err(Unsupported::Compression(other).into()),
    }
}

fn refuse_encryption(method: u32) -> Result<(), Error> {
    match method {
        0 => Ok(()),
        1 => Err(Unsupported::Encryption("AES").into()),
        2 => Err(Unsupported::Encryption("LUKS").into()),
        _ => Err(corrupt(32, "crypt_method is not 0, 1 or 2").into()),
    }
}

fn corrupt(offset: u64, rule: &'static str) -> Corrupt {
    Corrupt::new("header", offset, rule)
}

fn require(holds: bool, offset: u64, rule: &'static str) -> Result<(), Corrupt> {
    if holds { Ok(()) } else { Err(corrupt(offset, rule)) }
}

fn too_large(table: &'static str, bytes: u64, limit: u64) -> Result<(), Unsupported> {
    if bytes <= limit { Ok(()) } else { Err(Unsupported::TooLarge(table, limit)) }
}

/// Bytes of a version 2 header.
const V2_LENGTH: usize = 72;
/// Clusters of 2 MiB, as QEMU's limit is.
pub(super) const MAX_CLUSTER_BITS: u32 = 21;
/// Bytes of the longest backing file name.
pub(super) const MAX_BACKING_NAME: usize = 1023;
/// Bytes of the largest L1 table that is read, as QEMU's limit is.
pub(super) const MAX_L1: u64 = 32 << 20;
/// Bytes of the largest refcount table that is read, as QEMU's limit is.
pub(super) const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// The most snapshots, as QEMU's limit is.
pub(super) const MAX_SNAPSHOTS: u64 = 65_536;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Error, Header, Unsupported};

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 65536];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[23] = 16;
        bytes[29] = 16; // 1 MiB
        bytes[39] = 1;
        bytes[45] = 3;
        bytes[53] = 1;
        bytes[59] = 1;
        bytes[99] = 4;
        bytes[103] = 104;
        bytes
    }

    #[test]
    fn a_sound_header_is_read_and_written_back() {
        let header = Header::decode(&sample()).unwrap();
        assert_eq!((header.size, header.l1_offset.0, header.geometry.cluster_size()), (1 << 20, 0x30000, 65536));
        let again = Header::decode(&header.encode().unwrap()).unwrap();
        assert_eq!(format!("{header:?}"), format!("{again:?}").replace("[0, 0, 0, 0, 0, 0, 0]", "[]"));
    }

    #[test]
    fn each_broken_rule_has_its_own_message() {
        for (at, value, want) in [
            (3, 0, "not a qcow2 image"),
            (7, 4, "version 4"),
            (23, 8, "less than 9"),
            (23, 22, "2^22"),
            (27, 1, "L1 table is too small"),
            (35, 2, "LUKS"),
            (36, 1, "L1 table larger than 33554432 bytes"),
            (46, 2, "not the start of a cluster"),
            (57, 1, "refcount table larger than 8388608 bytes"),
            (59, 0, "no refcount table"),
            (79, 64, "incompatible bit 6"),
            (79, 8, "compression_type is zero"),
            (99, 7, "more than 6"),
            (103, 96, "less than 104"),
            (103, 106, "no multiple of 8"),
            (104, 1, "does-not-matter"),
        ] {
            let mut bytes = sample();
            bytes[at] = value;
            if want == "does-not-matter" {
                bytes[103] = 112;
            }
            let error = Header::decode(&bytes).unwrap_err();
            let text = match &error {
                Error::Corrupt(why) => why.to_string(),
                Error::Unsupported(why) => why.to_string(),
                other => other.to_string(),
            };
            let want = if want == "does-not-matter" { "without its feature bit" } else { want };
            assert!(text.contains(want), "byte {at} = {value}: {text}");
        }
    }

    #[test]
    fn an_unknown_feature_is_reported_under_the_name_that_the_image_gives_it() {
        let mut bytes = sample();
        bytes[79] = 32;
        bytes[104..112].copy_from_slice(&[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 48]);
        bytes[112..122].copy_from_slice(b"\0\x05teleport");
        let Err(Error::Unsupported(Unsupported::Features(names))) = Header::decode(&bytes) else { panic!("accepted") };
        assert_eq!(names, "teleport");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(noise in proptest::collection::vec((0_usize..200, any::<u8>()), 0..12), len in 0_usize..65536) {
            let mut bytes = sample();
            for (at, value) in noise {
                bytes[at] = value;
            }
            if let Ok(header) = Header::decode(&bytes[..len]) {
                header.encode().unwrap();
            }
        }
    }
}
