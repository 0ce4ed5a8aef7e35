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

/// Returns the crc32 of `bytes` with the highest bit first and no inversions, continued from `seed`.
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        let [first, ..] = crc.to_be_bytes();
        crc << 8 ^ CRC32_BE.get(usize::from(first ^ byte)).copied().unwrap_or_default()
    })
}

/// What each byte adds to a crc32 with the polynomial 0x04C11DB7.
const CRC32_BE: [u32; 256] = {
    let mut table = [0; 256];
    let mut bytes: &mut [u32] = &mut table;
    let mut number: u32 = 0;
    while let Some((entry, rest)) = bytes.split_first_mut() {
        let mut crc = number << 24;
        let mut bit = 0_u8;
        while bit < 8 {
            crc = if crc >> 31 == 1 { crc << 1 ^ 0x04C1_1DB7 } else { crc << 1 };
            bit = bit.wrapping_add(1);
        }
        *entry = crc;
        number = number.wrapping_add(1);
        bytes = rest;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::{CHECKSUM_START, crc16, crc32_be, crc32c};

    #[test]
    fn the_check_values_of_the_catalogue_hold() {
        assert_eq!(!crc32c(CHECKSUM_START, b"123456789"), 0xE306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xBB3D);
        assert_eq!(!crc32_be(CHECKSUM_START, b"123456789"), 0xFC89_1918);
    }
}
