//! Reading what a bitmap marks.

use super::{Bitmap, BitmapError, Bits, Part, read_table};
use crate::block::BlockRead;
use crate::qcow2::error::Error;
use crate::qcow2::image::Image;
use crate::qcow2::offset::to_usize;
use crate::qcow2::table::read_stored;

impl<S: BlockRead> Image<S> {
    /// Reads what the bitmap `name` marks, as it is stored.
    ///
    /// # Errors
    ///
    /// [`Error::Bitmap`] when there is none or it cannot be used, [`Error::Corrupt`] when the bitmap or the directory breaks a
    /// rule, [`Error::Storage`].
    pub fn bitmap_bits(&self, name: &str) -> Result<Bits, Error> {
        let bitmaps = self.bitmaps()?;
        let bitmap = bitmaps.iter().find(|bitmap| bitmap.is_named(name));
        self.read_bits(bitmap.ok_or_else(|| BitmapError::NotFound(name.to_owned()))?.usable()?)
    }

    fn read_bits(&self, bitmap: &Bitmap) -> Result<Bits, Error> {
        let geometry = self.geometry();
        let mut bits = Bits::new(self.header.size, bitmap.granularity);
        let count = self.header.size.div_ceil(bitmap.granularity);
        let each = geometry.cluster_size().saturating_mul(8);
        let mut bytes = vec![0; geometry.cluster_len()];
        let parts = read_table(&self.storage, geometry, bitmap.table, bitmap.table_entries)?;
        for (part, index) in parts.into_iter().zip(0_u64..) {
            let first = index.saturating_mul(each);
            let end = first.saturating_add(each).min(count);
            match part {
                Part::Zeros => {}
                Part::Ones => bits.mark_bits(first, end),
                Part::Stored(host) => {
                    read_stored(&self.storage, "bitmap data", host, &mut bytes)?;
                    clear_from(&mut bytes, end.saturating_sub(first));
                    bits.mark_stored(first, &bytes);
                }
            }
        }
        Ok(bits)
    }
}

/// Clears the bits from `bit` on.
pub(super) fn clear_from(bytes: &mut [u8], bit: u64) {
    let Some(tail) = bytes.get_mut(to_usize(bit.wrapping_shr(3))..) else { return };
    let Some((first, rest)) = tail.split_first_mut() else { return };
    *first &= !u8::MAX.wrapping_shl(u32::try_from(bit & 7).unwrap_or(0));
    rest.fill(0);
}

#[cfg(test)]
mod tests {
    use super::clear_from;

    #[test]
    fn bits_are_cleared_from_anywhere_on() {
        for bit in 0..=40 {
            let mut bytes = [0xff; 4];
            clear_from(&mut bytes, bit);
            assert_eq!(u64::from(u32::from_le_bytes(bytes)), (1_u64 << bit.min(32)) - 1);
        }
    }
}
