use std::fmt;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::error::Error;
use super::offset::to_u64;
use crate::block;

/// How compressed clusters are stored.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Compression {
    /// Deflate without a zlib header; every image can have it.
    #[default]
    Zlib,
    /// Zstandard; version 3 only.
    Zstd,
}

impl Compression {
    /// Returns the name that qemu-img uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the header's number.
    pub(super) fn stored(self) -> u8 {
        match self {
            Self::Zlib => 0,
            Self::Zstd => 1,
        }
    }
}

/// Decompresses clusters, one after the other, with the memory of one.
#[derive(Debug)]
pub(super) struct Inflater {
    engine: InflateEngine,
    /// Room for what is stored.
    pub(super) stored: Vec<u8>,
}

enum InflateEngine {
    Zlib(Decompress),
    Zstd(zstd::zstd_safe::DCtx<'static>),
}

impl fmt::Debug for InflateEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zlib(_) => "Zlib",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl Inflater {
    /// Returns a decompressor.
    pub(super) fn new(compression: Compression) -> Self {
        let engine = match compression {
            Compression::Zlib => InflateEngine::Zlib(Decompress::new(false)),
            Compression::Zstd => InflateEngine::Zstd(zstd::zstd_safe::DCtx::create()),
        };
        Self { engine, stored: Vec::new() }
    }

    /// Fills `cluster` from the stored bytes, the last of which may belong to something else.
    ///
    /// Spec: "decompression stops when it has produced a cluster of data."
    ///
    /// Returns whether that was possible.
    pub(super) fn inflate(&mut self, cluster: &mut [u8]) -> bool {
        match &mut self.engine {
            InflateEngine::Zlib(state) => {
                state.reset(false);
                let done = state.decompress(&self.stored, cluster, FlushDecompress::Finish);
                done.is_ok() && state.total_out() == to_u64(cluster.len())
            }
            InflateEngine::Zstd(context) => {
                // A single frame is nearly always all, and needs no window beside the cluster.
                let frame = zstd::zstd_safe::find_frame_compressed_size(&self.stored);
                let frame = frame.ok().and_then(|len| self.stored.get(..len)).unwrap_or_default();
                context.decompress(cluster, frame) == Ok(cluster.len()) || inflate_frames(&self.stored, cluster)
            }
        }
    }
}

/// Fills `cluster` from one zstd frame after the other.
fn inflate_frames(stored: &[u8], cluster: &mut [u8]) -> bool {
    let decoder = zstd::stream::read::Decoder::with_buffer(stored);
    let limited = decoder.and_then(|mut decoder| decoder.window_log_max(ZSTD_WINDOW_LOG).map(|()| decoder));
    limited.is_ok_and(|mut decoder| std::io::Read::read_exact(&mut decoder, cluster).is_ok())
}

/// Compresses clusters, one after the other, with the memory of one.
pub struct Deflater {
    engine: Engine,
    out: Vec<u8>,
}

enum Engine {
    Zlib(Box<Compress>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Deflater {
    /// Returns a compressor for clusters of `cluster_len` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] without the memory for it.
    pub fn new(compression: Compression, cluster_len: usize) -> Result<Self, Error> {
        let engine =
            match compression {
                Compression::Zlib => Engine::Zlib(Box::new(Compress::new_with_window_bits(
                    flate2::Compression::new(ZLIB_LEVEL),
                    false,
                    ZLIB_WINDOW_BITS,
                ))),
                Compression::Zstd => Engine::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(|error| {
                    block::Error::with_source(block::ErrorKind::Io, "cannot start the zstd compressor", error)
                })?),
            };
        // Room for the worst case of zstd; what does not become smaller is dropped anyway.
        Ok(Self { engine, out: vec![0; zstd::zstd_safe::compress_bound(cluster_len)] })
    }

    /// Returns `cluster` compressed, or `None` when that does not make it smaller.
    pub fn deflate(&mut self, cluster: &[u8]) -> Option<&[u8]> {
        let len = match &mut self.engine {
            Engine::Zlib(state) => {
                state.reset();
                let status = state.compress(cluster, &mut self.out, FlushCompress::Finish).ok()?;
                (status == Status::StreamEnd).then(|| usize::try_from(state.total_out()).ok())??
            }
            Engine::Zstd(state) => state.compress_to_buffer(cluster, self.out.as_mut_slice()).ok()?,
        };
        self.out.get(..len).filter(|out| out.len() < cluster.len())
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").finish_non_exhaustive()
    }
}

/// As fast as 4 here, and less than 3 % larger than what zlib makes at its default level.
const ZLIB_LEVEL: u32 = 5;
/// A fifth faster than the default level, and one percent larger.
const ZSTD_LEVEL: i32 = 2;

/// QEMU inflates with a window of 4 KiB.
const ZLIB_WINDOW_BITS: u8 = 12;

/// Windows of 8 MiB, four times the largest cluster, so that a frame cannot ask for more memory than that.
const ZSTD_WINDOW_LOG: u32 = 23;

#[cfg(test)]
mod tests {
    use super::{Compression, Deflater, Inflater};

    #[test]
    fn what_is_compressed_comes_back_even_with_foreign_bytes_behind_it() {
        let cluster: Vec<u8> = (0..65536_u32).map(|at| (at / 700 * at % 11) as u8).collect();
        for compression in [Compression::Zlib, Compression::Zstd] {
            let mut deflater = Deflater::new(compression, cluster.len()).unwrap();
            let mut inflater = Inflater::new(compression);
            for _ in 0..2 {
                let mut stored = deflater.deflate(&cluster).unwrap().to_vec();
                let whole = stored.len();
                stored.extend_from_slice(&[0xAA; 300]);
                let mut back = vec![0; cluster.len()];
                inflater.stored.clone_from(&stored);
                assert!(inflater.inflate(&mut back), "{compression:?}");
                assert_eq!(back, cluster);
                inflater.stored = stored[..whole / 2].to_vec();
                assert!(!inflater.inflate(&mut back), "{compression:?}");
            }
        }
    }

    #[test]
    fn a_cluster_may_be_several_zstd_frames_or_the_beginning_of_one() {
        let cluster: Vec<u8> = (0..65536_u32).map(|at| (at / 700 * at % 11) as u8).collect();
        let mut deflater = Deflater::new(Compression::Zstd, 65536).unwrap();
        let mut inflater = Inflater::new(Compression::Zstd);
        for half in cluster.chunks(32768) {
            inflater.stored.extend_from_slice(deflater.deflate(half).unwrap());
        }
        let mut back = vec![0; 65536];
        assert!(inflater.inflate(&mut back));
        assert_eq!(back, cluster);
        inflater.stored = deflater.deflate(&cluster).unwrap().to_vec();
        assert!(inflater.inflate(&mut back[..4096]));
        assert_eq!(back[..4096], cluster[..4096]);
    }

    #[test]
    fn noise_is_not_worth_compressing() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(4096)
        .collect();
        for compression in [Compression::Zlib, Compression::Zstd] {
            assert!(Deflater::new(compression, 4096).unwrap().deflate(&noise[..4096]).is_none());
        }
    }
}
