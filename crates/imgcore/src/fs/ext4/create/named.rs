use super::super::feature::{
    BIT64, CSUM_SEED, DIR_INDEX, DIR_NLINK, EA_INODE, EXT_ATTR, EXTENTS, EXTRA_ISIZE, FILETYPE, FLEX_BG, GDT_CSUM, HAS_JOURNAL,
    HUGE_FILE, LARGE_FILE, LARGEDIR, METADATA_CSUM, ORPHAN_FILE, RESIZE_INODE, SPARSE_SUPER, STABLE_INODES,
};
use super::CreateOptions;

/// Why a change of features is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// There is no such feature, or none that new file systems can have here.
    #[error("the feature `{0}` is not one that a new file system can be given")]
    Unknown(String),
}

impl CreateOptions {
    /// Turns features on, and off where their name has a `^` before it; `none` turns all off. The names are those of ext4(5), with
    /// commas between them.
    ///
    /// # Errors
    ///
    /// [`FeatureError::Unknown`] names the first that is not known.
    pub fn set_features(&mut self, words: &str) -> Result<(), FeatureError> {
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if word == "none" {
                (self.compat, self.incompat, self.ro_compat) = (0, 0, 0);
                continue;
            }
            let (name, on) = word.strip_prefix('^').map_or((word, true), |name| (name, false));
            let (_, mask, bit) =
                NAMES.iter().find(|(known, ..)| *known == name).ok_or_else(|| FeatureError::Unknown(name.to_owned()))?;
            let features = match mask {
                Mask::Compat => &mut self.compat,
                Mask::Incompat => &mut self.incompat,
                Mask::RoCompat => &mut self.ro_compat,
            };
            *features = if on { *features | bit } else { *features & !bit };
        }
        // The stronger checksums take the place of the others, and the stored seed is theirs.
        if self.ro_compat & METADATA_CSUM != 0 {
            self.ro_compat &= !GDT_CSUM;
        } else {
            self.incompat &= !CSUM_SEED;
        }
        Ok(())
    }
}

/// Which of the three sets a feature is in.
#[derive(Clone, Copy, Debug)]
enum Mask {
    Compat,
    Incompat,
    RoCompat,
}

/// Spec: ext4(5), "FILE SYSTEM FEATURES".
const NAMES: &[(&str, Mask, u32)] = &[
    ("has_journal", Mask::Compat, HAS_JOURNAL),
    ("ext_attr", Mask::Compat, EXT_ATTR),
    ("resize_inode", Mask::Compat, RESIZE_INODE),
    ("dir_index", Mask::Compat, DIR_INDEX),
    ("stable_inodes", Mask::Compat, STABLE_INODES),
    ("orphan_file", Mask::Compat, ORPHAN_FILE),
    ("filetype", Mask::Incompat, FILETYPE),
    ("extent", Mask::Incompat, EXTENTS),
    ("extents", Mask::Incompat, EXTENTS),
    ("64bit", Mask::Incompat, BIT64),
    ("flex_bg", Mask::Incompat, FLEX_BG),
    ("ea_inode", Mask::Incompat, EA_INODE),
    ("metadata_csum_seed", Mask::Incompat, CSUM_SEED),
    ("large_dir", Mask::Incompat, LARGEDIR),
    ("sparse_super", Mask::RoCompat, SPARSE_SUPER),
    ("large_file", Mask::RoCompat, LARGE_FILE),
    ("huge_file", Mask::RoCompat, HUGE_FILE),
    ("uninit_bg", Mask::RoCompat, GDT_CSUM),
    ("dir_nlink", Mask::RoCompat, DIR_NLINK),
    ("extra_isize", Mask::RoCompat, EXTRA_ISIZE),
    ("metadata_csum", Mask::RoCompat, METADATA_CSUM),
];

#[cfg(test)]
mod tests {
    use super::super::{Kind, Release};
    use super::{CreateOptions, FeatureError, METADATA_CSUM};
    use crate::fs::ext4::Timestamp;

    #[test]
    fn features_are_turned_on_and_off_by_name() {
        let mut options = CreateOptions::new(Kind::Ext4, Release::Debian13, 1 << 30, [1; 16], [2; 16], Timestamp::default());
        assert!(options.ro_compat & METADATA_CSUM != 0);
        options.set_features("^metadata_csum, uninit_bg").unwrap();
        assert!(options.ro_compat & METADATA_CSUM == 0);
        let unknown = FeatureError::Unknown("bigalloc".to_owned());
        assert_eq!(options.set_features("^extent,bigalloc"), Err(unknown));
        options.set_features("none").unwrap();
        assert_eq!((options.compat, options.incompat, options.ro_compat), (0, 0, 0));
    }
}
