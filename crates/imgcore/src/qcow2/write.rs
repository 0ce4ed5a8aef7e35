//! New images with content, written in a single pass.

use super::compression::Deflater;
use super::content::{Content, Piece, Zeros, cluster_runs, count_tables};
use super::error::Error;
use super::geometry::Geometry;
use super::header::Version;
use super::new_image::NewImage;
use super::offset::{to_u64, to_usize};
use super::options::{CreateOptions, Preallocation};
use super::table::is_zero;
use crate::block::{BlockRead, ByteRange, Resize, map_in_order};

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
    write_image_with(target, options, content, Effort { threads: 1, compress: false })
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
    let preallocate = options.preallocation != Preallocation::Off;
    if options.data_file.is_some() {
        return Err(Error::InvalidOptions("contents in an external data file cannot be written".to_owned()));
    }
    if preallocate && effort.compress {
        return Err(Error::InvalidOptions("Compression and preallocation not supported at the same time".to_owned()));
    }
    let header = options.header()?;
    let (geometry, size) = (header.geometry, header.size);
    let runs = match ByteRange::new(0, size) {
        Some(all) if preallocate => cluster_runs(geometry, &[all], size),
        _ => cluster_runs(geometry, content.changed, size),
    };
    let pieces = content.pieces(geometry, size, &runs, CHUNK)?;
    let clusters = runs.iter().fold(0_u64, |sum, (first, end)| sum.saturating_add(end.saturating_sub(*first)));
    let image = NewImage::begin(target, options, count_tables(geometry, &runs), clusters)?;
    let mut writer = Writer { image, zeros: content.zeros(options), preallocation: options.preallocation };
    let compression = effort.compress.then_some(options.compression);
    map_in_order(
        &pieces,
        effort.threads,
        || compression.map(|compression| Deflater::new(compression, geometry.cluster_len())).transpose(),
        |deflater, piece| prepare(content.disk, geometry, *piece, deflater.as_mut()),
        |(piece, prepared)| writer.put(piece, prepared),
    )?;
    writer.image.finish()
}

/// A piece that has been read, and compressed if that is wanted.
struct Prepared {
    bytes: Vec<u8>,
    /// For each cluster, in order.
    clusters: Vec<Form>,
}

#[derive(PartialEq)]
enum Form {
    Zero,
    Plain,
    Compressed(Vec<u8>),
}

fn prepare(
    disk: &dyn BlockRead,
    geometry: Geometry,
    piece: Piece,
    mut deflater: Option<&mut Deflater>,
) -> Result<(Piece, Prepared), Error> {
    if piece.zero {
        return Ok((piece, Prepared { bytes: Vec::new(), clusters: Vec::new() }));
    }
    let size = geometry.cluster_size();
    let start = piece.first.saturating_mul(size);
    let mut bytes = vec![0; to_usize(piece.count.saturating_mul(size))];
    let stored = to_usize(disk.size().saturating_sub(start)).min(bytes.len());
    disk.read_exact_at(bytes.get_mut(..stored).unwrap_or_default(), start)?;
    let clusters = bytes
        .chunks(geometry.cluster_len())
        .map(|cluster| match &mut deflater {
            _ if is_zero(cluster) => Form::Zero,
            Some(deflater) => deflater.deflate(cluster).map_or(Form::Plain, |small| Form::Compressed(small.to_vec())),
            None => Form::Plain,
        })
        .collect();
    Ok((piece, Prepared { bytes, clusters }))
}

struct Writer<'a, 'b, T: ?Sized> {
    image: NewImage<'a, T>,
    zeros: Zeros<'b>,
    preallocation: Preallocation,
}

impl<T: Resize + ?Sized> Writer<'_, '_, T> {
    fn put(&mut self, piece: Piece, prepared: Prepared) -> Result<(), Error> {
        if piece.zero {
            return self.put_zeros(piece.first, piece.count);
        }
        let len = self.image.geometry().cluster_len();
        let mut cluster = piece.first;
        let mut rest = prepared.bytes.as_slice();
        // Neighbors of one form go together.
        for same in prepared.clusters.chunk_by(|a, b| a == b && !matches!(a, Form::Compressed(_))) {
            let (part, behind) = rest.split_at(same.len().saturating_mul(len).min(rest.len()));
            let count = to_u64(same.len());
            match same.first() {
                Some(Form::Zero) => self.put_zeros(cluster, count)?,
                Some(Form::Compressed(small)) if self.image.put_compressed(cluster, small)? => {}
                _ => self.image.put_data(cluster, part)?,
            }
            cluster = cluster.saturating_add(count);
            rest = behind;
        }
        Ok(())
    }

    fn put_zeros(&mut self, first: u64, count: u64) -> Result<(), Error> {
        match self.preallocation {
            Preallocation::Off => {}
            Preallocation::Metadata => return self.image.put_preallocated(first, count, false),
            Preallocation::Full => return self.image.put_preallocated(first, count, true),
        }
        let size = self.image.geometry().cluster_size();
        let range = ByteRange::at(first.saturating_mul(size), count.saturating_mul(size)).unwrap_or_default();
        if self.zeros.are_below(range)? {
            return Ok(());
        }
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
