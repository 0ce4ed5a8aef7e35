//! Other properties for an image that exists: version, width of refcounts, lazy refcounts, data file.
//!
//! All that is asked for is checked before the first change, and put in force by one write of the header; a new size is a
//! change of its own.

mod downgrade;

use std::cmp::Ordering;

use super::error::{Error, Unsupported};
use super::extension::Extension;
use super::feature;
use super::header::{Header, Version};
use super::image::Image;
use super::options::Preallocation;
use super::shadow::Shadow;
use crate::block::Resize;

/// What is to become of an image; what is `None` stays as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AmendOptions {
    /// The version of the format.
    pub version: Option<Version>,
    /// Whether refcount updates may be postponed; version 2 has no such thing.
    pub lazy_refcounts: Option<bool>,
    /// Bits of a refcount: a power of two up to 64. Version 2 has 16.
    pub refcount_bits: Option<u32>,
    /// The name of the external data file, for an image that has one; an empty name is none.
    pub data_file: Option<Vec<u8>>,
    /// Whether the external data file is a raw image by itself. It cannot become one.
    pub data_file_raw: Option<bool>,
    /// Bytes of the disk.
    pub size: Option<u64>,
}

impl AmendOptions {
    /// Checks the options against the image and returns its new version and the width of its refcounts as a power of two.
    fn plan(&self, header: &Header) -> Result<(Version, u32), Error> {
        let version = self.version.unwrap_or(header.version);
        let bits = self.refcount_bits.unwrap_or_else(|| header.geometry.refcount_bits());
        let external = header.incompatible & feature::DATA_FILE != 0;
        let v2 = version == Version::V2;
        let was_raw = header.autoclear & feature::RAW_DATA_FILE != 0;
        let rules = [
            (bits.is_power_of_two() && bits <= 64, "the width of refcounts is a power of two, and at most 64 bits"),
            (!v2 || bits == 16, "version 2 has refcounts of 16 bits"),
            // As in QEMU, what becomes version 2 only now just loses them.
            (!v2 || header.version > version || self.lazy_refcounts != Some(true), "version 2 has no lazy refcounts"),
            (!v2 || !external, "version 2 has no external data file"),
            (!v2 || !header.geometry.extended_l2, "version 2 has no extended L2 entries"),
            (self.data_file.is_none() || external, "the image has no external data file"),
            (self.data_file_raw != Some(true) || was_raw, "an external data file cannot become a raw image"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(Error::InvalidOptions((*why).to_owned())),
            None => Ok((version, bits.trailing_zeros())),
        }
    }
}

impl<S: Resize> Image<S> {
    /// Gives the image other properties, durably.
    ///
    /// Version 2 has no zero clusters, no bitmaps and no features: where zeros hide what a backing file may show, clusters of
    /// zeros are allocated, in snapshots as well, and bitmaps are removed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOptions`] for what does not fit the image, [`Error::Unsupported`] when a refcount does not fit its new
    /// width, clusters are compressed as version 2 cannot read them, or the image cannot be written; otherwise as for other
    /// writes. But for a new size, the image is as it was then.
    pub fn amend(&mut self, options: &AmendOptions) -> Result<(), Error> {
        self.close()?;
        self.check_writable()?;
        let (version, order) = options.plan(&self.header)?;
        if let Some(size) = options.size.filter(|size| *size != self.header.size) {
            // A version 2 image that has snapshots keeps its size.
            if version > self.header.version {
                self.amend(&AmendOptions { size: None, ..options.clone() })?;
                return self.resize_to(size);
            }
            self.resize_to(size)?;
        }
        let mut shadow = self.shadow()?;
        let before = shadow.header.clone();
        if order != before.geometry.refcount_order {
            shadow.set_refcount_order(order);
        }
        match version.cmp(&before.version) {
            Ordering::Less => shadow.downgrade()?,
            Ordering::Equal => {}
            Ordering::Greater => shadow.upgrade()?,
        }
        shadow.set_flags(options);
        if shadow.header == before { Ok(()) } else { shadow.commit() }
    }

    fn resize_to(&mut self, size: u64) -> Result<(), Error> {
        match size.cmp(&self.header.size) {
            Ordering::Less => self.shrink(size),
            Ordering::Equal => Ok(()),
            Ordering::Greater => self.grow(size, Preallocation::Off),
        }?;
        self.close()
    }
}

impl<S: Resize> Shadow<'_, S> {
    /// Makes an image of version 2 one of version 3.
    fn upgrade(&mut self) -> Result<(), Error> {
        self.header.version = Version::V3;
        self.header.extensions.push(feature::names());
        self.header.drop_names_without_room();
        let old = self.image().snapshots()?;
        let mut snapshots = old.clone();
        let mut changed = false;
        for snapshot in &mut snapshots {
            // A version 2 image with snapshots does not change its size.
            changed |= snapshot.complete(self.header.size);
        }
        if changed { self.replace_snapshots(&old, &snapshots) } else { Ok(()) }
    }

    fn set_flags(&mut self, options: &AmendOptions) {
        match options.lazy_refcounts {
            Some(true) if self.header.version == Version::V2 => {}
            Some(true) => self.header.compatible |= feature::LAZY_REFCOUNTS,
            Some(false) => self.header.compatible &= !feature::LAZY_REFCOUNTS,
            None => {}
        }
        if options.data_file_raw == Some(false) {
            self.header.autoclear &= !feature::RAW_DATA_FILE;
        }
        if let Some(name) = &options.data_file {
            self.header.extensions.retain(|extension| extension.kind != Extension::DATA_FILE);
            if !name.is_empty() {
                self.header.extensions.insert(0, Extension { kind: Extension::DATA_FILE, data: name.clone() });
            }
            self.header.drop_names_without_room();
        }
    }
}

/// Returns the error for compressed clusters that version 2 cannot have.
fn not_deflated() -> Error {
    Unsupported::Compressed.into()
}
