use super::error::refused;
use super::superblock::{RawSuperblock, STATE_VALID};
use crate::fs::Error;

/// Checks that the file system can be read.
///
/// # Errors
///
/// [`Error::Refused`] names the first feature in the way.
pub(super) fn check_readable(raw: &RawSuperblock) -> Result<(), Error> {
    if raw.has_incompat(RECOVER) {
        return Err(refused("was not unmounted: its journal has changes that are not replayed yet"));
    }
    check_known(raw)
}

/// Checks that the file system can be read once its journal has been replayed.
///
/// # Errors
///
/// As [`check_readable`].
pub(super) fn check_known(raw: &RawSuperblock) -> Result<(), Error> {
    refuse(raw.s_feature_incompat.get() & !(READABLE_INCOMPAT | RECOVER), INCOMPAT_NAMES)?;
    if raw.has_ro_compat(BIGALLOC) && !raw.has_incompat(EXTENTS) {
        return Err(refused("has the feature `bigalloc` without the feature `extent`, which is not supported"));
    }
    Ok(())
}

/// Checks that the file system can be changed, once its journal has been replayed and its orphans are gone.
///
/// # Errors
///
/// [`Error::Refused`] names the first feature or state in the way.
pub(super) fn check_writable(raw: &RawSuperblock) -> Result<(), Error> {
    check_known(raw)?;
    refuse(raw.s_feature_compat.get() & !WRITABLE_COMPAT, COMPAT_NAMES)?;
    refuse(raw.s_feature_ro_compat.get() & !(WRITABLE_RO_COMPAT | ORPHAN_PRESENT), RO_COMPAT_NAMES)?;
    if raw.s_creator_os.get() == OS_HURD {
        return Err(refused("was made by GNU/Hurd, whose inodes have other fields: changing it is not supported"));
    }
    if raw.s_state.get() != STATE_VALID {
        return Err(refused("is marked as having errors or as not unmounted: run e2fsck first"));
    }
    Ok(())
}

fn refuse(unknown: u32, names: &[(u32, &str)]) -> Result<(), Error> {
    if unknown == 0 {
        return Ok(());
    }
    let bit = 1_u32.checked_shl(unknown.trailing_zeros()).unwrap_or_default();
    let name = names.iter().find(|(value, _)| *value == bit);
    let name = name.map_or_else(|| format!("{bit:#x}"), |(_, name)| (*name).to_owned());
    Err(refused(format!("has the feature `{name}`, which is not supported")))
}

/// Spec: "Super Block", `s_creator_os`.
const OS_HURD: u32 = 1;

// Compatible features.
pub(super) const HAS_JOURNAL: u32 = 0x4;
pub(super) const EXT_ATTR: u32 = 0x8;
pub(super) const RESIZE_INODE: u32 = 0x10;
pub(super) const DIR_INDEX: u32 = 0x20;
pub(super) const SPARSE_SUPER2: u32 = 0x200;
/// The journal may end with commits of another kind, which only count when the journal is to be replayed.
const FAST_COMMIT: u32 = 0x400;
pub(super) const STABLE_INODES: u32 = 0x800;
pub(super) const ORPHAN_FILE: u32 = 0x1000;

// Incompatible features.
pub(super) const FILETYPE: u32 = 0x2;
pub(super) const RECOVER: u32 = 0x4;
pub(super) const META_BG: u32 = 0x10;
pub(super) const EXTENTS: u32 = 0x40;
pub(super) const BIT64: u32 = 0x80;
pub(super) const MMP: u32 = 0x100;
pub(super) const FLEX_BG: u32 = 0x200;
pub(super) const EA_INODE: u32 = 0x400;
pub(super) const CSUM_SEED: u32 = 0x2000;
pub(super) const LARGEDIR: u32 = 0x4000;
const INLINE_DATA: u32 = 0x8000;
/// Files may be encrypted; those that are have a flag.
const ENCRYPT: u32 = 0x10000;
/// Folders may be blind to case; those that are have a flag.
const CASEFOLD: u32 = 0x20000;

// Features that keep an older program from writing.
pub(super) const SPARSE_SUPER: u32 = 0x1;
pub(super) const LARGE_FILE: u32 = 0x2;
pub(super) const HUGE_FILE: u32 = 0x8;
pub(super) const GDT_CSUM: u32 = 0x10;
pub(super) const DIR_NLINK: u32 = 0x20;
pub(super) const EXTRA_ISIZE: u32 = 0x40;
/// Files of the file system's own count what users, groups and projects have.
pub(super) const QUOTA: u32 = 0x100;
/// The block bitmaps count clusters, which are several blocks each.
pub(super) const BIGALLOC: u32 = 0x200;
pub(super) const METADATA_CSUM: u32 = 0x400;
/// Inodes have a project.
pub(super) const PROJECT: u32 = 0x2000;
const VERITY: u32 = 0x8000;
pub(super) const ORPHAN_PRESENT: u32 = 0x10000;

const READABLE_INCOMPAT: u32 =
    FILETYPE | META_BG | EXTENTS | BIT64 | MMP | FLEX_BG | EA_INODE | CSUM_SEED | LARGEDIR | INLINE_DATA | ENCRYPT | CASEFOLD;
const WRITABLE_COMPAT: u32 =
    HAS_JOURNAL | EXT_ATTR | RESIZE_INODE | DIR_INDEX | SPARSE_SUPER2 | FAST_COMMIT | STABLE_INODES | ORPHAN_FILE;
const WRITABLE_RO_COMPAT: u32 = SPARSE_SUPER
    | LARGE_FILE
    | HUGE_FILE
    | GDT_CSUM
    | DIR_NLINK
    | EXTRA_ISIZE
    | QUOTA
    | BIGALLOC
    | METADATA_CSUM
    | PROJECT
    | VERITY;

/// Spec: "Super Block", compatible features.
const COMPAT_NAMES: &[(u32, &str)] =
    &[(0x1, "dir_prealloc"), (0x2, "imagic_inodes"), (0x40, "lazy_bg"), (0x80, "exclude_inode"), (0x100, "exclude_bitmap")];

/// Spec: "Super Block", incompatible features.
const INCOMPAT_NAMES: &[(u32, &str)] = &[(0x1, "compression"), (0x8, "journal_dev"), (0x1000, "dirdata")];

/// Spec: "Super Block", read-only compatible features.
const RO_COMPAT_NAMES: &[(u32, &str)] =
    &[(0x4, "btree_dir"), (0x80, "has_snapshot"), (0x800, "replica"), (0x1000, "read-only"), (0x4000, "shared_blocks")];
