//! The checksums of metadata: crc32c without the usual inversions, and crc16 for `uninit_bg`.

/// What a checksum starts from before the first byte.
pub(super) const CHECKSUM_START: u32 = u32::MAX;

/// Returns the crc32c of `bytes`, continued from `seed`.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Returns what the checksums of an inode, its directory blocks and its extent blocks start from.
pub(super) fn inode_seed(seed: u32, inode: u32, generation: u32) -> u32 {
    crc32c(crc32c(seed, &inode.to_le_bytes()), &generation.to_le_bytes())
}

/// Returns the crc16 (polynomial 0x8005, reflected) of `bytes`, continued from `seed`.
pub(super) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::{CHECKSUM_START, crc16, crc32c};

    #[test]
    fn the_check_values_of_the_catalogue_hold() {
        assert_eq!(!crc32c(CHECKSUM_START, b"123456789"), 0xE306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xBB3D);
    }
}
