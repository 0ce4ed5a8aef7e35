//! New images with content, written in a single pass.

use super::compression::{Compression, Deflater};
use super::content::{Content, Piece, Zeros};
use super::error::Error;
use super::geometry::Geometry;
use super::header::Version;
use super::new_image::{NewImage, write_sparse};
use super::offset::{to_u64, to_usize};
use super::options::{CreateOptions, Preallocation};
use super::table::is_zero;
use crate::block::{BlockRead, ByteRange, Resize, in_order};

/// Makes `target` an image whose allocated clusters are those that the changes of `content` touch.
///
/// The rest of such a cluster is filled from the content. Clusters of zeros become zero clusters, or stay unallocated where
/// nothing but zeros lies under them. What was in `target` is gone; it is written from front to back in large pieces, and the
/// same content gives the same bytes. Nothing is flushed.
///
/// # Errors
///
/// [`Error::InvalidOptions`] before the first change, also for an external data file; [`Error::Storage`] when either side
/// fails.
pub fn write_image<T: Resize + ?Sized>(target: &mut T, options: &CreateOptions, content: &Content<'_>) -> Result<(), Error> {
    write(target, None, options, content, Effort { threads: 1, compress: false })
}

/// How an image is written.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Threads that read and compress.
    pub threads: usize,
    /// Whether clusters are compressed.
    pub compress: bool,
}

/// As [`write_image`], with threads and compression.
///
/// # Errors
///
/// As [`write_image`]; [`Error::InvalidOptions`] also for compression with preallocation.
pub fn write_image_with<T: Resize + ?Sized>(
    target: &mut T,
    options: &CreateOptions,
    content: &Content<'_>,
    effort: Effort,
) -> Result<(), Error> {
    write(target, None, options, content, effort)
}

/// As [`write_image_with`], with the external data file that the options name: `data_file`, which is empty.
///
/// # Errors
///
/// As [`write_image_with`]; [`Error::InvalidOptions`] also for compression.
pub fn write_image_beside<T: Resize + ?Sized>(
    target: &mut T,
    data_file: &mut dyn Resize,
    options: &CreateOptions,
    content: &Content<'_>,
    effort: Effort,
) -> Result<(), Error> {
    write(target, Some(data_file), options, content, effort)
}

fn write<T: Resize + ?Sized>(
    target: &mut T,
    data_file: Option<&mut dyn Resize>,
    options: &CreateOptions,
    content: &Content<'_>,
    effort: Effort,
) -> Result<(), Error> {
    let raw = options.data_file.as_ref().is_some_and(|file| file.raw);
    let all = options.preallocation != Preallocation::Off || raw;
    if options.data_file.is_some() != data_file.is_some() {
        return Err(Error::InvalidOptions("contents in an external data file need that file".to_owned()));
    }
    if effort.compress && data_file.is_some() {
        return Err(Error::InvalidOptions("clusters in an external data file are not compressed".to_owned()));
    }
    if effort.compress && all {
        return Err(Error::InvalidOptions("Compression and preallocation not supported at the same time".to_owned()));
    }
    let header = options.header()?;
    let (geometry, size) = (header.geometry, header.size);
    let image = NewImage::begin(target, options)?;
    let mut writer = Writer { image, data_file, zeros: content.zeros(options), mode: options.preallocation, raw };
    if let Some(data) = &mut writer.data_file {
        data.resize(size)?;
    }
    let compression = effort.compress.then_some(options.compression);
    let source = Source { disk: content.disk, below: content.compared().filter(|_| !all), geometry };
    in_order(
        content.pieces(geometry, size, all, CHUNK),
        effort.threads,
        || Buffers::new(compression, geometry),
        |buffers, piece| source.prepare(buffers, *piece),
        |buffers, piece| writer.put(piece, buffers),
    )?;
    writer.image.finish()
}

/// What a thread reads into, made once.
struct Buffers {
    bytes: Vec<u8>,
    below: Vec<u8>,
    /// For each cluster of a piece, in order.
    forms: Vec<Form>,
    /// The compressed forms, one after the other.
    packed: Vec<u8>,
    deflater: Option<Deflater>,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// As in the backing disk.
    Same,
    Zero,
    Plain,
    /// So many of the packed bytes.
    Compressed(usize),
}

impl Buffers {
    fn new(compression: Option<Compression>, geometry: Geometry) -> Result<Self, Error> {
        let deflater = compression.map(|compression| Deflater::new(compression, geometry.cluster_len())).transpose()?;
        Ok(Self { bytes: Vec::new(), below: Vec::new(), forms: Vec::new(), packed: Vec::new(), deflater })
    }
}

/// Where pieces come from.
struct Source<'a> {
    disk: &'a dyn BlockRead,
    /// What clusters are compared with.
    below: Option<&'a dyn BlockRead>,
    geometry: Geometry,
}

impl Source<'_> {
    /// Reads a piece, and finds out what becomes of its clusters.
    fn prepare(&self, buffers: &mut Buffers, piece: Piece) -> Result<(), Error> {
        buffers.forms.clear();
        buffers.packed.clear();
        if piece.zero {
            return Ok(());
        }
        let start = piece.first.saturating_mul(self.geometry.cluster_size());
        let len = to_usize(piece.count.saturating_mul(self.geometry.cluster_size()));
        read_padded(self.disk, &mut buffers.bytes, start, len)?;
        if let Some(below) = self.below {
            read_padded(below, &mut buffers.below, start, len)?;
        }
        let mut below = buffers.below.chunks(self.geometry.cluster_len());
        for cluster in buffers.bytes.chunks(self.geometry.cluster_len()) {
            let form = if below.next() == Some(cluster) {
                Form::Same
            } else if is_zero(cluster) {
                Form::Zero
            } else if let Some(small) = buffers.deflater.as_mut().and_then(|deflater| deflater.deflate(cluster)) {
                buffers.packed.extend_from_slice(small);
                Form::Compressed(small.len())
            } else {
                Form::Plain
            };
            buffers.forms.push(form);
        }
        Ok(())
    }
}

/// Makes `bytes` the `len` bytes of `disk` at `offset`, with zeros behind its end.
fn read_padded(disk: &dyn BlockRead, bytes: &mut Vec<u8>, offset: u64, len: usize) -> Result<(), Error> {
    bytes.resize(len, 0);
    let stored = to_usize(disk.size().saturating_sub(offset)).min(len);
    let (inside, behind) = bytes.split_at_mut(stored);
    behind.fill(0);
    if inside.is_empty() { Ok(()) } else { Ok(disk.read_exact_at(inside, offset)?) }
}

struct Writer<'a, 'b, 'c, T: ?Sized> {
    image: NewImage<'a, T>,
    data_file: Option<&'c mut dyn Resize>,
    zeros: Zeros<'b>,
    mode: Preallocation,
    /// Whether the data file is a raw image.
    raw: bool,
}

impl<T: Resize + ?Sized> Writer<'_, '_, '_, T> {
    fn put(&mut self, piece: Piece, buffers: &Buffers) -> Result<(), Error> {
        if piece.zero {
            return self.put_zeros(piece.first, piece.count);
        }
        let len = self.image.geometry().cluster_len();
        let mut cluster = piece.first;
        let (mut rest, mut packed) = (buffers.bytes.as_slice(), buffers.packed.as_slice());
        // Neighbors of one form go together.
        for same in buffers.forms.chunk_by(|a, b| a == b && !matches!(a, Form::Compressed(_))) {
            let (part, behind) = rest.split_at(same.len().saturating_mul(len).min(rest.len()));
            let count = to_u64(same.len());
            match same.first() {
                Some(Form::Same) => {}
                Some(Form::Zero) => self.put_zeros(cluster, count)?,
                Some(Form::Compressed(len)) => {
                    let (small, others) = packed.split_at((*len).min(packed.len()));
                    packed = others;
                    if !self.image.put_compressed(cluster, small)? {
                        self.put_data(cluster, part)?;
                    }
                }
                Some(Form::Plain) | None => self.put_data(cluster, part)?,
            }
            cluster = cluster.saturating_add(count);
            rest = behind;
        }
        Ok(())
    }

    fn put_data(&mut self, first: u64, bytes: &[u8]) -> Result<(), Error> {
        let Some(data) = &mut self.data_file else { return self.image.put_data(first, bytes) };
        let start = first.saturating_mul(self.image.geometry().cluster_size());
        let inside = bytes.get(..to_usize(data.size().saturating_sub(start))).unwrap_or(bytes);
        write_sparse(*data, start, inside)?;
        self.image.put_external(first, self.image.geometry().clusters(to_u64(bytes.len())))
    }

    fn put_zeros(&mut self, first: u64, count: u64) -> Result<(), Error> {
        let size = self.image.geometry().cluster_size();
        let range = ByteRange::at(first.saturating_mul(size), count.saturating_mul(size)).unwrap_or_default();
        if let Some(data) = &mut self.data_file
            && (self.raw || self.mode != Preallocation::Off)
        {
            let inside = ByteRange::new(range.start(), range.end().min(data.size())).unwrap_or_default();
            self.mode.fill(*data, inside)?;
            return self.image.put_external(first, count);
        }
        if self.mode != Preallocation::Off {
            return self.image.put_preallocated(first, count, self.mode);
        }
        let mut cluster = first;
        let end = first.saturating_add(count);
        while cluster < end {
            let (needless, until) = self.zeros.are_below(self.image.geometry(), cluster, end)?;
            if !needless {
                self.put_zero(cluster, until.saturating_sub(cluster))?;
            }
            cluster = until;
        }
        Ok(())
    }

    /// Makes clusters zeros over a backing disk that holds something else.
    fn put_zero(&mut self, first: u64, count: u64) -> Result<(), Error> {
        if self.zeros.version == Version::V3 {
            return self.image.put_zero(first, count);
        }
        let zeros = vec![0; self.image.geometry().cluster_len()];
        for cluster in first..first.saturating_add(count) {
            self.image.put_data(cluster, &zeros)?;
        }
        Ok(())
    }
}

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;
