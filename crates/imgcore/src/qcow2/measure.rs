//! How large an image becomes.

use super::bitmap::Bitmap;
use super::error::Error;
use super::geometry::Geometry;
use super::offset::to_u64;
use super::options::CreateOptions;

/// Returns the bytes of header and tables of a new image with `options`: for the whole disk, as if all of it were allocated.
///
/// # Errors
///
/// [`Error::InvalidOptions`] for options that do not fit together, or with the size.
pub fn metadata_size(options: &CreateOptions) -> Result<u64, Error> {
    let header = options.header()?;
    let geometry = header.geometry;
    let clusters = geometry.clusters(header.size);
    let tables = header.l1_entries;
    let l1_bytes = tables.saturating_mul(8);
    let fixed = 1_u64.saturating_add(tables).saturating_add(geometry.clusters(l1_bytes));
    let counted = fixed.saturating_add(clusters);
    Ok(fixed.saturating_add(refcount_clusters(geometry, counted)).saturating_mul(geometry.cluster_size()))
}

/// Returns the clusters of a refcount table and blocks for `others`, and for themselves.
fn refcount_clusters(geometry: Geometry, others: u64) -> u64 {
    let mut own = 0_u64;
    // Each round adds less than an eighth of what the one before added, so this ends after a few.
    loop {
        let blocks = others.saturating_add(own).div_ceil(geometry.refcount_block_entries());
        let table = geometry.clusters(blocks.saturating_mul(8));
        let needed = blocks.saturating_add(table);
        if needed <= own {
            return own;
        }
        own = needed;
    }
}

/// Returns the bytes that `bitmaps` of a disk take in an image with clusters of `cluster_size` bytes.
#[must_use]
pub fn bitmaps_size<'a>(bitmaps: impl IntoIterator<Item = &'a Bitmap>, disk_size: u64, cluster_size: u64) -> u64 {
    let whole = |bytes: u64| bytes.div_ceil(cluster_size.max(1));
    let (mut clusters, mut directory) = (0_u64, 0_u64);
    for bitmap in bitmaps {
        let bytes = disk_size.div_ceil(bitmap.granularity.max(1)).div_ceil(8);
        let data = whole(bytes);
        clusters = clusters.saturating_add(data).saturating_add(whole(data.saturating_mul(8)));
        // Spec: "Bitmap directory entry": 24 bytes and the name, padded to a multiple of 8.
        directory = directory.saturating_add(to_u64(bitmap.name.len()).saturating_add(24).next_multiple_of(8));
    }
    clusters.saturating_add(whole(directory)).saturating_mul(cluster_size)
}

#[cfg(test)]
mod tests {
    use super::{CreateOptions, metadata_size};

    /// What `qemu-img measure --size 10G -O qcow2` says beyond the disk itself.
    #[test]
    fn tables_are_counted_with_what_counts_them() {
        for (cluster_size, refcount_bits, bytes) in [
            (512, 1, 173_100_032),
            (4096, 16, 26_288_128),
            (65536, 16, 1_900_544),
            (65536, 64, 2_883_584),
            (2 << 20, 1, 10_485_760),
        ] {
            let options = CreateOptions { cluster_size, refcount_bits, ..CreateOptions::new(10 << 30) };
            assert_eq!(metadata_size(&options).unwrap(), bytes, "{cluster_size} {refcount_bits}");
        }
        assert_eq!(metadata_size(&CreateOptions::new(0)).unwrap(), 196_608);
        metadata_size(&CreateOptions::new(2 << 50)).unwrap();
        metadata_size(&CreateOptions::new(3 << 50)).unwrap_err();
    }
}
