use super::convert::{ConvertOptions, Watch};
use super::copy::copy;
use super::disk::Layer;
use super::watched::Watched;
use super::{Error, Storage, WritableDisk};
use crate::block::{self, BlockRead, BlockWrite, ByteRange, Hole, in_order, is_zero};
use crate::qcow2::{Deflater, Image};

/// Makes the disk of an image that is there read as `source`, in place: a failure leaves it half written.
///
/// A larger target keeps what is behind the end of the source. With `is_zero` the target is known to read as zeros, so that
/// zeros of the source are not written. Bitmaps are added at the end. `watch` is as in [`super::convert`].
///
/// # Errors
///
/// [`Error::InvalidOptions`] for a target that is smaller than the source, and for compression to raw or bitmaps in it;
/// otherwise the failure of either side, or of `watch`.
pub fn convert_into(
    source: &dyn BlockRead,
    target: &mut WritableDisk,
    is_zero: bool,
    options: &ConvertOptions<'_>,
    watch: Watch<'_>,
) -> Result<(), Error> {
    let invalid = |why: &str| Error::InvalidOptions(why.to_owned());
    if target.size() < source.size() {
        return Err(invalid("the output image is smaller than the input"));
    }
    let watched = Watched { disk: source, watch };
    let path = target.path().to_owned();
    match &mut target.layer {
        Layer::Raw(_) if options.compress => return Err(invalid("the format `raw` is not compressed")),
        Layer::Raw(_) if !options.bitmaps.is_empty() => return Err(invalid("the format `raw` has no bitmaps")),
        Layer::Qcow2(image) if options.compress => compress(&watched, image, options.threads, !is_zero)?,
        _ => copy(&watched, target, options.threads, options.hole, !is_zero)?,
    }
    watch(source.size())?;
    target.close()?;
    match target.qcow2_mut().filter(|_| !options.bitmaps.is_empty()) {
        Some(image) => image.store_bitmaps(options.bitmaps).map_err(|source| Error::Qcow2 { path, source }),
        None => Ok(()),
    }
}

/// Copies `source` to the start of the disk in compressed clusters; it has zeros there already unless `clear` is set.
fn compress(source: &dyn BlockRead, image: &mut Image<Storage>, threads: usize, clear: bool) -> Result<(), block::Error> {
    let size = image.cluster_size();
    let (compression, cluster_len) = (image.compression(), usize::try_from(size).unwrap_or(usize::MAX));
    let end = source.size();
    let starts = std::iter::successors(Some(0_u64), |at| at.checked_add(size)).take_while(|at| *at < end);
    let whole = image.size();
    in_order(
        starts.map(Ok::<u64, block::Error>),
        threads,
        || Ok((vec![0; cluster_len], Deflater::new(compression, cluster_len)?, None)),
        |(bytes, deflater, small): &mut (Vec<u8>, Deflater, Option<Vec<u8>>), start| {
            let stored = usize::try_from(end.saturating_sub(*start)).unwrap_or(usize::MAX).min(cluster_len);
            let (inside, behind) = bytes.split_at_mut(stored);
            source.read_exact_at(inside, *start)?;
            behind.fill(0);
            // What lies behind the source inside its last cluster stays, unless that is behind the disk too.
            let alone = stored == cluster_len || start.saturating_add(size) >= whole;
            *small = if is_zero(bytes) || !alone { None } else { deflater.deflate(bytes).map(<[u8]>::to_vec) };
            Ok(())
        },
        |(bytes, _, small), start| {
            let range = ByteRange::new(start, start.saturating_add(size).min(end)).unwrap_or_default();
            let inside = bytes.get(..usize::try_from(range.len()).unwrap_or(usize::MAX)).unwrap_or_default();
            match small {
                Some(small) => Ok(image.write_compressed(small, start)?),
                None if !is_zero(inside) => image.write_all_at(inside, start),
                None if clear => image.write_zeroes_at(range, Hole::Allow),
                None => Ok(()),
            }
        },
    )
}
