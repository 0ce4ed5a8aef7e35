/// Returns the checksum of LVM2's structures: the CRC-32 of Ethernet, from another start and not inverted at the end.
///
/// Measured: format, "Physical volume label header" and "Metadata area header", says `CRC-32` alone.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(START, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 })
    })
}

const START: u32 = 0xF597_A6CF;
/// That of Ethernet, its lowest power first.
const POLYNOMIAL: u32 = 0xEDB8_8320;
