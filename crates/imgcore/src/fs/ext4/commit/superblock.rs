//! Superblocks that a power cut between their two sectors leaves whole.
//!
//! ```text
//! first sector    counts, features, name of the last mount point | 4 spare bytes |
//! second sector   mount options | 4 spare bytes | overhead …                        checksum of both
//! ```
//!
//! The bytes behind the end of each text are not read by anybody, and both texts are rewritten by a mount or by tune2fs. They are
//! chosen so that the checksum stays the same whether a sector is the old or the new one.

use std::mem::offset_of;

use super::super::checksum::{CHECKSUM_START, crc32c};
use super::super::feature::{METADATA_CSUM, RECOVER};
use super::super::superblock::RawSuperblock;

impl RawSuperblock {
    /// Returns a superblock that says whether the journal is to be replayed.
    pub(super) fn marked(mut self, recover: bool) -> Self {
        let features = self.s_feature_incompat.get();
        self.s_feature_incompat.set(if recover { features | RECOVER } else { features & !RECOVER });
        self
    }

    /// Returns the bytes to store in the place of `old`, with the same checksum where that can be.
    pub(super) fn encode_like(mut self, old: &Self) -> [u8; 1024] {
        let plain = self.encode();
        if !self.has_ro_compat(METADATA_CSUM) {
            return plain;
        }
        kept(plain, zerocopy::transmute!(*old)).unwrap_or(plain)
    }

    /// Returns the bytes in which it is stored, unmounted, where `stored` is: with the spare bytes of that.
    pub(super) fn as_stored(self, stored: &Self) -> [u8; 1024] {
        let mut like = self.marked(false);
        if like.has_ro_compat(METADATA_CSUM) {
            let texts = [(&mut like.s_last_mounted, &stored.s_last_mounted), (&mut like.s_mount_opts, &stored.s_mount_opts)];
            for (to, from) in texts {
                if let (Some(to), Some(from)) = (to.get_mut(TEXT..), from.get(TEXT..)) {
                    to.copy_from_slice(from);
                }
            }
        }
        like.encode()
    }
}

/// Returns `new` with the checksum of `old`, which any mix of their sectors has as well; `None` when a text leaves no room.
fn kept(new: [u8; 1024], old: [u8; 1024]) -> Option<[u8; 1024]> {
    let mut mixed = old;
    mixed.get_mut(SECTOR..SUM)?.copy_from_slice(new.get(SECTOR..SUM)?);
    if mixed != old {
        keep_sum(&mut mixed, offset_of!(RawSuperblock, s_mount_opts))?;
    }
    mixed.get_mut(..SECTOR)?.copy_from_slice(new.get(..SECTOR)?);
    keep_sum(&mut mixed, offset_of!(RawSuperblock, s_last_mounted))?;
    Some(mixed)
}

/// Chooses the spare bytes of the text at `text` so that the checksum that is stored is right.
fn keep_sum(bytes: &mut [u8; 1024], text: usize) -> Option<()> {
    let spare = text.checked_add(TEXT)?;
    if bytes.get(spare.checked_sub(1)?) != Some(&0) {
        return None;
    }
    let stored = u32::from_le_bytes(*bytes.get(SUM..)?.first_chunk()?);
    let mut sum_with = |value: u32| {
        bytes.get_mut(spare..)?.get_mut(..4)?.copy_from_slice(&value.to_le_bytes());
        Some(crc32c(CHECKSUM_START, bytes.get(..SUM)?))
    };
    let base = sum_with(0)?;
    let effects = (0..32_u32).map(|bit| Some((sum_with(1 << bit)? ^ base, 1 << bit))).collect::<Option<Vec<_>>>()?;
    (sum_with(solve(effects, base ^ stored)?)? == stored).then_some(())
}

/// Returns the bits whose effects, joined by exclusive or, are `wanted`.
fn solve(effects: Vec<(u32, u32)>, wanted: u32) -> Option<u32> {
    // Rows with different highest bits, the highest first.
    let mut rows: Vec<(u32, u32)> = Vec::new();
    let reduce = |rows: &[(u32, u32)], start: (u32, u32)| {
        rows.iter().fold(
            start,
            |(value, bits), (row, mask)| {
                if value ^ row < value { (value ^ row, bits ^ mask) } else { (value, bits) }
            },
        )
    };
    for effect in effects {
        let left = reduce(&rows, effect);
        if left.0 != 0 {
            rows.push(left);
            rows.sort_unstable_by(|a, b| b.cmp(a));
        }
    }
    let (left, bits) = reduce(&rows, (wanted, 0));
    (left == 0).then_some(bits)
}

/// Bytes of a sector, which is stored whole or not at all.
const SECTOR: usize = 512;
/// Bytes of a text before its spare ones.
const TEXT: usize = 60;
const SUM: usize = offset_of!(RawSuperblock, s_checksum);
const _: () = {
    assert!(offset_of!(RawSuperblock, s_last_mounted) + 64 <= SECTOR);
    assert!(offset_of!(RawSuperblock, s_mount_opts) == 0x200);
    assert!(offset_of!(RawSuperblock, s_usr_quota_inum) == 0x240);
};

#[cfg(test)]
mod tests {
    use super::{SECTOR, SUM, kept};
    use crate::fs::ext4::checksum::{CHECKSUM_START, crc32c};

    #[test]
    fn any_mix_of_the_sectors_has_the_checksum() {
        let sealed = |mut bytes: [u8; 1024]| {
            let sum = crc32c(CHECKSUM_START, &bytes[..SUM]);
            bytes[SUM..].copy_from_slice(&sum.to_le_bytes());
            bytes
        };
        let old = sealed([0; 1024]);
        for (first, second) in [(12, 600), (12, SUM), (300, 900)] {
            let mut new = old;
            new[first] = 9;
            new[second] ^= 7;
            let new = kept(sealed(new), old).unwrap();
            assert_eq!(new[first], 9);
            for (a, b) in [(new, new), (new, old), (old, new)] {
                let mixed: Vec<u8> = a[..SECTOR].iter().chain(&b[SECTOR..]).copied().collect();
                assert_eq!(crc32c(CHECKSUM_START, &mixed[..SUM]).to_le_bytes(), mixed[SUM..]);
            }
        }
        let mut full = old;
        full[136..200].fill(b'x');
        assert_eq!(kept(sealed(full), old), None);
    }
}
