//! Which image of a chain holds the bytes of a disk.

use super::disk::Layer;
use super::{Disk, WritableDisk};
use crate::block::{self, BlockRead, ByteRange};
use crate::qcow2;

impl Disk {
    /// Returns the run at `offset` that one image of the chain holds, and which: 1 for this one, 0 for none.
    ///
    /// # Errors
    ///
    /// As [`BlockRead::extent_at`].
    pub fn depth_at(&self, offset: u64) -> Result<(ByteRange, u32), block::Error> {
        depth(&self.layer, self.backing(), offset)
    }
}

impl WritableDisk {
    /// As [`Disk::depth_at`].
    ///
    /// # Errors
    ///
    /// As [`BlockRead::extent_at`].
    pub fn depth_at(&self, offset: u64) -> Result<(ByteRange, u32), block::Error> {
        depth(&self.layer, self.backing(), offset)
    }
}

fn depth(top: &Layer, backing: Option<&std::sync::Arc<Disk>>, offset: u64) -> Result<(ByteRange, u32), block::Error> {
    let (mut layer, mut below) = (top, backing);
    let mut run: Option<ByteRange> = None;
    let mut depth = 1_u32;
    loop {
        let (range, holds) = held(layer, offset)?;
        let seen = run.map_or(range, |run| run.intersection(range).unwrap_or(run));
        if holds {
            return Ok((seen, depth));
        }
        // What lies behind the end of the disk below is nobody's.
        match below.filter(|disk| disk.size() > offset) {
            Some(disk) => {
                run = seen.intersection(ByteRange::new(offset, disk.size()).unwrap_or_default());
                (layer, below) = (&disk.layer, disk.backing());
                depth = depth.saturating_add(1);
            }
            None => return Ok((seen, 0)),
        }
    }
}

/// Returns the run at `offset` that an image itself holds, or does not.
fn held(layer: &Layer, offset: u64) -> Result<(ByteRange, bool), block::Error> {
    Ok(match layer {
        Layer::Raw(file) => {
            let all = ByteRange::new(offset, file.size()).filter(|range| !range.is_empty());
            (all.ok_or_else(|| block::Error::out_of_bounds(offset, 1, file.size()))?, true)
        }
        Layer::Qcow2(image) => match image.layer_at(offset)? {
            qcow2::Layer::Unallocated(range) => (range, false),
            qcow2::Layer::Zero(range) | qcow2::Layer::Data(range) => (range, true),
        },
    })
}
