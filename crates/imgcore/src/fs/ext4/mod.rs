//! ext4: a reader, an editor whose changes are staged, and a verifier.
//!
//! ```text
//! bytes of the disk
//! 0        1024          2048 or a block                                                          the end
//! | unused | superblock  | group descriptors | reserved | bitmaps | inode tables | data ... | group 1 ... |
//!
//! path -> folder's inode -> its extents -> its blocks: | record | record | ... | tail |
//!           -> the name's inode number -> group, index -> | inode, 128 bytes | fields | extended attributes |
//!                                                            |-> extents -> contents
//! ```
//!
//! Everything is little-endian and guarded by a crc32c where the file system has `metadata_csum`. Numbers from the disk are
//! checked before they are used: hostile bytes give an error, never a panic, an endless loop or an unbounded allocation.
//!
//! Spec: the kernel's `Documentation/filesystems/ext4/`.

mod acl;
mod bitmap;
mod blockmap;
mod budget;
mod checksum;
mod cluster;
mod commit;
mod create;
mod dirent;
mod edit;
mod error;
mod extent;
mod feature;
mod files;
mod group;
mod grow;
mod hash;
mod inline;
mod inode;
mod journal;
mod layout;
mod mmp;
mod names;
mod node;
mod own;
mod quota;
mod reader;
mod resolve;
mod store;
mod superblock;
mod survey;
mod verify;
mod view;
mod volume;
mod walk;
mod xattr;

pub use commit::Commit;
pub use create::{CreateOptions, FeatureError, Kind, Release, create};
pub use edit::Editor;
pub use files::{OpenFile, Space};
pub use grow::{Growth, grow, grow_to};
pub use reader::Ext4;
pub use verify::verify;

/// A moment: seconds since 1970, which may be negative, and nanoseconds, below one billion.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub secs: i64,
    /// Nanoseconds after that second.
    pub nanos: u32,
}
