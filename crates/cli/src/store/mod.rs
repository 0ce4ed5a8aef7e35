//! Base images: files that are named, or copies that the store keeps.
//!
//! ```text
//! ROOT/images/
//!   debian-12/         an image: complete, or not there at all
//!     image.json       what is known of it
//!     image.qcow2      its bytes, which nobody may write
//!   .add.k3XbQz/       an addition at work, or the trace of one that was killed
//! ```
//!
//! An image of the store refers to no other file, so a machine on it depends on one file alone.

mod add;
mod alone;
mod builtin;
mod catalog;
mod name;
mod resolve;
mod shelf;
mod verify;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::add::{Addition, add};
pub use self::catalog::{CatalogImage, catalog};
pub use self::name::{ImageName, NameError};
pub use self::resolve::{BaseImage, Origin, resolve};
pub use self::shelf::{list, load, remove};
pub use self::verify::verify;
use crate::domain::DiskFormat;

/// An image of the store as its `image.json` records it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoredImage {
    /// The version of this form: 1.
    pub version: u32,
    /// The name; the folder has the same.
    pub name: ImageName,
    /// The format of the file.
    pub format: DiskFormat,
    /// The file's name in the image's folder.
    pub file: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the disk that the image holds.
    pub virtual_size: u64,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
    /// Where the image came from: a path, or `builtin:demo`.
    pub origin: String,
    /// When it was added, in seconds since 1970.
    pub added: i64,
}

impl StoredImage {
    /// Returns the path of the image's file in the store at `store`.
    #[must_use]
    pub fn path(&self, store: &std::path::Path) -> PathBuf {
        store.join(self.name.as_str()).join(&self.file)
    }
}

/// The record's file in an image's folder.
const RECORD_FILE: &str = "image.json";

#[cfg(test)]
mod tests;
