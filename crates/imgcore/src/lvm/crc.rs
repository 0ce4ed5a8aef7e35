use crc::{Algorithm, CRC_32_ISO_HDLC, Crc, Table};

/// Returns the checksum of LVM2's structures: the CRC-32 of Ethernet, from another start and not inverted at the end.
///
/// Measured: format, "Physical volume label header" and "Metadata area header", says `CRC-32` alone.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// The catalogue of the crate has starts with their highest power first, and LVM2 has them as the reflected sums are.
const LVM2: Algorithm<u32> = Algorithm { init: START.reverse_bits(), xorout: 0, check: 0, residue: 0, ..CRC_32_ISO_HDLC };
const START: u32 = 0xF597_A6CF;
static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&LVM2);

#[cfg(test)]
mod tests {
    use super::{START, crc};

    #[test]
    fn it_is_what_a_bit_at_a_time_gives() {
        let bytes: Vec<u8> = (0..1000_u32).map(|n| ((n * n) >> 3).to_le_bytes()[0]).collect();
        let slow = bytes.iter().fold(START, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 })
        });
        assert_eq!((crc(&bytes), crc(b"")), (slow, START));
    }
}
