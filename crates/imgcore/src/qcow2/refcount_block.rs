//! Refcounts inside a refcount block.
//!
//! Spec: "Refcount block entry": big-endian; below a byte, the first entry is in the least significant bits.

use super::error::Corrupt;
use super::geometry::Geometry;
use crate::block::BlockRead;

/// Fails when `cluster`, before which all are taken, lies far behind the end of the image: nothing could have taken those.
pub(super) fn refuse_behind<S: BlockRead>(storage: &S, geometry: Geometry, cluster: u64) -> Result<(), Corrupt> {
    let end = geometry.clusters(storage.size()).saturating_add(MOST_BEHIND);
    if cluster <= end {
        return Ok(());
    }
    let offset = geometry.offset(cluster).unwrap_or(u64::MAX);
    Err(Corrupt::new("refcount table", offset, "clusters far behind the end of the image are counted as used"))
}

/// Returns refcount `index` of a block whose refcounts have `1 << order` bits.
pub(super) fn get(block: &[u8], index: usize, order: u32) -> u64 {
    match order {
        0..=2 => {
            let byte = block.get(index.wrapping_shr(3_u32.saturating_sub(order))).copied().unwrap_or(0);
            u64::from(byte.wrapping_shr(shift(index, order)) & mask(order))
        }
        _ => {
            let width = 1_usize.wrapping_shl(order.saturating_sub(3));
            let start = index.saturating_mul(width);
            let bytes = block.get(start..start.saturating_add(width)).unwrap_or_default();
            bytes.iter().fold(0, |value, byte| value.wrapping_shl(8) | u64::from(*byte))
        }
    }
}

/// Sets refcount `index` of a block to `value`, whose bits beyond the width are dropped.
pub(super) fn set(block: &mut [u8], index: usize, order: u32, value: u64) {
    match order {
        0..=2 => {
            let shift = shift(index, order);
            if let Some(byte) = block.get_mut(index.wrapping_shr(3_u32.saturating_sub(order))) {
                let bits = value.to_le_bytes()[0] & mask(order);
                *byte = (*byte & !mask(order).wrapping_shl(shift)) | bits.wrapping_shl(shift);
            }
        }
        _ => {
            let width = 1_usize.wrapping_shl(order.saturating_sub(3));
            let start = index.saturating_mul(width);
            let bytes = value.to_be_bytes();
            let bytes = bytes.get(8_usize.saturating_sub(width)..).unwrap_or_default();
            if let Some(place) = block.get_mut(start..start.saturating_add(width)) {
                place.copy_from_slice(bytes);
            }
        }
    }
}

/// Clusters behind the end of an image that may be counted: space that is set aside before the file is as long.
const MOST_BEHIND: u64 = 1 << 24;

fn mask(order: u32) -> u8 {
    match order {
        0 => 1,
        1 => 3,
        _ => 15,
    }
}

/// Returns how far left in its byte the refcount is.
fn shift(index: usize, order: u32) -> u32 {
    let per_byte = 8_usize.wrapping_shr(order);
    let place = index & per_byte.saturating_sub(1);
    u32::try_from(place).unwrap_or(0).wrapping_shl(order)
}

#[cfg(test)]
mod tests {
    use super::{get, set};

    #[test]
    fn refcounts_of_every_width_are_where_the_specification_puts_them() {
        for order in 0..=6 {
            let mut block = vec![0; 64];
            let max = u64::MAX >> (64 - (1 << order));
            set(&mut block, 1, order, max);
            set(&mut block, 3, order, 1);
            let values: Vec<u64> = (0..5).map(|index| get(&block, index, order)).collect();
            assert_eq!(values, [0, max, 0, 1, 0], "order {order}");
            set(&mut block, 1, order, 0);
            assert_eq!((get(&block, 1, order), get(&block, 3, order)), (0, 1), "order {order}");
        }
        let mut bits = [0; 1];
        set(&mut bits, 2, 1, 3);
        assert_eq!(bits, [0x30]);
        let mut wide = [0; 4];
        set(&mut wide, 1, 4, 0x1234);
        assert_eq!(wide, [0, 0, 0x12, 0x34]);
    }
}
