use std::path::Path;

use super::create::{data_file, not_made, start_raw};
use super::target::Target;
use super::watched::Watched;
use super::{Error, NewDisk, WritableDisk};
use crate::block::{self, BlockRead, BlockWrite, ByteRange, Extent, Hole, in_order, is_zero};
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
    /// Whether the copy is durable at the end.
    pub sync: bool,
}

impl Default for ConvertOptions<'_> {
    fn default() -> Self {
        Self { threads: 1, compress: false, hole: 4096, backing: None, sync: true }
    }
}

/// What looks on while a disk is copied: it is told offsets of the source, and ends the work with an error.
pub type Watch<'a> = &'a (dyn Fn(u64) -> Result<(), block::Error> + Sync);

/// Makes a new image at `path` that holds what `source` shows, in place of whatever was there.
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
    watch: Watch<'_>,
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
    let begin = |mut target: Target| {
        if !options.sync {
            target.store_late();
        }
        target
    };
    let mut target = begin(Target::begin(path, unique)?);
    let mut data = None;
    match new {
        NewDisk::Raw { preallocation, .. } => {
            let full = *preallocation == Preallocation::Full;
            start_raw(&mut target, size, if full { Preallocation::Off } else { *preallocation })?;
            let hole = if full { 0 } else { options.hole };
            let clear = target.device_size().is_some();
            copy(source, &mut target, &ConvertOptions { hole, ..*options }, clear)?;
        }
        NewDisk::Qcow2(wanted) => {
            let wanted = CreateOptions { size, ..wanted.clone() };
            let content = Content::whole(source);
            let content = options.backing.map_or(content, |backing| content.over(backing));
            let effort = Effort { threads: options.threads.max(1), compress: options.compress };
            data = data_file(path, &wanted, unique)?.map(begin);
            match &mut data {
                Some(data) => qcow2::write_image_beside(&mut target, data, &wanted, &content, effort),
                None => qcow2::write_image_with(&mut target, &wanted, &content, effort),
            }
            .map_err(|error| not_made(path, error))?;
        }
    }
    watch(size)?;
    data.map_or(Ok(()), |data| data.publish(options.sync))?;
    target.publish(options.sync)
}

/// Makes the disk of an image that is there read as `source`, in place: a failure leaves it half written.
///
/// A larger target keeps what is behind the end of the source. With `is_zero` the target is known to read as zeros, so that
/// zeros of the source are not written. `watch` is as in [`convert`].
///
/// # Errors
///
/// [`Error::InvalidOptions`] for compression or a backing disk, and when the target is smaller than the source; otherwise the
/// failure of either side, or of `watch`.
pub fn convert_into(
    source: &dyn BlockRead,
    target: &mut WritableDisk,
    is_zero: bool,
    options: &ConvertOptions<'_>,
    watch: Watch<'_>,
) -> Result<(), Error> {
    let invalid = match options {
        ConvertOptions { compress: true, .. } => Some("an image that is there cannot be filled with compressed clusters"),
        ConvertOptions { backing: Some(_), .. } => Some("an image that is there has its backing file already"),
        _ if target.size() < source.size() => Some("the output image is smaller than the input"),
        _ => None,
    };
    if let Some(why) = invalid {
        return Err(Error::InvalidOptions(why.to_owned()));
    }
    copy(&Watched { disk: source, watch }, target, options, !is_zero)?;
    watch(source.size())?;
    // Without it, what an image has in memory would be lost.
    Ok(target.flush()?)
}

/// Copies `source` to the start of `target`, whose bytes are zeros already unless `clear` is set.
fn copy(
    source: &dyn BlockRead,
    target: &mut dyn BlockWrite,
    options: &ConvertOptions<'_>,
    clear: bool,
) -> Result<(), block::Error> {
    let rest = ByteRange::new(0, source.size()).unwrap_or_default();
    let pieces = Pieces { disk: source, rest, holes: options.hole > 0, extent: None };
    let hole = usize::try_from(options.hole.min(PIECE)).unwrap_or(usize::MAX);
    in_order(
        pieces,
        options.threads.max(1),
        || Ok::<_, block::Error>(Vec::new()),
        |bytes: &mut Vec<u8>, piece| match piece {
            Piece::Zero(_) => Ok(()),
            Piece::Data(range) => {
                bytes.resize(usize::try_from(range.len()).unwrap_or(usize::MAX), 0);
                source.read_exact_at(bytes, range.start())
            }
        },
        |bytes, piece| match piece {
            Piece::Zero(range) if clear => target.write_zeroes_at(range, Hole::Allow),
            Piece::Zero(_) => Ok(()),
            Piece::Data(range) if hole == 0 => target.write_all_at(bytes, range.start()),
            Piece::Data(range) => write_sparse(target, range.start(), bytes, hole, clear),
        },
    )
}

/// A part of a disk that is copied by itself.
enum Piece {
    /// Known to be zeros.
    Zero(ByteRange),
    /// To be read.
    Data(ByteRange),
}

/// The pieces of a disk, from the first to the last.
struct Pieces<'a> {
    disk: &'a dyn BlockRead,
    rest: ByteRange,
    /// Whether zeros are told apart.
    holes: bool,
    /// The last extent that was looked up.
    extent: Option<Extent>,
}

impl Pieces<'_> {
    fn piece(&mut self) -> Result<Piece, block::Error> {
        let (start, end) = (self.rest.start(), self.rest.end());
        // Pieces end where blocks do, for the search for zeros.
        let border = start.saturating_add(1).next_multiple_of(PIECE).min(end);
        let mut at = start;
        while at < border && self.holes {
            let extent = self.extent_at(at)?;
            let until = extent.range.end();
            if extent.reads_as_zeros() && at == start && until >= border {
                return Ok(self.take(until.min(end), Piece::Zero));
            }
            // Few zeros are found again when they are read; a piece of their own costs more.
            if extent.reads_as_zeros() && until >= border {
                return Ok(self.take(at, Piece::Data));
            }
            at = until;
        }
        Ok(self.take(border, Piece::Data))
    }

    fn take(&mut self, end: u64, kind: impl Fn(ByteRange) -> Piece) -> Piece {
        let piece = ByteRange::new(self.rest.start(), end).unwrap_or_default();
        self.rest = ByteRange::new(end, self.rest.end()).unwrap_or_default();
        kind(piece)
    }

    fn extent_at(&mut self, offset: u64) -> Result<Extent, block::Error> {
        match self.extent.filter(|extent| extent.range.contains(offset)) {
            Some(extent) => Ok(extent),
            None => Ok(*self.extent.insert(self.disk.extent_at(offset)?)),
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, block::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() { None } else { Some(self.piece()) }
    }
}

/// Writes `bytes` but for blocks of `hole` zeros, which are only written when `clear` is set.
fn write_sparse(target: &mut dyn BlockWrite, offset: u64, bytes: &[u8], hole: usize, clear: bool) -> Result<(), block::Error> {
    let mut at = offset;
    let mut rest = bytes;
    while let Some(first) = rest.chunks(hole).next() {
        let zeros = is_zero(first);
        let len = rest.chunks(hole).take_while(|block| is_zero(block) == zeros).map(<[u8]>::len).sum::<usize>();
        let (run, behind) = rest.split_at(len.min(rest.len()));
        let range = ByteRange::at(at, u64::try_from(len).unwrap_or(u64::MAX)).unwrap_or_default();
        if !zeros {
            target.write_all_at(run, at)?;
        } else if clear {
            target.write_zeroes_at(range, Hole::Allow)?;
        }
        at = range.end();
        rest = behind;
    }
    Ok(())
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
