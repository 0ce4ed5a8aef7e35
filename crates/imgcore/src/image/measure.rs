//! How large a new image becomes.

use super::map::SECTOR;
use super::{Disk, Error, MapEntry, NewDisk, map};
use crate::block::{self, BlockRead, ByteRange};
use crate::qcow2::{self, CreateOptions, Preallocation, Version};

/// Bytes of a new image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Measurement {
    /// At first.
    pub required: u64,
    /// Once all of the disk has been written.
    pub fully_allocated: u64,
    /// For the persistent bitmaps, where both images can have some.
    pub bitmaps: Option<u64>,
}

/// Measures an empty image.
///
/// # Errors
///
/// [`Error::InvalidOptions`] for options that do not fit together.
pub fn measure_new(new: &NewDisk) -> Result<Measurement, Error> {
    measured(new, 0)
}

/// Measures a copy of `disk`, up to the size of `new`; nothing is read but tables.
///
/// A copy with a backing file is taken to need everything, as nobody knows here what the backing file has.
///
/// # Errors
///
/// As [`measure_new`]; the failure of an image.
pub fn measure(disk: &Disk, new: &NewDisk) -> Result<Measurement, Error> {
    let NewDisk::Qcow2(options) = new else { return measured(new, 0) };
    let mut data = Clusters { size: options.cluster_size, next: 0, count: 0 };
    if options.backing.is_none() {
        map(disk, ByteRange::new(0, options.size).unwrap_or_default(), |entry| {
            data.add(entry);
            Ok::<_, block::Error>(())
        })?;
    }
    let plain = CreateOptions { backing: None, ..options.clone() };
    let mut measured = measured(&NewDisk::Qcow2(plain), data.count.saturating_mul(options.cluster_size))?;
    if options.backing.is_some() {
        measured.required = measured.fully_allocated;
    }
    if let Some(image) = disk.qcow2().filter(|image| image.version() == Version::V3 && options.version == Version::V3) {
        let bitmaps = image.bitmaps().map_err(|source| Error::Qcow2 { path: disk.path().to_owned(), source })?;
        measured.bitmaps = Some(qcow2::bitmaps_size(&bitmaps, disk.size(), options.cluster_size));
    }
    Ok(measured)
}

/// Measures an image with `data` bytes of clusters.
fn measured(new: &NewDisk, data: u64) -> Result<Measurement, Error> {
    let size = new.size().checked_next_multiple_of(SECTOR);
    let size = size.ok_or_else(|| Error::InvalidOptions("the disk is too large".to_owned()))?;
    let NewDisk::Qcow2(options) = new else {
        return Ok(Measurement { required: size, fully_allocated: size, bitmaps: None });
    };
    let metadata = qcow2::metadata_size(options).map_err(|error| Error::InvalidOptions(error.to_string()))?;
    let fully_allocated = size
        .checked_next_multiple_of(options.cluster_size)
        .and_then(|clusters| clusters.checked_add(metadata))
        .ok_or_else(|| Error::InvalidOptions("the disk is too large".to_owned()))?;
    let at_first = metadata.saturating_add(data);
    let whole = matches!(options.preallocation, Preallocation::Full | Preallocation::Falloc);
    let required = if whole { fully_allocated } else { at_first };
    Ok(Measurement { required, fully_allocated, bitmaps: None })
}

/// Counts the clusters that have data.
struct Clusters {
    size: u64,
    /// The first cluster that is not counted yet.
    next: u64,
    count: u64,
}

impl Clusters {
    fn add(&mut self, entry: &MapEntry) {
        if entry.kind.is_zero() {
            return;
        }
        let first = entry.range.start().checked_div(self.size).unwrap_or(0).max(self.next);
        self.next = entry.range.end().div_ceil(self.size.max(1)).max(first);
        self.count = self.count.saturating_add(self.next.saturating_sub(first));
    }
}
