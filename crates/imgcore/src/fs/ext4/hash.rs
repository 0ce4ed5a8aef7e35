//! The hashes by which an indexed folder sorts its names.
//!
//! Names are fed in words of four bytes; a last, shorter piece is filled up with its own length. `legacy` is a shift-and-add over
//! single bytes, `half_md4` three rounds of eight steps of MD4, `tea` sixteen rounds of the Tiny Encryption Algorithm. Each exists
//! for signed and for unsigned bytes, as the machine that made the file system had them.

use super::error::refused;
use crate::fs::Error;

/// How an index hashes names.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameHash {
    algorithm: Algorithm,
    unsigned: bool,
    seed: [u32; 4],
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Legacy,
    HalfMd4,
    Tea,
}

impl NameHash {
    /// Returns the hash of the stored `version` of an index.
    ///
    /// Spec: "The directory hash is one of the following values": 0-2 as the superblock says, 3-5 unsigned.
    pub(super) fn new(version: u8, unsigned: bool, seed: [u32; 4]) -> Result<Self, Error> {
        let algorithm = match version {
            0 | 3 => Algorithm::Legacy,
            1 | 4 => Algorithm::HalfMd4,
            2 | 5 => Algorithm::Tea,
            _ => return Err(refused(format!("has a folder with the hash {version}, which is not supported"))),
        };
        let seed = if seed == [0; 4] { DEFAULT_SEED } else { seed };
        Ok(Self { algorithm, unsigned: unsigned || version >= 3, seed })
    }

    /// Returns the hash of a name and the second hash that orders equal ones. The lowest bit of the first is clear.
    pub(super) fn hash(&self, name: &[u8]) -> (u32, u32) {
        let (hash, minor) = match self.algorithm {
            Algorithm::Legacy => (self.legacy(name), 0),
            Algorithm::HalfMd4 => {
                let state = name.chunks(32).fold(self.seed, |state, chunk| half_md4(state, &self.words::<8>(chunk)));
                (state[1], state[2])
            }
            Algorithm::Tea => {
                let state = name.chunks(16).fold(self.seed, |state, chunk| tea(state, &self.words::<4>(chunk)));
                (state[0], state[1])
            }
        };
        // The highest value marks the end of a folder.
        let hash = hash & !1;
        (if hash == 0xFFFF_FFFE { 0xFFFF_FFFC } else { hash }, minor)
    }

    fn byte(&self, byte: u8) -> u32 {
        if self.unsigned || byte < 0x80 { u32::from(byte) } else { u32::from(byte) | 0xFFFF_FF00 }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut before, mut hash) = (0x37AB_E8F9_u32, 0x12A3_FE2D_u32);
        for byte in name {
            let mut next = before.wrapping_add(hash ^ self.byte(*byte).wrapping_mul(7_152_373));
            if next & 0x8000_0000 != 0 {
                next = next.wrapping_sub(0x7FFF_FFFF);
            }
            before = hash;
            hash = next;
        }
        hash << 1
    }

    fn words<const N: usize>(&self, piece: &[u8]) -> [u32; N] {
        let filler = u32::from_le_bytes([u8::try_from(piece.len()).unwrap_or(u8::MAX); 4]);
        let mut words = [filler; N];
        for (word, bytes) in words.iter_mut().zip(piece.chunks(4)) {
            *word = bytes.iter().fold(filler, |word, byte| self.byte(*byte).wrapping_add(word << 8));
        }
        words
    }
}

fn half_md4(state: [u32; 4], input: &[u32; 8]) -> [u32; 4] {
    type Mix = fn(u32, u32, u32) -> u32;
    let rounds: [(Mix, u32, [u32; 4], [usize; 8]); 3] = [
        (|x, y, z| z ^ (x & (y ^ z)), 0, [3, 7, 11, 19], [0, 1, 2, 3, 4, 5, 6, 7]),
        (|x, y, z| (x & y) | (x & z) | (y & z), 0x5A82_7999, [3, 5, 9, 13], [1, 3, 5, 7, 0, 2, 4, 6]),
        (|x, y, z| x ^ y ^ z, 0x6ED9_EBA1, [3, 9, 11, 15], [3, 7, 2, 6, 1, 5, 0, 4]),
    ];
    let [mut a, mut b, mut c, mut d] = state;
    for (mix, constant, shifts, order) in rounds {
        for (index, shift) in order.into_iter().zip(shifts.into_iter().cycle()) {
            let word = input.get(index).copied().unwrap_or_default().wrapping_add(constant);
            let mixed = a.wrapping_add(mix(b, c, d)).wrapping_add(word).rotate_left(shift);
            (a, b, c, d) = (d, mixed, b, c);
        }
    }
    let [e, f, g, h] = state;
    [a.wrapping_add(e), b.wrapping_add(f), c.wrapping_add(g), d.wrapping_add(h)]
}

fn tea(state: [u32; 4], input: &[u32; 4]) -> [u32; 4] {
    let [mut a, mut b, c, d] = state;
    let [i, j, k, l] = *input;
    let mut sum = 0_u32;
    let mix = |half: u32, sum: u32, left: u32, right: u32| {
        (half << 4).wrapping_add(left) ^ half.wrapping_add(sum) ^ (half >> 5).wrapping_add(right)
    };
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9E37_79B9);
        a = a.wrapping_add(mix(b, sum, i, j));
        b = b.wrapping_add(mix(a, sum, k, l));
    }
    let [e, f, ..] = state;
    [a.wrapping_add(e), b.wrapping_add(f), c, d]
}

/// MD4's initial state.
const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];
