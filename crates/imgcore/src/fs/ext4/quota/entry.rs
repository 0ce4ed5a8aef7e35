use std::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Usage;

/// What a quota file has on one id.
///
/// Spec: `struct v2r1_disk_dqblk`.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Unaligned)]
#[repr(C)]
pub(super) struct RawEntry {
    pub(super) dqb_id: U32,
    dqb_pad: U32,
    dqb_ihardlimit: U64,
    dqb_isoftlimit: U64,
    dqb_curinodes: U64,
    /// In units of 1024 bytes.
    dqb_bhardlimit: U64,
    dqb_bsoftlimit: U64,
    /// In bytes.
    dqb_curspace: U64,
    dqb_btime: U64,
    dqb_itime: U64,
}

const _: () = {
    assert!(size_of::<RawEntry>() == ENTRY);
    assert!(offset_of!(RawEntry, dqb_curinodes) == 24);
    assert!(offset_of!(RawEntry, dqb_curspace) == 48);
};

impl RawEntry {
    /// Returns an entry without limits and usage.
    pub(super) fn new(id: u32) -> Self {
        let mut entry: Self = zerocopy::transmute!([0_u8; ENTRY]);
        entry.dqb_id.set(id);
        entry
    }

    /// Returns the entry of root when it has no usage and no limits.
    fn mark() -> Self {
        Self { dqb_itime: U64::new(1), ..Self::new(0) }
    }

    pub(super) fn usage(&self) -> Usage {
        Usage { space: self.dqb_curspace.get().into(), inodes: self.dqb_curinodes.get().into() }
    }

    /// Changes the usage, which is never below zero, and ends a time of grace with its cause. Limits stay and are not heeded, since
    /// what is written here is written as root.
    ///
    /// Spec: "An user can never exceed a hardlimit for any resource (unless he has CAP_SYS_RESOURCE capability)."
    pub(super) fn change(&mut self, change: Usage) {
        // One of root without usage and limits is not all zeros, or it would be unused.
        if *self == Self::mark() {
            self.dqb_itime.set(0);
        }
        let clamped = |value: i128| u64::try_from(value.max(0)).unwrap_or(u64::MAX);
        let usage = self.usage().plus(change);
        self.dqb_curspace.set(clamped(usage.space));
        self.dqb_curinodes.set(clamped(usage.inodes));
        // Spec: "When grace time is over, user is not able to allocate more space/inodes until he frees enough of them to get
        // below softlimit." The kernel starts that time when it enforces limits, so it is not started here.
        let soft_space = i128::from(self.dqb_bsoftlimit.get()).saturating_mul(1024);
        if change.space < 0 && usage.space <= soft_space {
            self.dqb_btime.set(0);
        }
        if change.inodes < 0 && usage.inodes <= i128::from(self.dqb_isoftlimit.get()) {
            self.dqb_itime.set(0);
        }
    }

    /// Returns whether nothing is lost without it: no usage and no limit, as the kernel drops those.
    pub(super) fn is_idle(&self) -> bool {
        let limits = [self.dqb_ihardlimit, self.dqb_isoftlimit, self.dqb_bhardlimit, self.dqb_bsoftlimit];
        self.usage() == Usage::default() && limits.iter().all(|limit| limit.get() == 0)
    }
}

/// Bytes of an entry.
pub(super) const ENTRY: usize = 72;
