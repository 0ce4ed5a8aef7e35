//! Seed documents: what cloud-init reads, as a tree of files.
//!
//! A [`NoCloud`] or [`ConfigDrive`] describes what a guest is given; its `tree` has the files of the seed, which become an ISO
//! image or a folder inside the guest.

mod config_drive;
mod ec2;
mod error;
mod meta_data;
mod nocloud;
mod tree;
mod user_data;
mod yaml;

pub use config_drive::{ConfigDrive, DATED_VERSIONS, InjectedFile};
pub use error::Error;
pub use nocloud::{DsMode, NoCloud};
pub use tree::{Tree, TreeError};
pub use user_data::UserData;

/// The volume label by which a config drive is found.
pub const CONFIG_DRIVE_LABEL: &str = "config-2";
/// The volume label by which a NoCloud seed is found.
pub const NOCLOUD_LABEL: &str = "cidata";
