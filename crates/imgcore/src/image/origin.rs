//! Which image of a chain the bytes of a run come from.

use super::disk::{Layer, named};
use super::{Disk, Error, Format};
use crate::block::BlockRead;
use crate::qcow2;

/// Where the bytes of a disk from some offset on come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Origin {
    /// The offset up to which they come from there.
    pub(super) end: u64,
    pub(super) source: Source,
}

/// What bytes come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// Nothing: they are zeros.
    Zeros,
    /// The same offset of an image, which two chains may share.
    Stored { device: u64, inode: u64, format: Format },
}

/// Returns the origin of what `disk` shows at `offset`: behind its end, or without a disk, those are zeros. Looks no further
/// than `limit`.
pub(super) fn origin_at(disk: Option<&Disk>, offset: u64, limit: u64) -> Result<Origin, Error> {
    let mut end = limit;
    let mut layer = disk;
    while let Some(disk) = layer.filter(|disk| offset < disk.size()) {
        end = end.min(disk.size());
        let (range, source) = match &disk.layer {
            Layer::Raw(file) => {
                let extent = file.extent_at(offset)?;
                let source = if extent.reads_as_zeros() { Some(Source::Zeros) } else { None };
                (extent.range, Some(source.map_or_else(|| stored(disk), Ok)?))
            }
            Layer::Qcow2(image) => match image.layer_at(offset).map_err(|error| named(disk.path(), error.into()))? {
                qcow2::Layer::Data(range) => (range, Some(stored(disk)?)),
                qcow2::Layer::Zero(range) => (range, Some(Source::Zeros)),
                qcow2::Layer::Unallocated(range) => (range, None),
            },
        };
        end = end.min(range.end());
        if let Some(source) = source {
            return Ok(Origin { end, source });
        }
        layer = disk.backing().map(AsRef::as_ref);
    }
    Ok(Origin { end, source: Source::Zeros })
}

fn stored(disk: &Disk) -> Result<Source, Error> {
    let (device, inode) = disk.storage().identity()?;
    Ok(Source::Stored { device, inode, format: disk.format() })
}
