//! The bitmap table: where the parts of a bitmap are stored.

use crate::block::BlockRead;
use crate::qcow2::error::{Corrupt, Error};
use crate::qcow2::geometry::Geometry;
use crate::qcow2::offset::HostOffset;
use crate::qcow2::table::{encode_words, read_words, word_offset};

/// How one cluster of a bitmap's data is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::qcow2) enum Part {
    /// Nowhere: all zeros.
    Zeros,
    /// Nowhere: all ones.
    Ones,
    /// In this cluster.
    Stored(HostOffset),
}

impl Part {
    /// Spec: "Structure of a bitmap table entry"
    fn decode(word: u64, geometry: Geometry, at: u64) -> Result<Self, Corrupt> {
        let corrupt = |rule| Err(Corrupt::new("bitmap table entry", at, rule));
        let host = word & OFFSET;
        // Spec: "1 - 8: Reserved and must be zero. … 56 - 63: Reserved and must be zero."
        if word & !OFFSET & !1 != 0 {
            return corrupt("a reserved bit is set");
        }
        // Spec: "Reserved and must be zero if bits 9 - 55 are non-zero."
        if host != 0 && word & 1 != 0 {
            return corrupt("bit 0 is set although there is an offset");
        }
        // Spec: "Bits 9 - 55 of the host cluster offset. Must be aligned to a cluster boundary."
        if !geometry.is_aligned(host) {
            return corrupt("the offset is not the start of a cluster");
        }
        Ok(match (host, word) {
            (0, 0) => Self::Zeros,
            (0, _) => Self::Ones,
            (host, _) => Self::Stored(HostOffset(host)),
        })
    }

    fn encode(self) -> u64 {
        match self {
            Self::Zeros => 0,
            Self::Ones => 1,
            Self::Stored(host) => host.0,
        }
    }
}

/// Reads a table of `entries` entries. The caller has bounded their number.
pub(in crate::qcow2) fn read<S: BlockRead + ?Sized>(
    storage: &S,
    geometry: Geometry,
    table: HostOffset,
    entries: u64,
) -> Result<Vec<Part>, Error> {
    let words = read_words(storage, "bitmap table", table, entries)?;
    let parts = words.iter().zip(0..).map(|(word, index)| Part::decode(*word, geometry, word_offset(table, index)));
    Ok(parts.collect::<Result<_, _>>()?)
}

/// Returns the stored form.
pub(super) fn encode(parts: &[Part]) -> Vec<u8> {
    encode_words(&parts.iter().map(|part| part.encode()).collect::<Vec<_>>())
}

/// Bits 9-55.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

#[cfg(test)]
mod tests {
    use super::{Geometry, HostOffset, Part};

    #[test]
    fn entries_survive_the_round_trip_and_reserved_bits_are_errors() {
        let geometry = Geometry { cluster_bits: 12, extended_l2: false, refcount_order: 4 };
        for part in [Part::Zeros, Part::Ones, Part::Stored(HostOffset(4096)), Part::Stored(HostOffset(0x00ff_ffff_ffff_f000))] {
            assert_eq!(Part::decode(part.encode(), geometry, 0), Ok(part));
        }
        for (word, rule) in [
            (2, "a reserved bit is set"),
            (1 << 56, "a reserved bit is set"),
            (4097, "bit 0 is set although there is an offset"),
            (512, "the offset is not the start of a cluster"),
        ] {
            assert!(Part::decode(word, geometry, 0).unwrap_err().to_string().ends_with(rule), "{word}");
        }
    }
}
