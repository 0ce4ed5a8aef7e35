use std::path::Path;

use super::copy::copy;
use super::create::{data_file, not_made, start_raw};
use super::target::Target;
use super::watched::Watched;
use super::{Error, NewDisk};
use crate::block::{self, BlockRead};
use crate::qcow2::{self, Content, CreateOptions, Effort, Image, NewBitmap, Preallocation};

/// How an image is converted.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions<'a> {
    /// Threads that read, and compress; 0 is 1.
    pub threads: usize,
    /// Whether clusters are compressed; qcow2 only.
    pub compress: bool,
    /// Bytes of zeros that become a hole in a raw image; 0 for an image without holes. In qcow2 it is a cluster.
    pub hole: u64,
    /// For a new image with a backing file: that file's disk. Only what differs from it is stored then; otherwise everything.
    pub backing: Option<&'a dyn BlockRead>,
    /// Persistent bitmaps that the copy has; qcow2 only.
    pub bitmaps: &'a [NewBitmap],
    /// Whether the copy is durable at the end.
    pub sync: bool,
}

impl Default for ConvertOptions<'_> {
    fn default() -> Self {
        Self { threads: 1, compress: false, hole: 4096, backing: None, bitmaps: &[], sync: true }
    }
}

/// What looks on while a disk is copied: it is told offsets of the source, and ends the work with an error.
pub type Watch<'a> = &'a (dyn Fn(u64) -> Result<(), block::Error> + Sync);

/// Makes a new image at `path` that holds what `source` shows, in place of whatever was there.
///
/// An external data file is published first, as a second file: a cut between the two leaves it beside an older image at `path`.
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
        NewDisk::Raw { .. } if !options.bitmaps.is_empty() => Some("the format `raw` has no bitmaps"),
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
    let mut target = begin(Target::begin(path, unique, new.no_cow())?);
    let mut data = None;
    match new {
        NewDisk::Raw { preallocation, .. } => {
            let full = *preallocation == Preallocation::Full;
            start_raw(&mut target, size, if full { Preallocation::Off } else { *preallocation })?;
            let hole = if full { 0 } else { options.hole };
            let clear = target.device_size().is_some();
            copy(source, &mut target, options.threads, hole, clear)?;
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
            if !options.bitmaps.is_empty() {
                let stored = Image::open(&mut target).and_then(|mut image| image.store_bitmaps(options.bitmaps));
                stored.map_err(|error| not_made(path, error))?;
            }
        }
    }
    watch(size)?;
    data.map_or(Ok(()), |data| data.publish(options.sync))?;
    target.publish(options.sync)
}

#[cfg(test)]
mod tests {
    use super::{ConvertOptions, NewDisk, convert};
    use crate::block::{Error, ErrorKind, MemoryDisk};
    use crate::qcow2::Preallocation;

    #[test]
    fn who_watches_can_stop_the_work_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy.raw");
        let source = MemoryDisk::new(vec![1; 3 << 20]);
        let new = NewDisk::Raw { size: 0, preallocation: Preallocation::Off, no_cow: false };
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
