//! Another backing file below an image whose disk stays the same.

use super::disk::{Layer, named};
use super::open::{open_new_below, refuse_itself};
use super::origin::{Source, origin_at};
use super::{Disk, Error, OpenOptions, Storage, WritableDisk};
use crate::block::{self, BlockRead, BlockWrite as _, ByteRange, Resize, is_zero, map_in_order};
use crate::qcow2::{self, Deflater, Image, NewBacking, Version};

/// How an image is rebased.
#[derive(Clone, Copy, Debug)]
pub struct RebaseOptions {
    /// How the new backing file is opened, and what of the files that it names; its format and its path are the caller's.
    pub open: OpenOptions,
    /// Threads that read, compare and compress; 0 is 1.
    pub threads: usize,
    /// Whether whole clusters that the image takes over are compressed.
    pub compress: bool,
}

/// Replaces the backing file of the image in `disk`, or removes it, and keeps what the disk shows.
///
/// Where the old chain and the new one differ, the image takes over what the old one shows. That is durable before the record
/// of the backing file changes, in one step, so the disk is the same after a cut at any write. Internal snapshots read from the new
/// chain afterwards. The `disk` still reads from the old chain; open it again. `watch` is told the offset of each piece beforehand,
/// and an error that it returns ends the work, with the old backing file.
///
/// # Errors
///
/// [`Error::Unsupported`] for a raw image, [`Error::Loop`] when the image would come to lie below itself, [`Error::Below`] when the
/// new backing file cannot be used, [`Error::Qcow2`] also when the image must not be written, or has no room for the name;
/// [`Error::Storage`].
pub fn rebase(
    disk: &mut WritableDisk,
    backing: Option<&NewBacking>,
    options: &RebaseOptions,
    watch: &(dyn Fn(u64) -> Result<(), block::Error> + Sync),
) -> Result<(), Error> {
    let old = disk.backing.clone();
    let image = qcow2_of(disk)?;
    let new = backing.map(|backing| open_new_below(image.storage(), backing, &options.open)).transpose()?;
    let chains = Chains { old: old.as_deref(), new: new.as_ref() };
    rebase_image(image, chains, backing, options, watch).map_err(|error| not_rebased(image, error))
}

/// Replaces the record of the backing file of the image in `disk`, which nobody looks at: the disk shows what that makes of it.
///
/// # Errors
///
/// As [`rebase`], but for the new backing file.
pub fn record_backing(disk: &mut WritableDisk, backing: Option<&NewBacking>) -> Result<(), Error> {
    let image = qcow2_of(disk)?;
    if let Some(backing) = backing {
        refuse_itself(image.storage(), backing)?;
    }
    image.set_backing_file(backing).map_err(|source| not_rebased(image, failed(source)))
}

/// The old chain below an image and the new one; `None` is one of zeros.
#[derive(Clone, Copy, Debug)]
pub struct Chains<'a> {
    /// What the image reads from.
    pub old: Option<&'a Disk>,
    /// What it will read from.
    pub new: Option<&'a Disk>,
}

/// As [`rebase`], for an image over any storage, to which `chains` belong.
///
/// # Errors
///
/// The failure of the image or of a chain.
pub fn rebase_image<S: Resize>(
    image: &mut Image<S>,
    chains: Chains<'_>,
    backing: Option<&NewBacking>,
    options: &RebaseOptions,
    watch: &(dyn Fn(u64) -> Result<(), block::Error> + Sync),
) -> Result<(), Error> {
    let work = Work {
        chains,
        options,
        watch,
        unit: if image.extended_l2() { image.cluster_size().wrapping_shr(5) } else { image.cluster_size() },
        cluster: options.compress.then_some(image.cluster_size()),
        zeros_are_free: image.version() == Version::V3,
    };
    work.take_over(image)?;
    image.close().map_err(failed)?;
    image.set_backing_file(backing).map_err(failed)
}

fn qcow2_of(disk: &mut WritableDisk) -> Result<&mut Image<Storage>, Error> {
    match &mut disk.layer {
        Layer::Qcow2(image) => Ok(image),
        Layer::Raw(_) => Err(Error::Unsupported("the format `raw` has no backing file".to_owned())),
    }
}

fn failed(error: qcow2::Error) -> Error {
    match error {
        qcow2::Error::InvalidOptions(why) => Error::InvalidOptions(why),
        error => Error::Storage(error.into()),
    }
}

fn not_rebased(image: &Image<Storage>, error: Error) -> Error {
    match error {
        Error::Storage(error) => Error::Storage(named(image.storage().path(), error)),
        other => other,
    }
}

/// What is the same for all pieces.
#[derive(Clone, Copy)]
struct Work<'a> {
    chains: Chains<'a>,
    options: &'a RebaseOptions,
    watch: &'a (dyn Fn(u64) -> Result<(), block::Error> + Sync),
    /// Bytes that are taken over or not as a whole: a cluster or a part of it.
    unit: u64,
    /// Bytes of a cluster, if clusters are compressed.
    cluster: Option<u64>,
    /// Whether zeros cost no space.
    zeros_are_free: bool,
}

/// A run that the image reads from below, and that may differ there.
#[derive(Clone, Copy, Debug)]
struct Piece {
    range: ByteRange,
    old_is_zero: bool,
    new_is_zero: bool,
}

/// What the image takes over of a piece.
#[derive(Debug, Default)]
struct Taken {
    start: u64,
    bytes: Vec<u8>,
    runs: Vec<Run>,
}

#[derive(Debug)]
enum Run {
    Zeros(ByteRange),
    Bytes(ByteRange),
    Compressed(u64, Vec<u8>),
}

impl Work<'_> {
    /// Writes to `image` what the new chain would show differently.
    fn take_over<S: Resize>(&self, image: &mut Image<S>) -> Result<(), Error> {
        let (size, compression) = (image.size(), image.compression());
        let threads = self.options.threads.max(1);
        let mut offset = 0;
        while offset < size {
            let mut pieces = Vec::new();
            while offset < size && pieces.len() < MOST_PIECES {
                offset = self.next_pieces(image, offset, &mut pieces)?;
            }
            let deflater = || {
                let len = self.cluster.map(len_usize);
                let made = len.map(|len| Deflater::new(compression, len)).transpose();
                made.map_err(|error| Error::from(block::Error::from(error)))
            };
            map_in_order(
                &pieces,
                threads,
                deflater,
                |deflater, piece| self.compare(piece, deflater.as_mut()),
                |taken| put(image, &taken),
            )?;
        }
        Ok(())
    }

    /// Adds what of the run at `offset` may differ to `pieces`, and returns up to where.
    fn next_pieces<S: Resize>(&self, image: &Image<S>, offset: u64, pieces: &mut Vec<Piece>) -> Result<u64, Error> {
        (self.watch)(offset)?;
        let range = match image.layer_at(offset).map_err(failed)? {
            qcow2::Layer::Unallocated(range) => range,
            qcow2::Layer::Zero(range) | qcow2::Layer::Data(range) => return Ok(range.end()),
        };
        let mut at = range.start();
        while at < range.end() && pieces.len() < MOST_PIECES {
            let (old, new) = (origin_at(self.chains.old, at, range.end())?, origin_at(self.chains.new, at, range.end())?);
            let known = old.end.min(new.end);
            let whole =
                if known == range.end() { known } else { known.saturating_sub(known.checked_rem(self.step()).unwrap_or(0)) };
            if whole > at {
                if old.source != new.source {
                    let piece = |range| Piece {
                        range,
                        old_is_zero: old.source == Source::Zeros,
                        new_is_zero: new.source == Source::Zeros,
                    };
                    pieces.extend(parts(at, whole).map(piece));
                }
                at = whole;
            } else {
                // The origin changes inside a unit.
                let end = at.saturating_add(1).next_multiple_of(self.step()).min(range.end());
                let range = ByteRange::new(at, end).unwrap_or_default();
                pieces.push(Piece { range, old_is_zero: false, new_is_zero: false });
                at = end;
            }
        }
        Ok(at)
    }

    /// Bytes that are looked at as a whole.
    fn step(&self) -> u64 {
        self.cluster.unwrap_or(self.unit)
    }

    /// Finds what of `piece` the image must take over.
    fn compare(&self, piece: &Piece, mut deflater: Option<&mut Deflater>) -> Result<Taken, Error> {
        let start = piece.range.start();
        (self.watch)(start)?;
        let mut taken = Taken { start, ..Taken::default() };
        if piece.old_is_zero && self.zeros_are_free {
            taken.runs.push(Run::Zeros(piece.range));
            return Ok(taken);
        }
        taken.bytes = read_below(self.chains.old.filter(|_| !piece.old_is_zero), piece.range)?;
        let theirs = if piece.new_is_zero { Vec::new() } else { read_below(self.chains.new, piece.range)? };
        let mut at = start;
        while at < piece.range.end() {
            let end = at.saturating_add(1).next_multiple_of(self.step()).min(piece.range.end());
            let unit = ByteRange::new(at, end).unwrap_or_default();
            at = end;
            let (ours, theirs) = (part(&taken.bytes, start, unit), part(&theirs, start, unit));
            let zero = is_zero(ours);
            if if piece.new_is_zero { zero } else { ours == theirs } {
                continue;
            }
            if zero {
                push(&mut taken.runs, unit, Run::Zeros);
            } else if let Some(stored) = self.compressed(ours, unit, deflater.as_deref_mut()) {
                taken.runs.push(Run::Compressed(unit.start(), stored));
            } else {
                push(&mut taken.runs, unit, Run::Bytes);
            }
        }
        Ok(taken)
    }

    /// Returns the compressed form of the cluster that `unit` is, when there is to be one and it is smaller.
    fn compressed(&self, bytes: &[u8], unit: ByteRange, deflater: Option<&mut Deflater>) -> Option<Vec<u8>> {
        let whole = self.cluster == Some(unit.len());
        deflater.filter(|_| whole).and_then(|deflater| deflater.deflate(bytes)).map(<[u8]>::to_vec)
    }
}

/// Adds `unit` to `runs`, as a part of the last one where that is of the same kind and ends there.
fn push(runs: &mut Vec<Run>, unit: ByteRange, kind: fn(ByteRange) -> Run) {
    let last = match (runs.last(), kind(unit)) {
        (Some(Run::Zeros(last)), Run::Zeros(_)) | (Some(Run::Bytes(last)), Run::Bytes(_)) => Some(*last),
        _ => None,
    };
    match last.filter(|last| last.end() == unit.start()) {
        Some(last) => {
            runs.pop();
            runs.push(kind(ByteRange::new(last.start(), unit.end()).unwrap_or(unit)));
        }
        None => runs.push(kind(unit)),
    }
}

/// Lets the image say by itself what it has read from below.
fn put<S: Resize>(image: &mut Image<S>, taken: &Taken) -> Result<(), Error> {
    for run in &taken.runs {
        match run {
            Run::Zeros(range) => image.hold_zeroes(*range).map_err(failed)?,
            Run::Bytes(range) => image.write_all_at(part(&taken.bytes, taken.start, *range), range.start())?,
            Run::Compressed(offset, stored) => image.write_compressed(stored, *offset).map_err(failed)?,
        }
    }
    Ok(())
}

/// Returns the bytes of `range` in `bytes`, which begin at `start`.
fn part(bytes: &[u8], start: u64, range: ByteRange) -> &[u8] {
    let from = len_usize(range.start().saturating_sub(start));
    bytes.get(from..).and_then(|rest| rest.get(..len_usize(range.len()))).unwrap_or_default()
}

/// Returns what `disk` shows in `range`, with zeros behind its end.
fn read_below(disk: Option<&Disk>, range: ByteRange) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; len_usize(range.len())];
    let Some(disk) = disk else { return Ok(bytes) };
    let inside = len_usize(disk.size().saturating_sub(range.start())).min(bytes.len());
    if let Some(inside) = bytes.get_mut(..inside).filter(|inside| !inside.is_empty()) {
        disk.read_exact_at(inside, range.start())?;
    }
    Ok(bytes)
}

/// Returns the pieces of a run, which end where clusters do.
fn parts(start: u64, end: u64) -> impl Iterator<Item = ByteRange> {
    let mut at = start;
    std::iter::from_fn(move || {
        let next = at.saturating_add(1).next_multiple_of(PIECE).min(end);
        let range = ByteRange::new(at, next).filter(|range| !range.is_empty())?;
        at = next;
        Some(range)
    })
}

fn len_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Bytes that are compared at a time: the largest cluster.
const PIECE: u64 = 2 << 20;
/// Pieces that are listed at a time.
const MOST_PIECES: usize = 4096;
