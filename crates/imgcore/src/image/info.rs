use std::path::Path;

use serde::Serialize;

use super::open::{BACKING, MAX_CHAIN, refuse_relative};
use super::policy::{beside, has_protocol};
use super::{Disk, Error, Location, OpenOptions, Storage, open};
use crate::block::{self, BlockRead};
use crate::qcow2::{Bitmap, Image, Snapshot, Version};

/// What there is to say about an image, with the field names of `qemu-img info --output=json`.
///
/// Its `Display` is the text of `qemu-img info`; dates are in UTC.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Info {
    /// The file that holds the image.
    pub children: Vec<Child>,
    /// The recorded format of the backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Internal snapshots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotInfo>,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// The path as the user wrote it, or as it follows from the image above.
    pub filename: String,
    /// Bytes of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The format.
    pub format: String,
    /// Bytes that the file takes on its file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// What only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
    /// The path of the backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The name of the backing file as recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// Whether the image was not closed properly.
    pub dirty_flag: bool,
}

/// A node below an image.
#[derive(Clone, Debug, Serialize)]
pub struct Child {
    /// What it is to the image: `file`.
    pub name: String,
    /// What there is to say about it.
    pub info: Box<Info>,
}

/// What only one format has.
#[derive(Clone, Debug, Serialize)]
pub struct FormatSpecific {
    /// The format or protocol.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its properties.
    pub data: Specific,
}

/// Properties of a qcow2 image; none for a file.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Specific {
    /// `0.10` or `1.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat: Option<String>,
    /// `zlib` or `zstd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_type: Option<String>,
    /// Whether refcount updates may be postponed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// Persistent bitmaps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bitmaps: Vec<BitmapInfo>,
    /// Bits of a refcount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refcount_bits: Option<u32>,
    /// The external data file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether that is a raw image by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// Whether the image is marked as corrupt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// Whether clusters are allocated in parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
}

/// An internal snapshot.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The instruction counter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
    /// The part of a second of the machine's clock, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Its name.
    pub name: String,
    /// When it was taken, in seconds since the epoch.
    pub date_sec: u32,
    /// The part of a second, in nanoseconds.
    pub date_nsec: u32,
    /// How long the guest had been running, in seconds.
    pub vm_clock_sec: u64,
    /// Its identifier.
    pub id: String,
    /// Bytes of the saved state of the machine.
    pub vm_state_size: u64,
}

/// A persistent bitmap.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BitmapInfo {
    /// `in-use`, `auto`.
    pub flags: Vec<String>,
    /// Its name.
    pub name: String,
    /// Bytes of the disk for each bit.
    pub granularity: u64,
}

impl Info {
    /// Describes an image, which is shown under `name`: the path as the user wrote it. Nothing below it is needed.
    ///
    /// # Errors
    ///
    /// [`Error::Qcow2`] when its lists of snapshots or bitmaps are corrupt, [`Error::Storage`].
    pub fn read(disk: &Disk, name: &Path) -> Result<Self, Error> {
        let file = disk.storage();
        let filename = name.to_string_lossy().into_owned();
        let mut info = Self::bare(disk.format().name(), &filename, file)?;
        info.children = vec![Child { name: "file".to_owned(), info: Box::new(Self::of_file(&filename, file)?) }];
        info.virtual_size = disk.size().next_multiple_of(512);
        if let Some(image) = disk.qcow2() {
            info.describe(image).map_err(|source| Error::Qcow2 { path: disk.path().to_owned(), source })?;
            info.add_backing(name, image);
        }
        Ok(info)
    }

    /// Describes the image at `location`, shown as `name`, whose relative path begins at `folder`, and then all below it, as far as the policy allows.
    ///
    /// Each is opened alone, so that images without a readable disk are described as well.
    ///
    /// # Errors
    ///
    /// As [`open`] and [`Info::read`].
    pub fn read_chain(location: Location<'_>, name: &Path, folder: &Path, options: &OpenOptions) -> Result<Vec<Self>, Error> {
        let mut chain = Vec::new();
        let mut seen = Vec::new();
        let mut next = Some((name.to_owned(), options.format));
        while let Some((name, format)) = next.take() {
            let path = folder.join(&name);
            let at = if chain.is_empty() { location } else { Location::File(&path) };
            let disk = open(at, &OpenOptions { format, follow: false, ..*options })?;
            let this = disk.storage().identity()?;
            if seen.contains(&this) {
                return Err(Error::Loop(name));
            }
            if seen.len() >= MAX_CHAIN {
                return Err(Error::TooDeep(MAX_CHAIN));
            }
            seen.push(this);
            chain.push(Self::read(&disk, &name)?);
            if let Some(backing) = disk.qcow2().and_then(Image::backing_file) {
                let below = options.policy.resolve(&name, BACKING, &backing.name)?;
                refuse_relative(at, &backing.name)?;
                next = Some((below, backing.format.map(|format| format.parse()).transpose()?));
            }
        }
        Ok(chain)
    }

    fn bare(format: &str, filename: &str, file: &Storage) -> Result<Self, Error> {
        Ok(Self {
            children: Vec::new(),
            backing_filename_format: None,
            snapshots: Vec::new(),
            // QEMU counts in sectors.
            virtual_size: file.size().next_multiple_of(512),
            filename: filename.to_owned(),
            cluster_size: None,
            format: format.to_owned(),
            actual_size: actual_size(file)?,
            format_specific: None,
            full_backing_filename: None,
            backing_filename: None,
            dirty_flag: false,
        })
    }

    fn of_file(filename: &str, file: &Storage) -> Result<Self, Error> {
        let Some(known) = file.as_file() else { return Self::bare("nbd", filename, file) };
        let kind = if known.is_device() { "host_device" } else { "file" };
        let mut info = Self::bare(kind, filename, file)?;
        info.format_specific = Some(FormatSpecific { kind: kind.to_owned(), data: Specific::default() });
        Ok(info)
    }

    fn describe(&mut self, image: &Image<Storage>) -> Result<(), crate::qcow2::Error> {
        let v3 = image.version() == Version::V3;
        let data_file = image.data_file();
        let data = Specific {
            compat: Some(if v3 { "1.1" } else { "0.10" }.to_owned()),
            compression_type: Some(image.compression().name().to_owned()),
            lazy_refcounts: v3.then(|| image.lazy_refcounts()),
            bitmaps: image.bitmaps()?.iter().map(BitmapInfo::from).collect(),
            refcount_bits: Some(image.refcount_bits()),
            data_file_raw: data_file.as_ref().map(|file| file.raw),
            data_file: data_file.and_then(|file| file.name).map(|name| String::from_utf8_lossy(&name).into_owned()),
            corrupt: v3.then(|| image.is_corrupt()),
            extended_l2: v3.then(|| image.extended_l2()),
        };
        self.format_specific = Some(FormatSpecific { kind: "qcow2".to_owned(), data });
        self.cluster_size = Some(image.cluster_size());
        self.snapshots = image.snapshots()?.iter().map(SnapshotInfo::from).collect();
        self.dirty_flag = image.is_dirty();
        Ok(())
    }

    fn add_backing(&mut self, path: &Path, image: &Image<Storage>) {
        let Some(backing) = image.backing_file() else { return };
        let name = String::from_utf8_lossy(&backing.name).into_owned();
        let full =
            if has_protocol(&backing.name) { name.clone() } else { beside(path, &backing.name).to_string_lossy().into_owned() };
        self.backing_filename = Some(name);
        self.full_backing_filename = Some(full);
        self.backing_filename_format = backing.format;
    }
}

impl From<&Snapshot> for SnapshotInfo {
    fn from(snapshot: &Snapshot) -> Self {
        let seconds = snapshot.vm_clock.checked_div(NANOSECONDS).unwrap_or(0);
        Self {
            icount: snapshot.icount,
            vm_clock_nsec: snapshot.vm_clock.checked_rem(NANOSECONDS).unwrap_or(0),
            name: snapshot.name.clone(),
            date_sec: snapshot.date_seconds,
            date_nsec: snapshot.date_nanoseconds,
            vm_clock_sec: seconds,
            id: snapshot.id.clone(),
            vm_state_size: snapshot.vm_state_size,
        }
    }
}

impl From<&Bitmap> for BitmapInfo {
    fn from(bitmap: &Bitmap) -> Self {
        let flags = [(bitmap.in_use, "in-use"), (bitmap.auto, "auto")];
        Self {
            flags: flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()).collect(),
            name: bitmap.name.clone(),
            granularity: bitmap.granularity,
        }
    }
}

/// Returns the bytes that a file takes on its file system; only its server knows that of an export.
fn actual_size(file: &Storage) -> Result<Option<u64>, block::Error> {
    use std::os::unix::fs::MetadataExt;
    let Some(file) = file.as_file() else { return Ok(None) };
    let metadata = file.file().metadata();
    let metadata =
        metadata.map_err(|error| block::Error::from_io(format!("cannot look at `{}`", file.path().display()), error))?;
    Ok(Some(metadata.blocks().saturating_mul(512)))
}

const NANOSECONDS: u64 = 1_000_000_000;
