//! The qcow2 image format, versions 2 and 3.
//!
//! ```text
//! guest offset --> L1 table --> L2 table --> cluster --> bytes             cluster = compressed, zero, or in a data file
//!                                       \--> nothing --> backing disk, or zeros
//! host offset  --> refcount table --> refcount block --> how often the cluster is used
//! ```
//!
//! An image is given its storage and the disk below it; it opens neither. Guest and host offsets are types of their own.
//! [`create`] and [`write_image`] make new images in one pass; [`Image`] reads and, over storage that can be written, writes.
//!
//! # Spec
//!
//! QEMU's docs/interop/qcow2.rst.

mod amend;
mod backing;
mod bitmap;
mod cache;
mod check;
mod compression;
mod content;
mod counts;
mod create;
mod empty;
mod entry;
mod error;
mod extension;
mod feature;
mod geometry;
mod header;
mod image;
mod mapping;
mod measure;
mod new_image;
mod offset;
mod options;
mod raw;
mod read;
mod refcount_block;
mod shadow;
mod snapshots;
mod table;
mod usage;
mod view;
mod write;
mod writing;

pub use amend::AmendOptions;
pub use bitmap::{Bitmap, BitmapChange, BitmapError, Bits, NewBitmap};
pub use check::{Check, Repair, Repaired};
pub use compression::{Compression, Deflater};
pub use content::Content;
pub use create::create;
pub use error::{Corrupt, Error, Unsupported};
pub use header::Version;
pub use image::{BackingFile, DataFile, Image};
pub use mapping::{Mapping, Place};
pub use measure::{bitmaps_size, metadata_size};
pub use offset::{GuestOffset, HostOffset};
pub use options::{CreateOptions, DataFileName, NewBacking, Preallocation};
pub use read::Layer;
pub use snapshots::{NewSnapshot, Snapshot, SnapshotError};
pub use write::{Effort, write_image, write_image_beside, write_image_with};

#[cfg(test)]
mod cut;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_amend;
#[cfg(test)]
mod tests_bitmap;
#[cfg(test)]
mod tests_check;
#[cfg(test)]
mod tests_cut;
#[cfg(test)]
mod tests_full;
#[cfg(test)]
mod tests_model;
#[cfg(test)]
mod tests_repair;
#[cfg(test)]
mod tests_snapshots;
