//! What an image holds, written into an image below it.

use std::path::Path;

use super::disk::{Layer, named};
use super::open_commit::{CommitChain, open_commit};
use super::{Disk, Error, OpenOptions};
use crate::block::{self, BlockRead, ByteRange, Hole, Resize, in_order, is_zero};
use crate::qcow2::{self, Image};

/// How an image is committed.
#[derive(Clone, Copy, Debug)]
pub struct CommitOptions<'a> {
    /// How the image and those below it are opened.
    pub open: OpenOptions,
    /// The image of the backing chain that takes over what is above it; the next one below the top otherwise.
    pub base: Option<&'a Path>,
    /// Whether the top keeps what it holds; it always does with a base of the caller's choice, as what is between is invalid then.
    pub keep: bool,
    /// Threads that read; 0 is 1.
    pub threads: usize,
}

/// Writes what the image at `path` holds into an image below it, durably, and then makes it empty.
///
/// A base that is smaller becomes as large as the image. What lies between shows anything afterwards; the image itself shows the same
/// at all times, also after a cut, and holds everything until the base is durable. `watch` is told each piece beforehand, and an
/// error that it returns ends the work: the base has some of it then.
///
/// # Errors
///
/// [`Error::InvalidOptions`] without a backing file, or when the base is not in the chain; as [`super::open_writable`] for the image
/// and the base; [`Error::Storage`], also for a device that is too small: nothing has changed then.
pub fn commit(
    path: &Path,
    options: &CommitOptions<'_>,
    watch: &(dyn Fn(ByteRange) -> Result<(), block::Error> + Sync),
) -> Result<(), Error> {
    let CommitChain { mut top, between, mut base } = open_commit(path, options.base, &options.open)?;
    let Layer::Qcow2(image) = &mut top.layer else { return Ok(()) };
    commit_image(image, &between, &mut base, options.threads, watch).map_err(|error| match error {
        Error::Storage(error) => Error::Storage(named(path, error)),
        other => other,
    })?;
    base.close()?;
    if options.keep || options.base.is_some() {
        return Ok(());
    }
    Ok(image.make_empty().map_err(|error| named(path, error.into()))?)
}

/// Writes what `top` and the images `between` hold into `base`, which is one flush from being durable.
///
/// # Errors
///
/// The failure of an image, or of `watch`.
pub fn commit_image<S: BlockRead, B: Resize>(
    top: &Image<S>,
    between: &[Disk],
    base: &mut B,
    threads: usize,
    watch: &(dyn Fn(ByteRange) -> Result<(), block::Error> + Sync),
) -> Result<(), Error> {
    if base.size() < top.size() {
        base.resize(top.size())?;
    }
    let layers = Layers { top, between };
    let mut offset = 0;
    while offset < top.size() {
        let mut pieces = Vec::new();
        while offset < top.size() && pieces.len() < MOST_PIECES {
            offset = layers.next_pieces(offset, &mut pieces)?;
        }
        in_order(
            pieces.into_iter().map(Ok),
            threads.max(1),
            || Ok::<_, Error>(Vec::new()),
            |bytes, piece| {
                watch(piece.range)?;
                layers.read(piece, bytes)
            },
            |bytes, Piece { range, layer }| {
                if layer.is_none() || is_zero(bytes) {
                    base.write_zeroes_at(range, Hole::Allow)?;
                } else {
                    base.write_all_at(bytes, range.start())?;
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// The images above the base.
#[derive(Debug)]
struct Layers<'a, S> {
    top: &'a Image<S>,
    between: &'a [Disk],
}

/// A run that an image above the base holds.
#[derive(Clone, Copy, Debug)]
struct Piece {
    range: ByteRange,
    /// The index of the image, the top first; `None` for zeros.
    layer: Option<usize>,
}

impl<S: BlockRead> Layers<'_, S> {
    /// Adds the run at `offset` to `pieces` if an image above the base holds it, and returns its end.
    fn next_pieces(&self, offset: u64, pieces: &mut Vec<Piece>) -> Result<u64, Error> {
        let mut end = self.top.size();
        let mut layer = 0_usize;
        let held = loop {
            let held = match layer.checked_sub(1).map(|index| self.between.get(index)) {
                None => self.top.layer_at(offset).map_err(block::Error::from)?,
                Some(None) => return Ok(end),
                // What an image between does not reach reads as zeros, whatever the base has there.
                Some(Some(disk)) if offset >= disk.size() => break None,
                Some(Some(disk)) => {
                    end = end.min(disk.size());
                    let Some(image) = disk.qcow2() else { break None };
                    image.layer_at(offset).map_err(|error| named(disk.path(), error.into()))?
                }
            };
            match held {
                qcow2::Layer::Unallocated(range) => end = end.min(range.end()),
                qcow2::Layer::Zero(range) => {
                    end = end.min(range.end());
                    break None;
                }
                qcow2::Layer::Data(range) => {
                    end = end.min(range.end());
                    break Some(layer);
                }
            }
            layer = layer.saturating_add(1);
        };
        let most = if held.is_some() { PIECE } else { ZEROS };
        let mut at = offset;
        while at < end {
            let next = at.saturating_add(1).next_multiple_of(most).min(end);
            pieces.extend(ByteRange::new(at, next).map(|range| Piece { range, layer: held }));
            at = next;
        }
        Ok(end)
    }

    /// Makes `bytes` those of `piece`; leaves them for zeros.
    fn read(&self, piece: &Piece, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let Some(layer) = piece.layer else { return Ok(()) };
        bytes.resize(usize::try_from(piece.range.len()).unwrap_or(usize::MAX), 0);
        match layer.checked_sub(1).and_then(|index| self.between.get(index)) {
            Some(disk) => disk.read_exact_at(bytes, piece.range.start())?,
            None => self.top.read_exact_at(bytes, piece.range.start())?,
        }
        Ok(())
    }
}

/// Bytes that are copied at a time: the largest cluster.
const PIECE: u64 = 2 << 20;
/// Bytes that are zeroed at a time.
const ZEROS: u64 = 1 << 30;
/// Pieces that are listed at a time.
const MOST_PIECES: usize = 4096;
