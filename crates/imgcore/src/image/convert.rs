use std::path::Path;

use super::create::{Target, not_made, start_raw};
use super::differences::differences;
use super::watched::Watched;
use super::{Error, NewDisk};
use crate::block::{self, BlockRead, BlockWrite, ByteRange, Hole, extents, map_in_order};
use crate::qcow2::{self, Content, CreateOptions, Effort, Preallocation};

/// How an image is converted.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions<'a> {
    /// Threads that read, and compress; 0 is 1.
    pub threads: usize,
    /// Whether clusters are compressed; qcow2 only.
    pub compress: bool,
    /// Bytes of zeros that become a hole in a raw image, 1 MiB at most; 0 for an image without holes. In qcow2 it is a cluster.
    pub hole: u64,
    /// For a new image with a backing file: that file's disk. Only what differs from it is stored then; otherwise everything.
    pub backing: Option<&'a dyn BlockRead>,
}

impl Default for ConvertOptions<'_> {
    fn default() -> Self {
        Self { threads: 1, compress: false, hole: 4096, backing: None }
    }
}

/// Makes a new image at `path` that holds what `source` shows, durable, in place of whatever was there.
///
/// The new disk is as large as the source, whatever `new` says. Memory is a few MiB for each thread; zeros are not stored.
/// `unique` distinguishes the temporary file from those of other programs. Every thread tells `watch` the offset of each read
/// on the source before it, and at last the size; an error that it returns ends the work.
///
/// # Errors
///
/// [`Error::InvalidOptions`] for compression to raw or a raw image with a backing file, and as [`super::create`]; the failure
/// of the source, or of `watch`. What was at `path` is untouched then, but for a device.
pub fn convert(
    source: &dyn BlockRead,
    path: &Path,
    new: &NewDisk,
    options: &ConvertOptions<'_>,
    unique: u64,
    watch: &(dyn Fn(u64) -> Result<(), block::Error> + Sync),
) -> Result<(), Error> {
    let size = source.size().next_multiple_of(512);
    let source = &Watched { disk: source, watch };
    let invalid = match new {
        NewDisk::Raw { .. } if options.compress => Some("the format `raw` is not compressed"),
        NewDisk::Raw { .. } if options.backing.is_some() => Some("the format `raw` has no backing file"),
        _ => None,
    };
    if let Some(why) = invalid {
        return Err(Error::InvalidOptions(why.to_owned()));
    }
    let mut target = Target::begin(path, unique)?;
    match new {
        NewDisk::Raw { preallocation, .. } => {
            start_raw(&mut target, size, *preallocation)?;
            let clear = target.is_device();
            copy(source, &mut target, options, clear)?;
        }
        NewDisk::Qcow2(wanted) => {
            let wanted = CreateOptions { size, ..wanted.clone() };
            let changed = match options.backing {
                Some(backing) => differences(source, backing)?,
                None => everything(source, wanted.backing.is_some() || wanted.preallocation != Preallocation::Off)?,
            };
            let content = Content::new(source, &changed);
            let content = options.backing.map_or(content, |backing| content.over(backing));
            let effort = Effort { threads: options.threads.max(1), compress: options.compress };
            qcow2::write_image_with(&mut target, &wanted, &content, effort).map_err(|error| not_made(path, error))?;
        }
    }
    watch(size)?;
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
    options: &ConvertOptions<'_>,
    clear: bool,
) -> Result<(), block::Error> {
    let mut pieces = Vec::new();
    for extent in extents(source, ByteRange::new(0, source.size()).unwrap_or_default()) {
        let extent = extent?;
        if extent.reads_as_zeros() && options.hole > 0 {
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
    let hole = usize::try_from(options.hole.min(PIECE)).unwrap_or(usize::MAX);
    map_in_order(
        &pieces,
        options.threads.max(1),
        || Ok::<_, block::Error>(()),
        |(), piece| {
            let mut bytes = vec![0; usize::try_from(piece.len()).unwrap_or(usize::MAX)];
            source.read_exact_at(&mut bytes, piece.start())?;
            Ok((*piece, bytes))
        },
        |(piece, bytes)| match hole {
            0 => target.write_all_at(&bytes, piece.start()),
            _ => write_sparse(target, piece.start(), &bytes, hole, clear),
        },
    )
}

/// Writes `bytes` but for blocks of `hole` zeros, which are only written when `clear` is set.
fn write_sparse(target: &mut dyn BlockWrite, offset: u64, bytes: &[u8], hole: usize, clear: bool) -> Result<(), block::Error> {
    let blocks: Vec<&[u8]> = bytes.chunks(hole).collect();
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

/// Returns whether all of `bytes` are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::{ConvertOptions, NewDisk, convert, copy};
    use crate::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Hole, MemoryDisk};
    use crate::qcow2::Preallocation;

    #[derive(Debug)]
    struct Recorded(MemoryDisk, Vec<(u64, usize)>);

    impl BlockRead for Recorded {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
            self.0.read_exact_at(buf, offset)
        }
    }

    impl BlockWrite for Recorded {
        fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
            self.1.push((offset, buf.len()));
            self.0.write_all_at(buf, offset)
        }
        fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
            self.0.write_zeroes_at(range, hole)
        }
        fn flush(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn zeros_are_not_written_unless_no_holes_are_wanted_and_the_rest_arrives() {
        let mut bytes = vec![0; (3 << 20) + 700];
        bytes[5000] = 1;
        bytes[1 << 20] = 2;
        bytes[(3 << 20) + 699] = 3;
        let piece = 1 << 20;
        for (hole, writes) in [
            (4096, vec![(4096, 4096), (1 << 20, 4096), (3 << 20, 700)]),
            (1 << 30, vec![(0, piece), (1 << 20, piece), (3 << 20, 700)]),
            (0, vec![(0, piece), (1 << 20, piece), (2 << 20, piece), (3 << 20, 700)]),
        ] {
            let mut target = Recorded(MemoryDisk::new(vec![0; bytes.len()]), Vec::new());
            let options = ConvertOptions { hole, threads: 2, ..ConvertOptions::default() };
            copy(&MemoryDisk::new(bytes.clone()), &mut target, &options, false).unwrap();
            assert_eq!(target.1, writes, "{hole}");
            assert_eq!(target.0.into_bytes(), bytes);
        }
    }

    #[test]
    fn who_watches_can_stop_the_work_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy.raw");
        let source = MemoryDisk::new(vec![1; 3 << 20]);
        let new = NewDisk::Raw { size: 0, preallocation: Preallocation::Off };
        // The last offset is the size: even then nothing is published yet.
        for last in [0, 1 << 20, 3 << 20] {
            let watch = |offset| if offset == last { Err(Error::new(ErrorKind::Io, "stopped")) } else { Ok(()) };
            convert(&source, &path, &new, &ConvertOptions::default(), 1, &watch).unwrap_err();
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{last}");
        }
        convert(&source, &path, &new, &ConvertOptions::default(), 1, &|_| Ok(())).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), vec![1; 3 << 20]);
    }
}
