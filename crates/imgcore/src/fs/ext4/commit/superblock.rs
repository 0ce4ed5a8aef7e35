//! Superblocks that a power cut between their two sectors leaves whole.
//!
//! ```text
//! first sector    counts, features, name of the last mount point | 4 spare bytes |
//! second sector   mount options | 4 spare bytes | overhead …                        checksum of both
//! ```
//!
//! The bytes behind the end of each text are not read by anybody. They are chosen so that the checksum stays the same whether a
//! sector is the old or the new one. The name of the mount point, which every mount writes anew, is cut where it leaves no room;
//! the mount options count, and are not.

use std::mem::offset_of;

use super::super::checksum::{CHECKSUM_START, crc32c};
use super::super::error::refused;
use super::super::feature::{METADATA_CSUM, RECOVER};
use super::super::superblock::RawSuperblock;
use crate::fs::Error;

impl RawSuperblock {
    /// Returns a superblock that says whether the journal is to be replayed.
    pub(super) fn marked(mut self, recover: bool) -> Self {
        let features = self.s_feature_incompat.get();
        self.s_feature_incompat.set(if recover { features | RECOVER } else { features & !RECOVER });
        self
    }

    /// Returns the bytes to store in the place of `old`, with the same checksum where it has one.
    pub(super) fn encode_like(mut self, old: &Self) -> Result<[u8; 1024], Error> {
        if !self.has_ro_compat(METADATA_CSUM) {
            return Ok(self.encode());
        }
        if let Some(last) = self.s_last_mounted.get_mut(TEXT.saturating_sub(1)) {
            *last = 0;
        }
        let kept = kept(self.encode(), zerocopy::transmute!(*old));
        kept.ok_or_else(|| refused("has mount options of 60 bytes or more, so its superblock is not changed in place"))
    }

    /// Returns the bytes in which it is stored, unmounted, where `stored` is: with the spare bytes of that.
    pub(super) fn as_stored(self, stored: &Self) -> [u8; 1024] {
        let mut like = self.marked(false);
        if like.has_ro_compat(METADATA_CSUM) {
            let mounted = (&mut like.s_last_mounted, &stored.s_last_mounted, TEXT.saturating_sub(1));
            for (to, from, spare) in [mounted, (&mut like.s_mount_opts, &stored.s_mount_opts, TEXT)] {
                if let (Some(to), Some(from)) = (to.get_mut(spare..), from.get(spare..)) {
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
    use std::mem::offset_of;

    use super::{RawSuperblock, SECTOR, SUM, kept};
    use crate::fs::ext4::checksum::{CHECKSUM_START, crc32c};
    use crate::fs::ext4::feature::METADATA_CSUM;

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
        full[offset_of!(RawSuperblock, s_mount_opts)..][..64].fill(b'x');
        assert_eq!(kept(sealed(full), old), None);
    }

    #[test]
    fn a_long_mount_point_is_cut_and_long_mount_options_are_not() {
        let mut bytes = [0; 1024];
        bytes[offset_of!(RawSuperblock, s_magic)..][..2].copy_from_slice(&0xEF53_u16.to_le_bytes());
        bytes[offset_of!(RawSuperblock, s_last_mounted)..][..64].fill(b'x');
        let mut old: RawSuperblock = zerocopy::transmute!(bytes);
        old.s_feature_ro_compat.set(METADATA_CSUM);
        let old: RawSuperblock = zerocopy::transmute!(old.encode());
        let new = old.marked(true).encode_like(&old).unwrap();
        assert_eq!(new[SUM..], old.encode_like(&old).unwrap()[SUM..]);
        let stored: RawSuperblock = zerocopy::transmute!(new);
        assert_eq!(stored.s_last_mounted[..59], [b'x'; 59]);
        assert_eq!(stored.s_last_mounted[59], 0);
        assert_eq!(old.as_stored(&stored)[..SUM], stored.marked(false).encode()[..SUM]);
        let mut long = old;
        long.s_mount_opts.fill(b'x');
        long.s_overhead_blocks.set(7);
        assert!(long.encode_like(&old).is_err());
    }
}
