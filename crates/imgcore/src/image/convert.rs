use std::path::Path;
use std::sync::Arc;

use super::create::{Target, start_raw};
use super::{Error, NewDisk};
use crate::block::{self, BlockRead, BlockWrite, ByteRange, Hole, extents, map_in_order};
use crate::qcow2::{self, Content, CreateOptions, Effort, Preallocation};

/// How an image is converted.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// Threads that read, and compress; 0 is 1.
    pub threads: usize,
    /// Whether clusters are compressed; qcow2 only.
    pub compress: bool,
    /// For a new image with a backing file: what differs from it, as [`super::Disk::stored`] tells; otherwise everything.
    pub changed: Option<Vec<ByteRange>>,
    /// For a new image with a backing file: that file's disk.
    pub backing: Option<Arc<dyn BlockRead>>,
}

/// Makes a new image at `path` that holds what `source` shows, durable, in place of whatever was there.
///
/// The new disk is as large as the source, whatever `new` says. Memory is a few MiB for each thread; zeros are not stored.
/// `unique` distinguishes the temporary file from those of other programs; `progress` is told the bytes done.
///
/// # Errors
///
/// [`Error::InvalidOptions`] for compression to raw, and as [`super::create`]; the failure of the source. What was at `path` is
/// untouched then, but for a device.
pub fn convert(
    source: &dyn BlockRead,
    path: &Path,
    new: &NewDisk,
    options: &ConvertOptions,
    unique: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let size = source.size().next_multiple_of(512);
    let mut target = Target::begin(path, unique)?;
    match new {
        NewDisk::Raw { .. } if options.compress => {
            return Err(Error::InvalidOptions("Compression not supported for this file format".to_owned()));
        }
        NewDisk::Raw { preallocation, .. } => {
            start_raw(&mut target, size, *preallocation)?;
            let clear = target.is_device();
            copy(source, &mut target, options.threads, clear, progress)?;
        }
        NewDisk::Qcow2(wanted) => {
            let wanted = CreateOptions { size, ..wanted.clone() };
            let changed = match &options.changed {
                Some(changed) => changed.clone(),
                None => everything(source, wanted.backing.is_some() || wanted.preallocation != Preallocation::Off)?,
            };
            let content = Content::new(source, &changed);
            let content = options.backing.as_ref().map_or(content, |backing| content.over(backing));
            let mut effort = Effort { threads: options.threads.max(1), compress: options.compress, progress };
            qcow2::write_image_with(&mut target, &wanted, &content, &mut effort)
                .map_err(|source| Error::Qcow2 { path: path.to_owned(), source })?;
        }
    }
    target.publish()
}

/// Returns all that is to be stored: what is not known to be zeros, or with `all` the whole disk.
fn everything(source: &dyn BlockRead, all: bool) -> Result<Vec<ByteRange>, Error> {
    let range = ByteRange::new(0, source.size()).unwrap_or_default();
    if all {
        return Ok(vec![range]);
    }
    let mut data = Vec::new();
    for extent in extents(source, range) {
        let extent = extent?;
        if !extent.reads_as_zeros() {
            data.push(extent.range);
        }
    }
    Ok(data)
}

/// Copies `source` to the start of `target`, whose bytes are zeros already unless `clear` is set.
fn copy(
    source: &dyn BlockRead,
    target: &mut dyn BlockWrite,
    threads: usize,
    clear: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let mut pieces = Vec::new();
    for extent in extents(source, ByteRange::new(0, source.size()).unwrap_or_default()) {
        let extent = extent?;
        if extent.reads_as_zeros() {
            if clear {
                target.write_zeroes_at(extent.range, Hole::Allow)?;
            }
            continue;
        }
        let mut start = extent.range.start();
        while start < extent.range.end() {
            // Pieces end where blocks do, for the search for zeros.
            let end = start.saturating_add(1).next_multiple_of(PIECE).min(extent.range.end());
            pieces.extend(ByteRange::new(start, end));
            start = end;
        }
    }
    map_in_order(
        &pieces,
        threads,
        || Ok::<_, block::Error>(()),
        |(), piece| {
            let mut bytes = vec![0; usize::try_from(piece.len()).unwrap_or(usize::MAX)];
            source.read_exact_at(&mut bytes, piece.start())?;
            Ok((*piece, bytes))
        },
        |(piece, bytes)| {
            write_sparse(target, piece.start(), &bytes, clear)?;
            progress(piece.end());
            Ok(())
        },
    )?;
    Ok(())
}

/// Writes `bytes` but for blocks of zeros, which are only written when `clear` is set.
fn write_sparse(target: &mut dyn BlockWrite, offset: u64, bytes: &[u8], clear: bool) -> Result<(), block::Error> {
    let blocks: Vec<&[u8]> = bytes.chunks(BLOCK).collect();
    let mut at = offset;
    let mut rest = bytes;
    for same in blocks.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let len = same.iter().map(|block| block.len()).sum::<usize>();
        let (run, behind) = rest.split_at(len.min(rest.len()));
        let range = ByteRange::at(at, u64::try_from(len).unwrap_or(u64::MAX)).unwrap_or_default();
        if !same.first().is_some_and(|block| is_zero(block)) {
            target.write_all_at(run, at)?;
        } else if clear {
            target.write_zeroes_at(range, Hole::Allow)?;
        }
        at = range.end();
        rest = behind;
    }
    Ok(())
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().fold(0, |seen, byte| seen | *byte) == 0
}

/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;
/// Bytes of zeros that are worth a hole, as in qemu-img.
const BLOCK: usize = 4096;
