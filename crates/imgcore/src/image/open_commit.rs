//! Opening a chain of which the top goes into an image below.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use super::disk::Layer;
use super::open::{backing_of, below_error, open_layer, open_link, open_writable_layer};
use super::{Disk, Error, Location, OpenOptions, Storage, WritableDisk};
use crate::qcow2::Image;

/// The images from the top to the one that takes over what is above it.
#[derive(Debug)]
pub(super) struct CommitChain {
    /// The top, for writing; nothing lies below it.
    pub(super) top: WritableDisk,
    /// The qcow2 images below it; nothing lies below each.
    pub(super) between: Vec<Disk>,
    /// The base, for writing, over the rest of the chain.
    pub(super) base: WritableDisk,
}

/// Opens the image at `path`, and its chain down to the image at `base`, or to the next one.
pub(super) fn open_commit(path: &Path, base: Option<&Path>, options: &OpenOptions) -> Result<CommitChain, Error> {
    let mut seen = Vec::new();
    let top = open_writable_layer(path.into(), options, &mut seen)?;
    let none = || Error::InvalidOptions("the image has no backing file".to_owned());
    let wanted = base.map(|base| base.metadata().map_err(|_| not_in_chain(base, path))).transpose()?;
    let mut next = backing_of(path.into(), top.qcow2().ok_or_else(none)?, options)?.ok_or_else(none)?;
    let mut above = path.to_owned();
    let mut between: Vec<Disk> = Vec::new();
    loop {
        let (below, options) = next;
        if wanted.as_ref().is_none_or(|wanted| is_same(wanted, &below)) {
            let mut base =
                open_writable_layer(Location::File(&below), &options, &mut seen).map_err(|error| below_error(&above, error))?;
            if let Layer::Qcow2(image) = &mut base.layer
                && let Some((path, options)) = backing_of(Location::File(&below), image, &options)?
            {
                let disk = open_link(Location::File(&path), &options, &mut seen).map_err(|error| below_error(&below, error))?;
                base.backing = Some(lay_below(image, disk));
            }
            return Ok(CommitChain { top, between, base });
        }
        let layer = open_layer(Location::File(&below), &options, &mut seen).map_err(|error| below_error(&above, error))?;
        let missing = || not_in_chain(base.unwrap_or(path), path);
        next = backing_of(Location::File(&below), layer.qcow2().ok_or_else(missing)?, &options)?.ok_or_else(missing)?;
        between.push(layer);
        above = below;
    }
}

fn lay_below(image: &mut Image<Storage>, disk: Disk) -> Arc<Disk> {
    let disk = Arc::new(disk);
    let backing: Arc<Disk> = Arc::clone(&disk);
    image.set_backing(backing);
    disk
}

fn is_same(wanted: &Metadata, path: &Path) -> bool {
    path.metadata().is_ok_and(|is| (is.dev(), is.ino()) == (wanted.dev(), wanted.ino()))
}

fn not_in_chain(base: &Path, path: &Path) -> Error {
    Error::InvalidOptions(format!("`{}` is not in the backing chain of `{}`", base.display(), path.display()))
}
